"""A turn, and the schedule of Algorithm 1: student and teacher take turns until the rows are done."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import lax
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.decode import Generator
from tessy_jax.cooperate.handover import HandOver
from tessy_jax.cooperate.judge import Boundary, Verdict
from tessy_jax.cooperate.params import Params, RoleParams
from tessy_jax.cooperate.state import Finish, Phase, Role, State
from tessy_jax.cooperate.streams import accept_sampled, catch_up
from tessy_jax.text_jax.arrays import Leaf, pick, replace_at


class WorkCount(struct.PyTreeNode):
    """Work since the host last looked, by role.

    Attributes:
        chunks: forward passes in which rows catch up, several tokens each. decodes: those of one token a row.
        sampled: tokens generated.
        turns: turns, or passes where the schedule knows no turns.
        judged: passes of the predictor's model.
        rows, places: of these rows, and tokens, all forward passes together are, padding included.
        reading: how many of the rows only caught up in their pass. The others wrote, or were padding.
    """

    chunks: Int[Leaf, " 2"]
    decodes: Int[Leaf, " 2"]
    sampled: Int[Leaf, " 2"]
    turns: Int[Leaf, " 2"]
    judged: Int[Leaf, " 2"]
    rows: Int[Leaf, " 2"]
    places: Int[Leaf, " 2"]
    reading: Int[Leaf, " 2"]

    @classmethod
    def filled(cls, value: Any) -> "WorkCount":
        """The same value for every kind of work."""
        return cls(**dict.fromkeys(cls.__dataclass_fields__, value))

    @classmethod
    def zero(cls) -> "WorkCount":
        return cls.filled(jnp.zeros(2, jnp.int32))

    @classmethod
    def of(cls, role: Role, **counts: Int[Array, ""] | int) -> "WorkCount":
        """The work of one role; what is not given is 0."""
        return cls.zero().replace(**{name: (jnp.arange(2) == role) * jnp.int32(n) for name, n in counts.items()})

    def __add__(self, other: "WorkCount") -> "WorkCount":
        return jax.tree.map(jnp.add, self, other)


class RoleCaches(NamedTuple):
    """What one role's model and its predictor remember of the rows."""

    model: Any
    predictor: Any


class CaughtUp(NamedTuple):
    """The rows and the model's cache after so many passes of catch-up, in which so many rows together were fed."""

    state: State
    cache: Any
    passes: Int[Array, ""]
    rows: Int[Array, ""]


class Carry(struct.PyTreeNode):
    """Everything that the loop writes: the rows, and by role the caches."""

    state: State
    caches: tuple[RoleCaches, ...]

    def with_role(self, role: Role, state: State, caches: RoleCaches) -> "Carry":
        """After a turn of `role`."""
        return Carry(state, replace_at(self.caches, role, caches))


