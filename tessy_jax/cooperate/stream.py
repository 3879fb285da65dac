"""The schedule `stream`: one forward pass at a time, of the model for which more rows wait.

In a pass rows read what their model has not read yet, and those that have read all get a token. So a row that changes
hands catches up and goes on in the same pass, a word is judged as soon as it is complete, and a model that few rows
wait for does not run for them alone (docs/algorithm.md: Schedules).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from tessy_jax.cooperate.decode import Feed
from tessy_jax.cooperate.judge import Judged, PaperBoundary, Verdict
from tessy_jax.cooperate.params import Params, RoleParams
from tessy_jax.cooperate.state import Finish, Phase, State
from tessy_jax.cooperate.turn import Carry, RoleCaches, Turn, WorkCount

PATIENCE = 16
"""Rounds that a row waits at most for its pass or, about, for the host: others may write for thousands."""


class PassShape(NamedTuple):
    """Places of a compiled pass: for so many rows, each with so many tokens."""

    rows: int
    width: int


class Policy(Protocol):
    """Which pass is next. No record depends on it."""

    def start(self) -> Any:
        """What it knows before the first pass of a dispatch: a pytree of arrays."""
        ...

    def choose(self, served: Float[Array, " P"], memory: Any) -> tuple[Int[Array, ""], Any]:
        """The index of the next pass, and what it knows then.

        Args:
            served: rows that each pass would serve, each by how far it is behind the others. 0: do not choose it.
        """
        ...


@dataclass(frozen=True)
class FullestPass:
    """The pass that serves most rows for what it costs; one that was passed over for too long comes first.

    Attributes:
        costs: of each pass, in any unit; `engine.build` says how dear a model's are.
        groups: passes of one number serve the same rows.
        patience: rounds that rows wait at most.
    """

    costs: tuple[float, ...]
    groups: tuple[int, ...]
    patience: int = PATIENCE

    def start(self) -> Int[Array, " P"]:
        """For how many rounds each pass was passed over."""
        return jnp.zeros(len(self.costs), jnp.int32)

    def choose(self, served: Float[Array, " P"], memory: Int[Array, " P"]) -> tuple[Int[Array, ""], Int[Array, " P"]]:
        """See `Policy.choose`."""
        worth = served / np.array(self.costs, np.float32)
        overdue = (memory >= self.patience) & (served > 0)
        best = jnp.argmax(jnp.where(jnp.any(overdue), jnp.where(overdue, worth, 0), worth))
        groups = jnp.array(self.groups)
        return best, jnp.where((served > 0) & (groups != groups[best]), memory + 1, 0)


class Places(NamedTuple):
    """The rows for which a model can run: those that have several tokens to read, and those that have one."""

    behind: Bool[Array, " B"]
    ready: Bool[Array, " B"]

    def of(self, shape: PassShape) -> "Places":
        """Those that a pass of this shape feeds: one of single tokens would keep the rows that are behind waiting."""
        return self._replace(behind=self.behind & (shape.width > 1))

    def served(self, shape: PassShape, weights: Float[Array, " B"], ways: int) -> Float[Array, ""]:
        """The rows that a pass of this shape serves, by weight; of more than it has places for, their share.

        A pass of several tokens in which nobody is behind serves none: there is a cheaper one.
        """
        room, served = jnp.full(ways, shape.rows // ways), jnp.zeros(ways)
        for rows in self:
            number = jnp.sum(rows.reshape(ways, -1), axis=1)
            taken = jnp.minimum(number, room)
            weight = jnp.sum(jnp.where(rows, weights, 0).reshape(ways, -1), axis=1)
            room, served = room - taken, served + weight * taken / jnp.maximum(number, 1)
        useful = jnp.any(self.behind.reshape(ways, -1), axis=1) | (shape.width == 1)
        return jnp.sum(jnp.where(useful, served, 0))

    def slots(self, shape: PassShape, count: Int[Array, ""] | int, ways: int) -> Int[Array, " P"]:
        """The rows that get a place, those that are behind first, by turns (`count`: of the round); each part of the
        batch its own. Numbers beyond the batch fill them up.
        """
        batch = len(self.ready)
        local = jnp.arange(batch).reshape(ways, -1)
        size = local.shape[1]
        turn = (local % size + count) % size
        first, then = (rows.reshape(ways, -1) for rows in self)
        rank = jnp.where(first, turn, jnp.where(then, size + turn, 2 * size))
        order = jnp.argsort(rank, axis=1)[:, : shape.rows // ways]
        return jnp.take_along_axis(jnp.where(rank < 2 * size, local, batch), order, axis=1).reshape(-1)


LAG = 3
"""Tokens by which a row is behind the others where it counts e times as much as one that is not; e**3 times at most."""


def lag_weights(tokens: Int[Array, " B"], going_on: Bool[Array, " B"]) -> Float[Array, " B"]:
    """How much each row counts where no other takes its slot: rows that have fewer `tokens` more, so that all are done
    at about the same time and the last passes are not for one of them (docs/benchmarks.md: The least number of passes).
    """
    mean = jnp.sum(jnp.where(going_on, tokens, 0)) / jnp.maximum(1, jnp.sum(going_on))
    return jnp.exp(jnp.clip((mean - tokens) / LAG, -3, 3))


class _Pass(NamedTuple):
    """A pass that could be next: whose, of which shape, and for which rows."""

    turn: Turn
    shape: PassShape
    places: Places


@dataclass(frozen=True, eq=False)
class StreamSchedule:
    """In every round one pass of one model, then whatever is due: words judged, spans ended, text handed over.

    until the dispatch ends:
        the fullest pass:                               read, and write a token where all is read
        for role in (student, teacher):
            judge complete words, and those that are lost; cut, roll back, switch     if enough rows have some
        for role in (student, teacher):
            hand over                                                                 if enough rows wait for text

    Attributes:
        turns: by role, whose parts are used here.
        shapes: compiled for each model. The first holds all rows with one token each.
        policy: which pass is next; passes are numbered by role, then by shape.
        ways: parts that the batch is split into on the mesh; each takes its share of a pass's rows.
        visit: rows for which the host is asked, at least; in every 16th round, and where no pass can run, one will do.
        tokens_per_turn: what a turn of Algorithm 1 may write, both roles together: for so many rounds a turn counts.
    """

    turns: tuple[Turn, ...]
    shapes: tuple[PassShape, ...]
    policy: Policy
    ways: int
    visit: int
    tokens_per_turn: int

    def rounds(self, turns: int) -> int:
        """Rounds that make up so many turns of both roles."""
        return turns * self.tokens_per_turn

    def spans(self, turns: int) -> int:
        """Spans of one row that may end in so many rounds; a dispatch ends where there are more."""
        return self.rounds(turns) // 2 + 2

    def start(self, replaced: Bool[Array, ""]) -> Any:
        """What the policy knows before the first round of a dispatch, how many rounds there were, and whether rows are
        `replaced`: then the slowest keep nobody waiting, and all count the same.
        """
        return self.policy.start(), jnp.zeros((), jnp.int32), replaced

    def round(self, params: Params, carry: Carry, work: WorkCount, memory: Any) -> tuple[Carry, WorkCount, Any]:
        """One pass, and what it has brought."""
        known, count, replaced = memory
        for turn in self.turns:
            room = carry.caches[turn.role].model.room()
            carry = carry.replace(state=turn.wait_for_room(carry.state, room, 1))

        # The next pass; none where all rows wait for the host.
        state = carry.state
        places = [self._places(turn, state) for turn in self.turns]
        passes = [_Pass(turn, shape, places[turn.role].of(shape)) for turn in self.turns for shape in self.shapes]
        weights = jnp.where(replaced, 1.0, lag_weights(state.tokens, state.going_on()))
        served = jnp.stack([each.places.served(each.shape, weights, self.ways) for each in passes])
        chosen, known = self.policy.choose(served, known)
        useful = served[chosen] > 0

        # One condition after the other: XLA copies the caches where a switch has many branches.
        for number, each in enumerate(passes):
            run = self._run(params, each, count)
            carry, work = lax.cond(useful & (chosen == number), run, lambda both: both, (carry, work))

        now = ~jnp.any(served > 0) | (count % PATIENCE == 0)
        for turn in self.turns:
            state, caches, work = self._end_spans(turn, params.of(turn.role), carry, work, now)
            carry = carry.with_role(turn.role, state, caches)
        for turn in self.turns:  # whose span has ended just now gets its text in this round, whichever role is next
            carry = carry.replace(state=self._hand_over(turn, carry.state, now))
        return carry, work, (known, count + 1, replaced)

    # -- passes --------------------------------------------------------------------------------------------------------

    def _places(self, turn: Turn, state: State) -> Places:
        """The rows for which the model of `turn` can run: they wait for no text and no judgement."""
        stream = state.streams[turn.role]
        open_ = turn.generate.writing(state) & ~self._without_text(turn, state) & ~self._unjudged(turn, state)
        behind = open_ & (stream.n - stream.cached > 1)
        return Places(behind, open_ & ~behind)

    def _run(self, params: Params, of: _Pass, count: Int[Array, ""]) -> Any:
        role, shape = of.turn.role, of.shape

        def run(both: tuple[Carry, WorkCount]) -> tuple[Carry, WorkCount]:
            carry, work = both
            state, caches, own = carry.state, carry.caches[role], params.of(role)
            whole = shape.rows == len(of.places.ready)
            slots = None if whole else of.places.slots(shape, count, self.ways)
            feed = Feed(of.places.behind | of.places.ready, shape.width, slots)
            model = nnx.merge(of.turn.generate.graph, own.model)
            with jax.named_scope("generate" if shape.width == 1 else "catch_up"):
                after, cache = of.turn.generate.decode(model, own, state, caches.model, feed)
            before, stream = state.streams[role], after.streams[role]
            work += WorkCount.of(
                role,
                **{"decodes" if shape.width == 1 else "chunks": 1},
                turns=1,
                sampled=jnp.sum(stream.n - before.n),
                rows=shape.rows,
                places=shape.rows * shape.width,
                reading=jnp.sum(feed.fed() & (stream.cached < before.n)),
            )
            return carry.with_role(role, after, RoleCaches(cache, caches.predictor)), work

        return run

    # -- what a pass has brought ---------------------------------------------------------------------------------------

    def _without_text(self, turn: Turn, state: State) -> Bool[Array, " B"]:
        """The rows that the model cannot go on with before it has the text in its tokens."""
        stream = state.streams[turn.role]
        behind = ~state.answering() & (stream.covered != state.span_start)
        return state.whose_turn(turn.role) & (behind | (state.phase == Phase.CLOSING))

    def _unjudged(self, turn: Turn, state: State) -> Bool[Array, " B"]:
        """The rows that have something to judge; they do not go on before it is judged."""
        return state.whose_turn(turn.role) & state.unjudged & _boundary(turn).has_words(state)

    def _end_spans(
        self, turn: Turn, params: RoleParams, carry: Carry, work: WorkCount, now: Bool[Array, ""]
    ) -> tuple[State, RoleCaches, WorkCount]:
        """Lines 5 to 9 of Algorithm 1: where enough rows have a word to judge, or any has and it is to be done `now`:
        no pass can run, or they have waited for long.
        """
        state, caches = carry.state, carry.caches[turn.role]
        boundary = _boundary(turn)

        # Predict the boundary, and keep what is before it.
        rows = self._unjudged(turn, state)
        due = _enough(rows, self.visit if boundary.asks_host else 1, now)
        with jax.named_scope("judge"):
            judged = lax.cond(due, lambda s, c: boundary.judge(params, s, c, rows), _unchanged, state, caches.predictor)
        state = judged.state.replace(unjudged=judged.state.unjudged & ~(rows & due))

        # A word that is sure to be rejected ends the span as well: the rest of it is not waited for.
        verdict = judged.verdict
        lost = rows & due & ~verdict.over & (verdict.finish == Finish.NONE) & boundary.lost(state)
        verdict = verdict._replace(over=verdict.over | lost, switch=verdict.switch | lost)
        state = boundary.note_lost(state, lost)

        # Cut there, roll back what is behind it, switch.
        state = turn.end_spans(state, state.whose_turn(turn.role), verdict)
        work += WorkCount.of(turn.role, judged=judged.passes)
        return state, RoleCaches(caches.model, judged.cache), work

    def _hand_over(self, turn: Turn, state: State, now: Bool[Array, ""]) -> State:
        """Line 3 of Algorithm 1: where enough rows go on with the role and wait for the text, or any does `now`."""
        rows = self._without_text(turn, state)
        due = _enough(rows, self.visit if not turn.hand_over.same_vocab else 1, now)
        with jax.named_scope("hand_over"):
            return lax.cond(due, turn.hand_over, lambda s: s, state)


def _boundary(turn: Turn) -> PaperBoundary:
    assert isinstance(turn.boundary, PaperBoundary), "preset `released_code` judges whole turns"
    return turn.boundary


def _enough(rows: Bool[Array, " B"], least: int, now: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether so many rows wait, or any at all and it is to be done now."""
    return (jnp.sum(rows) >= least) | (jnp.any(rows) & now)


def _unchanged(state: State, cache: Any) -> Judged:
    nobody, nothing = jnp.zeros_like(state.unjudged), jnp.zeros_like(state.kept)
    verdict = Verdict(nobody, nobody, jnp.full_like(nothing, Finish.NONE), nothing)
    return Judged(state, cache, verdict, jnp.zeros((), jnp.int32))
