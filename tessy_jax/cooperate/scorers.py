"""What a word is judged by: the predictor's own reading of the text, or the writing model's hidden states.

Both keep P(style) per token in `State.style`; a word is of the role's kind if all its tokens are.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tessy_jax.cooperate.host_callback import TokenEdits
from tessy_jax.cooperate.params import RoleParams
from tessy_jax.cooperate.state import Role, State
from tessy_jax.cooperate.streams import apply_edit, catch_up, rollback
from tessy_jax.predictors.base import HiddenStatePredictor, TextPredictor
from tessy_jax.text_jax.arrays import gather
from tessy_jax.text_jax.words import NONE

WORD_TOKENS = 256
"""Tokens looked back over for one pass: a word has at most 48 bytes and one token more (128 bytes in all known
vocabularies), a pass at most 64 new tokens of a predictor.
"""


class Scored(NamedTuple):
    """After a reading: the rows, the predictor's cache, why a row failed (a `Finish`, or NONE), and passes made."""

    state: State
    cache: Any
    why: Int[Array, " B"]
    passes: Int[Array, ""]


class WordScorer(Protocol):
    """What `PaperBoundary` needs to know of words."""

    def read(
        self,
        params: RoleParams,
        state: State,
        cache: Any,
        open_: Bool[Array, " B"],
        rejected: Bool[Array, " B"],
        edits: TokenEdits,
    ) -> Scored:
        """Lets the predictor read the words that were found in the `open_` rows.

        Args:
            rejected: rows of which only tokens are taken back. edits: what the host brought.
        """
        ...

    def of_kind(self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]) -> Bool[Array, "B W"]:
        """Whether every token of each word, from byte `starts` to `ends`, is predicted to be of the role's kind: style
        for the student, capability for the teacher.
        """
        ...

    def deciding(self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]) -> Float[Array, "B W"]:
        """P(style) of the token that decides about each word: the first that is not of the role's kind, or, where all
        are, the one that is least sure of it. Not finite where nothing is predicted.
        """
        ...

    def ahead(self, state: State) -> Bool[Array, " B"]:
        """The rows for which more was read than is kept."""
        ...

    def first_wrong(self, state: State) -> Int[Array, " B"]:
        """Where in the text the first token behind `kept` starts that is known not to be of the role's kind, or NONE.
        A word with such a token will be rejected, however it goes on.
        """
        ...


@dataclass(frozen=True)
class TextScorer:
    """Of a predictor that reads the text in canonical tokens of its own.

    A word's tokens are those that end inside it. The first token of a text has no token before it, so with `shift` 1
    nothing is predicted for it: it counts as being of the kind.

    Attributes:
        chunk: tokens per forward pass. depth: deepest rollback that the caches' rings hold, in tokens.
    """

    role: Role
    predictor: TextPredictor
    chunk: int
    depth: int

    def read(
        self,
        params: RoleParams,
        state: State,
        cache: Any,
        open_: Bool[Array, " B"],
        rejected: Bool[Array, " B"],
        edits: TokenEdits,
    ) -> Scored:
        stream, why = apply_edit(state.predictor_streams[self.role], open_, edits)
        stream = rollback(stream, open_, self.depth)
        start = (state.style[self.role], cache, jnp.zeros((), jnp.int32))
        stream, (style, cache, passes) = catch_up(
            stream, open_ & ~rejected, stream.n, self.chunk, self._predict(params), start
        )
        state = state.with_predictor_stream(self.role, stream).with_style(self.role, style)
        return Scored(state, cache, why, passes)

    def _predict(self, params: RoleParams) -> Any:
        def read(tokens: Array, positions: Array, carry: tuple) -> tuple:
            style, cache, passes = carry
            p, cache = self.predictor.style(params.predictor, tokens, positions, cache)
            rows = jnp.arange(style.shape[0])[:, None]
            at = jnp.where(positions >= 0, positions + self.predictor.shift, style.shape[1])
            return style.at[rows, at].set(p, mode="drop"), cache, passes + 1

        return read

    def of_kind(self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]) -> Bool[Array, "B W"]:
        index, inside = self._inside(state, starts, ends)
        right = is_right(gather(state.style[self.role], index), self.predictor.threshold, self.role)
        right |= index < self.predictor.shift
        return ~jnp.any(inside & ~right[:, :, None], axis=1)

    def deciding(self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]) -> Float[Array, "B W"]:
        index, inside = self._inside(state, starts, ends)
        predicted = inside & (index >= self.predictor.shift)[:, :, None]
        return deciding(gather(state.style[self.role], index), predicted, self.predictor.threshold, self.role)

    def _inside(
        self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]
    ) -> tuple[Int[Array, "B I"], Bool[Array, "B I W"]]:
        """The places of the predictor's last tokens in its stream, and which of them end inside each word."""
        stream = state.predictor_streams[self.role]
        index = stream.n[:, None] - WORD_TOKENS + jnp.arange(WORD_TOKENS)
        at = gather(stream.ends, index)[:, :, None]
        return index, (at > starts[:, None]) & (at <= ends[:, None]) & (index >= 0)[:, :, None]

    def ahead(self, state: State) -> Bool[Array, " B"]:
        return state.predictor_streams[self.role].covered > state.kept

    def first_wrong(self, state: State) -> Int[Array, " B"]:
        return jnp.full_like(state.kept, NONE)  # a word's tokens are known when it is complete