@dataclass(frozen=True, eq=False)
class Turn:
    """One role's turn. Everything in here is static; arrays come in as arguments.

    Attributes:
        hand_over: gives the model what is new in the text.
        generate: how the model writes.
        boundary: what is kept of a thinking span.
        reject_unfinished: whether a row that spends its thinking budget, or loops, is rejected; else its thinking is
            closed.
        chunk: tokens per forward pass when the model catches up.
    """

    role: Role
    hand_over: HandOver
    generate: Generator
    boundary: Boundary
    reject_unfinished: bool
    chunk: int

    def __call__(
        self, params: RoleParams, state: State, caches: RoleCaches, work: WorkCount
    ) -> tuple[State, RoleCaches, WorkCount]:
        """Lines 3 to 9 of Algorithm 1 (docs/algorithm.md), for all rows whose turn it is."""
        # The text so far, in this model's tokens and in its cache.
        with jax.named_scope("hand_over"):
            state = self.hand_over(state)
        state = self.wait_for_room(state, caches.model.room(), self.generate.k)
        with jax.named_scope("catch_up"):
            caught_up = self.catch_up(params, state, caches.model)

        # Generate up to k tokens.
        with jax.named_scope("generate"):
            state, before = caught_up.state, caught_up.state.streams[self.role].n
            state, cache, steps = self.generate(params, state, caught_up.cache)
            sampled = jnp.sum(state.streams[self.role].n - before)

        # Predict the boundary, and keep what is before it.
        rows = state.whose_turn(self.role)
        with jax.named_scope("judge"):
            judged = self.boundary.judge(params, state, caches.predictor, rows)

        # Cut there, roll back what is behind it, switch.
        state = judged.state.replace(unjudged=judged.state.unjudged & ~rows)
        state = self.end_spans(state, rows, judged.verdict)
        work += WorkCount.of(
            self.role,
            chunks=caught_up.passes,
            decodes=steps,
            sampled=sampled,
            turns=1,
            judged=judged.passes,
            rows=len(rows) * (caught_up.passes + steps),
            places=len(rows) * (caught_up.passes * self.chunk + steps),
            reading=caught_up.rows,
        )
        return state, RoleCaches(cache, judged.cache), work

    def wait_for_room(self, state: State, room: Int[Array, " B"] | int, more: int) -> State:
        """Rows for whose next tokens, `more` at most, the model's cache has no slots wait until the host gives them
        some. One that has all slots of a row goes on to where its buffers are full.
        """
        stream = state.streams[self.role]
        short = jnp.minimum(stream.n + more, stream.tokens.shape[1]) > room
        return state.replace(waiting=state.waiting | (state.whose_turn(self.role) & short))

    def catch_up(self, params: RoleParams, state: State, cache: Any) -> CaughtUp:
        """Feeds the model the tokens that it has not read, all but the last."""

        def read(tokens: Array, positions: Array, carry: tuple) -> tuple:
            cache, chunks, fed = carry
            _, cache = nnx.merge(self.generate.graph, params.model)(tokens, positions, cache)
            return cache, chunks + 1, fed + jnp.sum(positions[:, 0] >= 0)

        none = jnp.zeros((), jnp.int32)
        stream, start = state.streams[self.role], (cache, none, none)
        rows = state.whose_turn(self.role)
        stream, (cache, chunks, fed) = catch_up(stream, rows, stream.n - 1, self.chunk, read, start)
        return CaughtUp(state.with_stream(self.role, stream), cache, chunks, fed)

    # -- after the judgement -------------------------------------------------------------------------------------------

    def end_spans(self, state: State, rows: Bool[Array, " B"], verdict: Verdict) -> State:
        """Ends the spans that are over, an answer's when it is complete. The others go on in the next turn."""
        answering = rows & state.answering()
        answered = answering & ((state.event != Finish.NONE) | self.generate.answer_is_full(state))
        thought = rows & (verdict.finish != Finish.NONE)
        ended = verdict.over | thought | answered
        state = state.replace(kept=pick(answering, state.written, state.kept))
        tokens = verdict.tokens
        if state.settings is not None:  # a row that has written all it may ends there, thinking or not
            spent = rows & (state.phase == Phase.THINK) & ~ended & state.settings.spent(state.tokens)
            ended, tokens = ended | spent, pick(spent, state.span_sampled, tokens)
            state = state.replace(
                kept=pick(spent, state.written, state.kept),
                phase=jnp.where(spent, Phase.DONE, state.phase),
                finish_think=jnp.where(spent, Finish.LENGTH, state.finish_think),
            )

        state = self.cut(state, ended, ended & ~answering, tokens)
        state = self._finish(state, thought, verdict.finish, answered)
        state = self.roll_back(state, ended, ended & ~answering)
        return self.switch(state, verdict.switch, thought)

    def cut(
        self, state: State, ended: Bool[Array, " B"], thinking: Bool[Array, " B"], spent: Int[Array, " B"]
    ) -> State:
        """Ends spans at `state.kept`: the tokens up to there are logged and, where it is known that they are the
        canonical ones, part of the trace. `thinking`: the ended spans that are no answers; they take the tokens `spent`
        from the budget. What is behind the cut is kept aside in runs that ask for it.
        """
        stream = state.streams[self.role]
        tokens = stream.kept_tokens(state.kept)
        role = jnp.full_like(tokens, self.role)
        if state.dropped is not None:
            state = state.replace(dropped=state.dropped.append(ended, state))
        entry = jnp.stack([role, state.phase, state.kept, tokens, state.span_sampled - tokens], axis=1)
        slot = jnp.where(ended, state.logged, state.log.shape[1])
        state = state.with_stream(self.role, accept_sampled(stream, thinking & state.canonical, state.kept, tokens))
        return state.replace(
            log=state.log.at[jnp.arange(len(tokens)), slot].set(entry, mode="drop"),
            logged=state.logged + ended,
            think_tokens=state.think_tokens + jnp.where(thinking, spent, 0),
        )

    def _finish(
        self, state: State, thought: Bool[Array, " B"], finish: Int[Array, " B"], answered: Bool[Array, " B"]
    ) -> State:
        """Ends the phases that are over: after thinking comes its closing, after the answer nothing."""
        said = jnp.where(state.event == Finish.OVERFLOW, state.event, Finish.STOP)
        answer = jnp.where(state.event == Finish.NONE, Finish.LENGTH, said)
        broken = thought & (finish >= Finish.OVERFLOW)
        unfinished = thought & ((finish == Finish.LENGTH) | (finish == Finish.LOOP))
        dropped = broken | (unfinished if self.reject_unfinished else jnp.zeros_like(broken))
        phase = jnp.where(thought, Phase.CLOSING, jnp.where(answered, Phase.DONE, state.phase))
        return state.replace(
            phase=jnp.where(dropped, Phase.DONE, phase),
            finish_think=pick(thought, finish, state.finish_think),
            finish_answer=pick(answered, answer, state.finish_answer),
        )

    def roll_back(self, state: State, ended: Bool[Array, " B"], thinking: Bool[Array, " B"]) -> State:
        """Forgets what ended spans wrote behind the cut: the next span begins there. The caches follow at the next
        hand-over (`streams.rollback`).
        """
        zero = jnp.zeros_like(state.kept)
        return state.replace(
            written=pick(ended, state.kept, state.written),
            span_start=pick(ended, state.kept, state.span_start),
            utf8=pick(thinking, zero, state.utf8),  # an answer may end within a character, by its budget
            event=pick(ended, zero, state.event),
            span_sampled=pick(ended, zero, state.span_sampled),
            canonical=state.canonical & ~ended,
        )

    def switch(self, state: State, cut: Bool[Array, " B"], thought: Bool[Array, " B"]) -> State:
        """The other model goes on where something was cut; the student where thinking has ended."""
        role = jnp.where(thought, Role.STUDENT, state.role)
        return state.replace(role=jnp.where(cut, 1 - self.role, role))


