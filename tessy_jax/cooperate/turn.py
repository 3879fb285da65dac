"""One turn of one role: hand over, catch up, generate, judge and cut, switch. Algorithm 1 of the paper, for a batch of
rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.host_callback import TokenEdits, call_host
from tessy_jax.cooperate.sampling import Sampling, uniforms
from tessy_jax.cooperate.state import Finish, Phase, Role, State, Stream, Vocab, writes
from tessy_jax.cooperate.streams import (
    accept_sampled,
    apply_edit,
    catch_up,
    copy_tokens,
    hand_over,
    kept_tokens,
    rollback,
)
from tessy_jax.predictors.probe import Probe, record_hidden_states
from tessy_jax.text.utf8 import INVALID, STATES
from tessy_jax.text_jax.arrays import Leaf, pick, replace_at, scatter


class Boundary(Protocol):
    """A rule that decides what is kept of a thinking span; see `boundary.PaperBoundary`."""

    def judge(
        self, params: Any, writer: Vocab, state: State, cache: Any, rows: Bool[Array, " B"]
    ) -> tuple[State, Any, Bool[Array, " B"], Bool[Array, " B"], Int[Array, " B"], Int[Array, ""]]:
        """Judges what the thinking ones of `rows` have sampled with the vocabulary of `writer`.

        Returns the state with `kept` moved on, the predictor's cache, the rows whose span is over, those of them whose
        role switches, why thinking ended (NONE where it goes on), and the predictor's passes over the batch.
        """
        ...


class WorkCount(struct.PyTreeNode):
    """Work since the host last looked, by role: catch-up chunks, decode steps, tokens sampled, turns, and passes of
    predictors.
    """

    chunks: Int[Leaf, " 2"]
    decodes: Int[Leaf, " 2"]
    sampled: Int[Leaf, " 2"]
    turns: Int[Leaf, " 2"]
    judged: Int[Leaf, " 2"]

    @classmethod
    def zero(cls) -> "WorkCount":
        return cls(*(jnp.zeros(2, jnp.int32) for _ in range(5)))


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
    """One role's part of the loop. Everything in here is static; arrays come in as arguments.

    Attributes:
      role: whose turn it is.
      graph: the writing model's nnx graph definition.
      sampling: how it chooses tokens.
      tokens: tokens generated per turn at most, the paper's k.
      boundary: what is kept of it.
      probe: what the sampling pass predicts of each token; None: nothing, the boundary's predictor reads the text.
      step: one hand-over visit, `(text, covered, target) -> Delivery` on the host, and its shape.
      close: the student's end of thinking, `(text, kept) -> Delivery`; None for the teacher.
      shared: whether the other model has the same vocabulary: then its canonical tokens are this one's.
      marker: the bytes of the end-of-thinking marker with its newlines.
      chunk: tokens per catch-up forward. depth: deepest rollback that the caches' rings hold.
    """

    role: Role
    graph: nnx.GraphDef
    sampling: Sampling
    tokens: int
    boundary: Boundary
    probe: Probe | None
    step: Callable[..., TokenEdits]
    close: Callable[..., TokenEdits] | None
    shape: TokenEdits
    shared: bool
    marker: bytes
    max_answer_tokens: int
    reject_unfinished: bool
    chunk: int
    depth: int
    mesh: Mesh | None

    def __call__(
        self, params: Any, judge_params: Any, writer: Vocab, state: State, caches: tuple, steps: WorkCount
    ) -> tuple[State, tuple, WorkCount]:
        """The turn. `caches` are (this writer's, its predictor's)."""
        cache, judge_cache = caches
        with jax.named_scope("hand_over"):
            state = self._hand_over(state)
        with jax.named_scope("catch_up"):
            state, cache, chunks = self._catch_up(params, state, cache)
        with jax.named_scope("generate"):
            before = state.writers[self.role].n
            state, cache, decodes = self.generate(params, judge_params, writer, state, cache)
            sampled = jnp.sum(state.writers[self.role].n - before)
        rows = writes(state, self.role)
        with jax.named_scope("judge"):
            state, judge_cache, *verdict, judged = self.boundary.judge(judge_params, writer, state, judge_cache, rows)
        state = self._settle(state, rows, *verdict)
        count = jnp.arange(2) == self.role
        done = WorkCount(count * chunks, count * decodes, count * sampled, count.astype(jnp.int32), count * judged)
        steps = jax.tree.map(jnp.add, steps, done)
        return state, (cache, judge_cache), steps

    # -- before generating ---------------------------------------------------------------------------------------------

    def _hand_over(self, state: State) -> State:
        """What the others wrote, in this model's own canonical tokens; the student also closes the thinking."""
        rows = writes(state, self.role)

        def step(need: Bool[Array, " B"], covered: Int[Array, " B"]) -> TokenEdits:
            return call_host(self.mesh, self.step, self.shape, need, state.text, covered, state.span_start)

        rows &= state.phase != Phase.ANSWER  # there its tokens hold the marker: nothing but its own answer follows
        stream, why = state.writers[self.role], jnp.zeros_like(state.kept)
        if self.shared:
            other = state.writers[1 - self.role]
            ready = rows & (stream.covered != state.span_start) & (other.covered == state.span_start)
            stream, why = copy_tokens(stream, other, ready, state.span_start)
        stream, also = hand_over(stream, rows & (why == Finish.NONE), state.span_start, step, self.depth)
        state = fail(replace_stream(state, self.role, stream), jnp.maximum(why, also))
        if self.close is None:
            return state
        close = self.close
        closing = writes(state, self.role) & (state.phase == Phase.CLOSING)
        return lax.cond(jnp.any(closing), lambda s: self._close_thinking(s, close), lambda s: s, state)

    def _close_thinking(self, state: State, close: Callable[..., TokenEdits]) -> State:
        """Writes the end-of-thinking marker in the student's form, after the trace less its trailing white space."""
        rows = writes(state, self.role) & (state.phase == Phase.CLOSING)
        new = call_host(self.mesh, close, self.shape, rows, state.text, state.kept)
        size = len(self.marker)
        think_end = new.covered - size
        stream, why = apply_edit(state.writers[self.role], rows, new)
        rows &= why == Finish.NONE
        at = think_end[:, None] + jnp.arange(size)
        marker = jnp.broadcast_to(jnp.frombuffer(self.marker, jnp.uint8), at.shape)
        state = state.replace(
            text=scatter(state.text, at, marker, rows[:, None]),
            think_end=pick(rows, think_end, state.think_end),
            phase=pick(rows, jnp.full_like(state.phase, Phase.ANSWER), state.phase),
            **{name: pick(rows, new.covered, getattr(state, name)) for name in ("kept", "written", "span_start")},
        )
        return fail(replace_stream(state, self.role, rollback(stream, rows, self.depth)), why)

    def _catch_up(self, params: Any, state: State, cache: Any) -> tuple[State, Any, Array]:
        def read(tokens: Array, positions: Array, carry: tuple) -> tuple:
            cache, chunks = carry
            _, cache = nnx.merge(self.graph, params)(tokens, positions, cache)
            return cache, chunks + 1

        stream = state.writers[self.role]
        start = (cache, jnp.zeros((), jnp.int32))
        stream, (cache, chunks) = catch_up(stream, writes(state, self.role), stream.n - 1, self.chunk, read, start)
        return replace_stream(state, self.role, stream), cache, chunks

    # -- generating ----------------------------------------------------------------------------------------------------

    def generate(
        self, params: Any, judge_params: Any, writer: Vocab, state: State, cache: Any
    ) -> tuple[State, Any, Array]:
        """Up to `tokens` tokens per row, one forward pass each; a row stops at a structural event or its answer's
        budget. One `while_loop`, whose body is a decode step. Also returns how many there were.
        """
        rows = writes(state, self.role)
        answering = state.phase == Phase.ANSWER
        longest = writer.token_bytes.shape[1]
        model = nnx.merge(self.graph, params)

        def live(state: State) -> Bool[Array, " B"]:
            stream = state.writers[self.role]
            spent = answering & (stream.n - stream.base >= self.max_answer_tokens)
            return rows & (state.event == Finish.NONE) & ~spent

        def one(carry: tuple) -> tuple:
            state, cache, i = carry
            stream, on = state.writers[self.role], live(state)
            last = jnp.maximum(stream.n - 1, 0)
            token = jnp.take_along_axis(stream.tokens, last[:, None], axis=1)
            heard: list[Array] = []
            hidden, cache = model(token, jnp.where(on, last, -1)[:, None], cache, record_hidden_states(heard))
            logits = model.logits(hidden[:, 0])
            with jax.named_scope("sample"):
                following = writer.next_utf8[state.utf8 + STATES * answering]
                following = following[:, : logits.shape[1]]
                allowed = jnp.where(following != INVALID, logits, -jnp.inf)
                chosen = self.sampling(allowed, uniforms(state.key, state.written, self.role))
            event = writer.event[chosen]
            said = on & (event == Finish.NONE)
            size = jnp.where(said, writer.token_len[chosen], 0)
            at = state.written[:, None] + jnp.arange(longest)
            new_text = scatter(state.text, at, writer.token_bytes[chosen], jnp.arange(longest) < size[:, None])
            written = state.written + size
            full = (written + longest > state.text.shape[1]) | (stream.n + 1 >= stream.tokens.shape[1])
            event = jnp.where(said & full, Finish.OVERFLOW, event)
            n = stream.n[:, None]
            stream = stream.replace(
                tokens=scatter(stream.tokens, n, chosen[:, None], said[:, None]),
                ends=scatter(stream.ends, n, written[:, None], said[:, None]),
                n=stream.n + said,
                cached=pick(on, stream.n, stream.cached),
                high=pick(on, jnp.maximum(stream.high, stream.n), stream.high),
            )
            utf8 = jnp.take_along_axis(following, chosen[:, None], axis=1)[:, 0].astype(jnp.int32)
            if self.probe is not None:
                style = self.probe.style(judge_params, heard[self.probe.layer][:, 0], chosen)
                style = scatter(state.style[self.role], n, style[:, None], said[:, None])
                state = state.replace(style=replace_at(state.style, self.role, style))
            state = state.replace(
                text=new_text,
                written=written,
                utf8=pick(said, utf8, state.utf8),
                event=pick(on, event, state.event),
                span_sampled=state.span_sampled + said,
            )
            return replace_stream(state, self.role, stream), cache, i + 1

        def unfinished(carry: tuple) -> Bool[Array, ""]:
            state, _, i = carry
            return (i < self.tokens) & jnp.any(live(state))

        return lax.while_loop(unfinished, one, (state, cache, jnp.zeros((), jnp.int32)))

    # -- after the judgement -------------------------------------------------------------------------------------------

    def _settle(
        self,
        state: State,
        rows: Bool[Array, " B"],
        over: Bool[Array, " B"],
        switch: Bool[Array, " B"],
        finish: Int[Array, " B"],
    ) -> State:
        """Ends the spans that are over; an answer's when it is complete. The other spans go on in the next turn."""
        stream = state.writers[self.role]
        answering = rows & (state.phase == Phase.ANSWER)
        spent = stream.n - stream.base >= self.max_answer_tokens
        answered = answering & ((state.event != Finish.NONE) | spent)
        end = jnp.where(
            state.event == Finish.NONE,
            Finish.LENGTH,
            jnp.where(state.event == Finish.OVERFLOW, state.event, Finish.STOP),
        )
        state = state.replace(kept=pick(answering, state.written, state.kept))
        thought = rows & (finish != Finish.NONE)
        ended = over | thought | answered

        kept = kept_tokens(stream, state.kept)
        entry = jnp.stack(
            [jnp.full_like(kept, self.role), state.phase, state.kept, kept, state.span_sampled - kept], axis=1
        )
        slot = jnp.where(ended, state.logged, state.log.shape[1])
        log = state.log.at[jnp.arange(len(kept)), slot].set(entry, mode="drop")

        broken = thought & (finish >= Finish.OVERFLOW)
        unfinished = thought & ((finish == Finish.LENGTH) | (finish == Finish.LOOP))
        dropped = broken | (unfinished if self.reject_unfinished else jnp.zeros_like(broken))
        phase = jnp.where(thought, Phase.CLOSING, jnp.where(answered, Phase.DONE, state.phase))
        phase = jnp.where(dropped, Phase.DONE, phase)
        zero = jnp.zeros_like(kept)
        thinking = ended & ~answering
        state = replace_stream(state, self.role, accept_sampled(stream, thinking & state.canonical, state.kept, kept))
        return state.replace(
            log=log,
            logged=state.logged + ended,
            phase=phase,
            role=jnp.where(switch, 1 - self.role, jnp.where(thought, Role.STUDENT, state.role)),
            finish_think=pick(thought, finish, state.finish_think),
            finish_answer=pick(answered, end, state.finish_answer),
            think_tokens=state.think_tokens + jnp.where(thinking, kept, 0),
            written=pick(ended, state.kept, state.written),
            span_start=pick(ended, state.kept, state.span_start),
            utf8=pick(thinking, zero, state.utf8),
            event=pick(ended, zero, state.event),
            span_sampled=pick(ended, zero, state.span_sampled),
            canonical=state.canonical & ~ended,
        )


def replace_stream(state: State, role: Role, stream: Stream) -> State:
    return state.replace(writers=replace_at(state.writers, role, stream))


def fail(state: State, why: Int[Array, " B"]) -> State:
    """Takes the rows with a reason out of the loop; the host rejects them."""
    failed = why != Finish.NONE
    return state.replace(
        phase=jnp.where(failed, Phase.DONE, state.phase), finish_think=pick(failed, why, state.finish_think)
    )