@dataclass(frozen=True)
class ProbeScorer:
    """Of a predictor that reads hidden states: the pass that samples a token also says whether it is style.

    A word's tokens are the sampled ones that have a byte in it; a token over the border of two words counts for both.
    Words not judged yet lie in the last `width` tokens.
    """

    role: Role
    predictor: HiddenStatePredictor
    width: int

    def read(
        self,
        params: RoleParams,
        state: State,
        cache: Any,
        open_: Bool[Array, " B"],
        rejected: Bool[Array, " B"],
        edits: TokenEdits,
    ) -> Scored:
        return Scored(state, cache, jnp.zeros_like(state.kept), jnp.zeros((), jnp.int32))

    def of_kind(self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]) -> Bool[Array, "B W"]:
        token = self._tokens(state)
        inside = (token.end[:, :, None] > starts[:, None]) & (token.start[:, :, None] < ends[:, None])
        return ~jnp.any(inside & token.wrong[:, :, None], axis=1)

    def deciding(self, state: State, starts: Int[Array, "B W"], ends: Int[Array, "B W"]) -> Float[Array, "B W"]:
        token = self._tokens(state)
        inside = (token.end[:, :, None] > starts[:, None]) & (token.start[:, :, None] < ends[:, None])
        sampled = inside & token.sampled[:, :, None]
        return deciding(token.style, sampled, self.predictor.threshold, self.role)

    def ahead(self, state: State) -> Bool[Array, " B"]:
        return jnp.zeros(state.kept.shape, bool)

    def first_wrong(self, state: State) -> Int[Array, " B"]:
        token = self._tokens(state)
        wrong = token.wrong & (token.end > state.kept[:, None])
        return jnp.min(jnp.where(wrong, token.start, NONE), axis=1)

    def _tokens(self, state: State) -> "_Tokens":
        stream = state.streams[self.role]
        index = stream.n[:, None] - self.width + jnp.arange(self.width)
        end = gather(stream.ends, index)
        start = jnp.where(index == stream.base[:, None], state.span_start[:, None], gather(stream.ends, index - 1))
        style = gather(state.style[self.role], index)
        wrong = ~is_right(style, self.predictor.threshold, self.role)
        sampled = index >= stream.base[:, None]
        return _Tokens(start, end, style, sampled, wrong & sampled)


class _Tokens(NamedTuple):
    """The last tokens of each row: the bytes that they stand for, P(style), whether they were sampled in this span, and
    whether they are not of the role's kind besides.
    """

    start: Int[Array, "B I"]
    end: Int[Array, "B I"]
    style: Float[Array, "B I"]
    sampled: Bool[Array, "B I"]
    wrong: Bool[Array, "B I"]


def is_right(style: Float[Array, "B I"], threshold: float, role: Role) -> Bool[Array, "B I"]:
    """Whether tokens with this P(style) are of the role's kind."""
    return (style >= threshold) == (role == Role.STUDENT)


def deciding(
    style: Float[Array, "B I"], inside: Bool[Array, "B I W"], threshold: float, role: Role
) -> Float[Array, "B W"]:
    """See `WordScorer.deciding`; `inside`: which tokens are those of each word."""
    wrong = inside & ~is_right(style, threshold, role)[:, :, None]
    first = jnp.take_along_axis(style, jnp.argmax(wrong, axis=1), axis=1)
    low, high = (jnp.where(inside, style[:, :, None], none) for none in (jnp.inf, -jnp.inf))
    least_sure = jnp.min(low, axis=1) if role == Role.STUDENT else jnp.max(high, axis=1)
    return jnp.where(jnp.any(wrong, axis=1), first, least_sure)