class Schedule(Protocol):
    """In which order turns are taken. No record depends on it."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """By role; the student's alone where no other model writes."""
        ...

    def rounds(self, turns: int) -> int:
        """Rounds that make up so many turns of each role."""
        ...

    def spans(self, turns: int) -> int:
        """Spans of one row that may end in so many turns."""
        ...

    def start(self, replaced: Bool[Array, ""]) -> Any:
        """What the schedule remembers from round to round of a dispatch: a pytree of arrays.

        Args:
            replaced: whether a row that is done is replaced by one that waits for its slot.
        """
        ...

    def round(self, params: Params, carry: Carry, work: WorkCount, memory: Any) -> tuple[Carry, WorkCount, Any]:
        """What is done before the loop asks whether to go on; also returns what is remembered then."""
        ...


@dataclass(frozen=True, eq=False)
class RollbackSchedule:
    """Algorithm 1: in every round each role takes one turn, of up to k tokens, if any row waits for it.

    for role in (student, teacher):
        if any row has this role:  turn(role)

    One model alone has one turn, the student's: nothing of a teacher is compiled or run.
    """

    turns: tuple[Turn, ...]

    def rounds(self, turns: int) -> int:
        """One for each turn."""
        return turns

    def spans(self, turns: int) -> int:
        """One for each turn of either role, one for the answer, and one to spare."""
        return 2 * turns + 2

    def start(self, replaced: Bool[Array, ""]) -> tuple[()]:
        """Nothing."""
        return ()

    def round(self, params: Params, carry: Carry, work: WorkCount, memory: Any) -> tuple[Carry, WorkCount, Any]:
        """One turn of each role."""
        for turn in self.turns:
            waiting = jnp.any(carry.state.whose_turn(turn.role))
            carry, work = lax.cond(waiting, self._take(turn, params), lambda c, w: (c, w), carry, work)
        return carry, work, memory

    def _take(self, turn: Turn, params: Params) -> Callable[[Carry, WorkCount], tuple[Carry, WorkCount]]:
        role = turn.role

        def run(carry: Carry, work: WorkCount) -> tuple[Carry, WorkCount]:
            state, caches, work = turn(params.of(role), carry.state, carry.caches[role], work)
            return carry.with_role(role, state, caches), work

        return run
