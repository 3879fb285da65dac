"""Hand-over: before a model writes, the text that the other one wrote becomes tokens of its own.

All tokens of the text are canonical then: those that encoding the whole text gives. Models of one vocabulary copy them
from each other on the device; else the host's tokenizer brings them, a few at a time, as edits of the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.host_callback import Host, TokenEdits
from tessy_jax.cooperate.state import Finish, Phase, Role, State
from tessy_jax.cooperate.streams import apply_edit, copy_tokens, hand_over, rollback
from tessy_jax.text_jax.arrays import pick, scatter


@dataclass(frozen=True, eq=False)
class HandOver:
    """Gives the model of one role what is new in the text.

    Attributes:
        retokenize: `(text, covered, target)` of a row: the edit that takes the canonical tokens of `text[:covered]`
            towards those of `text[:target]`; runs on the host.
        close: `(text, kept)` of a row: the edit that ends the thinking in the student's form; None for the teacher.
            Both are also given the `State.opening` of the row, if there is one.
        edit_shape: shapes of such an edit.
        same_vocab: whether the other model has the same vocabulary: then its canonical tokens are this one's.
        marker: the bytes of the end-of-thinking marker with its newlines.
        depth: deepest rollback that the caches' rings hold, in tokens.
    """

    role: Role
    retokenize: Callable[..., TokenEdits]
    close: Callable[..., TokenEdits] | None
    edit_shape: TokenEdits
    same_vocab: bool
    marker: bytes
    depth: int
    host: Host

    def __call__(self, state: State) -> State:
        """The rows whose turn it is, with this model's tokens canonical for all that is kept."""
        state = self._take_over_text(state)
        if self.close is None:
            return state
        close = self.close
        closing = state.whose_turn(self.role) & (state.phase == Phase.CLOSING)
        return lax.cond(jnp.any(closing), lambda s: self._close_thinking(s, close), lambda s: s, state)

    def _take_over_text(self, state: State) -> State:
        # In an answer the model's tokens hold the marker, and nothing but its own words follows.
        rows = state.whose_turn(self.role) & ~state.answering()
        stream, why = state.streams[self.role], jnp.zeros_like(state.kept)
        if self.same_vocab:
            other = state.streams[1 - self.role]
            ready = rows & (stream.covered != state.span_start) & (other.covered == state.span_start)
            stream, why = copy_tokens(stream, other, ready, state.span_start)

        def ask_host(need: Bool[Array, " B"], covered: Int[Array, " B"]) -> TokenEdits:
            where = state.text, covered, state.span_start, *state.opening(self.role)
            return self.host.call("text", self.retokenize, self.edit_shape, need, *where)

        stream, also = hand_over(stream, rows & (why == Finish.NONE), state.span_start, ask_host, self.depth)
        return state.with_stream(self.role, stream).failed(jnp.maximum(why, also))

    def _close_thinking(self, state: State, close: Callable[..., TokenEdits]) -> State:
        """Writes the end-of-thinking marker in the student's form, after the trace less its trailing white space."""
        rows = state.whose_turn(self.role) & (state.phase == Phase.CLOSING)
        where = state.text, state.kept, *state.opening(self.role)
        edit = self.host.call("text", close, self.edit_shape, rows, *where)
        size = len(self.marker)
        think_end = edit.covered - size
        stream, why = apply_edit(state.streams[self.role], rows, edit)
        rows &= why == Finish.NONE
        at = think_end[:, None] + jnp.arange(size)
        marker = jnp.broadcast_to(jnp.frombuffer(self.marker, jnp.uint8), at.shape)
        state = state.replace(
            text=scatter(state.text, at, marker, rows[:, None]),
            think_end=pick(rows, think_end, state.think_end),
            phase=pick(rows, jnp.full_like(state.phase, Phase.ANSWER), state.phase),
            **{name: pick(rows, edit.covered, getattr(state, name)) for name in ("kept", "written", "span_start")},
        )
        return state.with_stream(self.role, rollback(stream, rows, self.depth)).failed(why)
