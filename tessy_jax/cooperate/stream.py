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

    What a model costs is left out on purpose: where the dear one waits for more rows, the cheap one writes for few.
    Simulated, with 12 and 32 rows and a student that costs 1.0, 0.3 and 0.1 of its teacher: weights by cost save 4 % at
    best and lose 37 % at worst.

    Attributes:
        costs: of each pass, in any unit. Places should count little: with 1/24 of a pass for each, as a CPU computes,
            small passes are taken too often, and 0.26 are made for a kept token; with 1/96 (of 12 rows) 0.20.
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


class _Places(NamedTuple):
    """The rows that a pass of one role feeds: those that are behind by more than a token, and those by one."""

    behind: Bool[Array, " B"]
    ready: Bool[Array, " B"]


@dataclass(frozen=True, eq=False)
class StreamSchedule:
    """In every round one pass of one model, then whatever is due: words judged, spans ended, text handed over.

    until the dispatch ends:
        the fullest pass:                               read, and write a token where all is read
        for role in (student, teacher):
            judge complete words, and those that are lost; cut, roll back, switch     if enough rows have some
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

    def start(self) -> Any:
        """What the policy knows before the first round of a dispatch, and how many rounds there were."""
        return self.policy.start(), jnp.zeros((), jnp.int32)

    def round(self, params: Params, carry: Carry, work: WorkCount, memory: Any) -> tuple[Carry, WorkCount, Any]:
        """One pass, and what it has brought."""
        known, count = memory
        for turn in self.turns:
            room = carry.caches[turn.role].model.room()
            carry = carry.replace(state=turn.wait_for_room(carry.state, room, 1))

        # The next pass; none where all rows wait for the host.
        places = [self._places(turn, carry.state) for turn in self.turns]
        weights = lag_weights(carry.state)
        served = jnp.stack([self._served(each, weights, shape) for each in places for shape in self.shapes])
        any_ = jnp.any(served > 0)
        chosen, known = self.policy.choose(served, known)
        index = jnp.where(any_ & (served[chosen] > 0), chosen, len(served))
        # One condition after the other: XLA copies the caches where a switch has many branches.
        numbered = enumerate((turn, shape) for turn in self.turns for shape in self.shapes)
        for number, (turn, shape) in numbered:
            run = self._pass(params, turn, places[turn.role], shape, count)
            carry, work = lax.cond(index == number, run, lambda both: both, (carry, work))

        for turn in self.turns:
            state, caches, work = self._settle(turn, params.of(turn.role), carry, work, ~any_ | (count % PATIENCE == 0))
            carry = carry.with_role(turn.role, state, caches)
        return carry, work, (known, count + 1)

    # -- passes --------------------------------------------------------------------------------------------------------

    def _places(self, turn: Turn, state: State) -> _Places:
        """The rows for which the model of `turn` can run: they wait for no text and no judgement."""
        stream = state.streams[turn.role]
        open_ = turn.generate.writing(state) & ~self._without_text(turn, state) & ~self._unjudged(turn, state)
        behind = open_ & (stream.n - stream.cached > 1)
        return _Places(behind, open_ & ~behind)

    def _served(self, places: _Places, weights: Float[Array, " B"], shape: PassShape) -> Float[Array, ""]:
        """The rows that a pass of this shape would serve, by weight; of more than it has places for, their share."""
        each = shape.rows // self.ways

        def of_parts(rows: Bool[Array, " B"], room: Int[Array, " W"] | int) -> tuple[Array, Array]:
            number = jnp.sum(rows.reshape(self.ways, -1), axis=1)
            taken = jnp.minimum(number, room)
            weight = jnp.sum(jnp.where(rows, weights, 0).reshape(self.ways, -1), axis=1)
            return taken, weight * taken / jnp.maximum(number, 1)

        if shape.width == 1:
            return jnp.sum(of_parts(places.ready, each)[1])
        first, served = of_parts(places.behind, each)
        return jnp.sum(jnp.where(first > 0, served + of_parts(places.ready, each - first)[1], 0))

    def _slots(self, places: _Places, shape: PassShape, count: Int[Array, ""]) -> Int[Array, " P"]:
        """The rows that get a place: those that are behind first, by turns; each part of the batch its own."""
        batch = len(places.ready)
        local = jnp.arange(batch).reshape(self.ways, -1)
        size = local.shape[1]
        turn = (local % size + count) % size
        first, then = (rows.reshape(self.ways, -1) for rows in places)
        if shape.width == 1:
            first, then = then, jnp.zeros_like(then)
        rank = jnp.where(first, turn, jnp.where(then, size + turn, 2 * size))
        order = jnp.argsort(rank, axis=1)[:, : shape.rows // self.ways]
        chosen = jnp.take_along_axis(jnp.where(rank < 2 * size, local, batch), order, axis=1)
        return chosen.reshape(-1)

    def _pass(self, params: Params, turn: Turn, places: _Places, shape: PassShape, count: Int[Array, ""]) -> Any:
        def run(both: tuple[Carry, WorkCount]) -> tuple[Carry, WorkCount]:
            carry, work = both
            role, batch = turn.role, len(places.ready)
            state, caches, own = carry.state, carry.caches[role], params.of(role)
            rows = places.ready if shape.width == 1 else places.ready | places.behind
            slots = None if shape.rows == batch else self._slots(places, shape, count)
            feed = Feed(rows, shape.width, slots)
            model = nnx.merge(turn.generate.graph, own.model)
            with jax.named_scope("generate" if shape.width == 1 else "catch_up"):
                after, cache = turn.generate.decode(model, own, state, caches.model, feed)
            fed = feed.fed()
            wrote = jnp.sum(after.unjudged & (after.streams[role].cached == state.streams[role].n) & fed)
            work += WorkCount.of(
                role,
                **{"decodes" if shape.width == 1 else "chunks": 1},
                turns=1,
                sampled=jnp.sum(after.streams[role].n - state.streams[role].n),
                rows=shape.rows,
                places=shape.rows * shape.width,
                reading=jnp.sum(fed) - wrote,
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

    def _settle(
        self, turn: Turn, params: RoleParams, carry: Carry, work: WorkCount, now: Bool[Array, ""]
    ) -> tuple[State, RoleCaches, WorkCount]:
        """Lines 5 to 9 of Algorithm 1, and line 3 for those who are next: where enough rows have something for it, or
        any has and it is to be done `now`: no pass can run, or they have waited for long.
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

        # Cut there, roll back what is behind it, switch.
        state = turn.end_spans(state, state.whose_turn(turn.role), verdict)

        # Whoever goes on gets the text.
        rows = self._without_text(turn, state)
        due = _enough(rows, self.visit if not turn.hand_over.same_vocab else 1, now)
        with jax.named_scope("hand_over"):
            state = lax.cond(due, turn.hand_over, lambda s: s, state)
        work += WorkCount.of(turn.role, judged=judged.passes)
        return state, RoleCaches(caches.model, judged.cache), work


LAG = 40
"""Bytes by which a row is behind the others where it counts e times as much as one that is not; e**3 times at most."""


def lag_weights(state: State) -> Float[Array, " B"]:
    """How much each row counts: rows that are behind more, so that all are done at about the same time and the last
    passes are not for one of them. With 12 rows that are alike, simulated: 0.19 passes for a kept token, 0.26 if all
    count the same; in the demo, whose rows are not, 0.279 and 0.286.
    """
    going_on = state.going_on()
    mean = jnp.sum(jnp.where(going_on, state.written, 0)) / jnp.maximum(1, jnp.sum(going_on))
    return jnp.exp(jnp.clip((mean - state.written) / LAG, -3, 3))


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
