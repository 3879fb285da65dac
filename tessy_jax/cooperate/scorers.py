"""What a word is judged by: the predictor's own reading of the text, or the writing model's hidden states.

Both keep P(style) per token in `State.style`; a word is of the role's kind if all its tokens are.
"""

import dataclasses
from typing import Any, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tessy_jax.cooperate.host_callback import TokenEdits
from tessy_jax.cooperate.state import Role, State
from tessy_jax.cooperate.streams import apply_edit, catch_up, rollback
from tessy_jax.predictors.base import Predictor
from tessy_jax.predictors.probe import Probe
from tessy_jax.text_jax.arrays import gather, replace_at

WORD_TOKENS = 256
"""Tokens looked back over for one pass: a word has at most 48 bytes and one token more (128 bytes in all known
vocabularies), a pass at most 64 new tokens of a predictor.
"""


class WordScorer(Protocol):
    """What `PaperBoundary` needs to know of words."""

    def read(
        self,
        params: Any,
        state: State,
        cache: Any,
        open_: Bool[Array, " B"],
        rejected: Bool[Array, " B"],
        delivery: TokenEdits,
    ) -> tuple[State, Any, Int[Array, " B"], Int[Array, ""]]:
        """Takes in what the host brought for the `open_` rows; also returns why not (a `Finish`), or NONE, and the
        predictor's passes over the batch.
        """
        ...

    def of_kind(self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]) -> Bool[Array, "B W"]:
        """Whether every token of each word, from byte `starts` to `ends`, is predicted to be of the role's kind: style
        for the student, capability for the teacher.
        """
        ...

    def ahead(self, state: State) -> Bool[Array, " B"]:
        """The rows for which more was read than is kept."""
        ...


@dataclasses.dataclass(frozen=True)
class TextScorer:
    """A predictor that reads the text in canonical tokens of its own.

    A word's tokens are those that end inside it. The first token of a text has no token before it, so with `shift` 1
    nothing is predicted for it: it counts as being of the kind.
    """

    role: Role
    predictor: Predictor
    chunk: int
    depth: int

    def read(
        self,
        params: Any,
        state: State,
        cache: Any,
        open_: Bool[Array, " B"],
        rejected: Bool[Array, " B"],
        delivery: TokenEdits,
    ) -> tuple[State, Any, Int[Array, " B"], Int[Array, ""]]:
        stream, why = apply_edit(state.judges[self.role], open_, delivery)
        stream = rollback(stream, open_, self.depth)
        read_now = open_ & ~rejected
        start = (state.style[self.role], cache, jnp.zeros((), jnp.int32))
        stream, (style, cache, passes) = catch_up(stream, read_now, stream.n, self.chunk, self._read(params), start)
        state = state.replace(
            judges=replace_at(state.judges, self.role, stream), style=replace_at(state.style, self.role, style)
        )
        return state, cache, why, passes

    def _read(self, params: Any) -> Any:
        def read(tokens: Array, positions: Array, carry: tuple) -> tuple:
            style, cache, passes = carry
            p, cache = self.predictor.style(params, tokens, positions, cache)
            rows = jnp.arange(style.shape[0])[:, None]
            at = jnp.where(positions >= 0, positions + self.predictor.shift, style.shape[1])
            return style.at[rows, at].set(p, mode="drop"), cache, passes + 1

        return read

    def of_kind(self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]) -> Bool[Array, "B W"]:
        stream = state.judges[self.role]
        index = stream.n[:, None] - WORD_TOKENS + jnp.arange(WORD_TOKENS)
        at = gather(stream.ends, index)[:, :, None]
        inside = (at > starts[:, None]) & (at <= ends[:, None]) & (index >= 0)[:, :, None]
        right = is_right(gather(state.style[self.role], index), self.predictor.threshold, self.role)
        right |= index < self.predictor.shift
        return ~jnp.any(inside & ~right[:, :, None], axis=1)

    def ahead(self, state: State) -> Bool[Array, " B"]:
        return state.judges[self.role].covered > state.kept


@dataclasses.dataclass(frozen=True)
class ProbeScorer:
    """A probe on the writing model: the pass that samples a token also says whether it is style.

    A word's tokens are the sampled ones that have a byte in it; a token over the border of two words counts for both.
    Words not judged yet lie in the last `width` tokens.
    """

    role: Role
    probe: Probe
    width: int

    def read(
        self,
        params: Any,
        state: State,
        cache: Any,
        open_: Bool[Array, " B"],
        rejected: Bool[Array, " B"],
        delivery: TokenEdits,
    ) -> tuple[State, Any, Int[Array, " B"], Int[Array, ""]]:
        return state, cache, jnp.zeros_like(state.kept), jnp.zeros((), jnp.int32)

    def of_kind(self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]) -> Bool[Array, "B W"]:
        stream = state.writers[self.role]
        index = stream.n[:, None] - self.width + jnp.arange(self.width)
        end = gather(stream.ends, index)
        start = jnp.where(index == stream.base[:, None], state.span_start[:, None], gather(stream.ends, index - 1))
        inside = (end[:, :, None] > starts[:, None]) & (start[:, :, None] < ends[:, None])
        inside &= (index >= stream.base[:, None])[:, :, None]
        right = is_right(gather(state.style[self.role], index), self.probe.threshold, self.role)
        return ~jnp.any(inside & ~right[:, :, None], axis=1)

    def ahead(self, state: State) -> Bool[Array, " B"]:
        return jnp.zeros(state.kept.shape, bool)


def is_right(style: Float[Array, "B I"], threshold: float, role: Role) -> Bool[Array, "B I"]:
    """Whether tokens with this P(style) are of the role's kind."""
    return (style >= threshold) == (role == Role.STUDENT)
