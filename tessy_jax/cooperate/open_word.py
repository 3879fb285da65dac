"""The word that is not complete yet: whether it may be by now, and whether it is lost already.

Both are told from the last bytes of each row alone, and both err on one side only: a row that may have a complete word
is judged, which finds out; a word that is not known to be lost goes on to its end, and is judged there.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from tessy_jax.cooperate.state import Finish, Role, State
from tessy_jax.text.words import LONG_WORD
from tessy_jax.text_jax.arrays import gather

BACK, AHEAD = 64, 192
"""Bytes looked at before `State.kept` and behind it. A word ends after 48 bytes and a token."""

LONGEST_CHAR = 4
"""Bytes of a character, each of which may be a token."""


@dataclass(frozen=True)
class OpenWord:
    """What can be said of the bytes behind `State.kept` in one role's spans.

    Attributes:
        marker: bytes of a textual end of thinking; None where a token says it.
        max_think_tokens: budget of the thinking.
    """

    role: Role
    marker: bytes | None
    max_think_tokens: int

    def may_be_complete(self, state: State) -> Bool[Array, " B"]:
        """Whether there may be a complete word behind `kept`: at a space or a line's end with a byte behind it, after
        48 bytes, before an end of thinking.
        """
        at = jnp.arange(AHEAD)
        text, size = self._text(state), state.written - state.kept
        known = at < size[:, None] - 1
        inner = (text == ord(" ")) & (at > 0) | _is_newline(text)
        complete = jnp.any(known & inner, axis=1) | (size > LONG_WORD) | (state.event != Finish.NONE)
        return complete | self._marked(text, size)

    def is_lost(self, state: State, first_wrong: Int[Array, " B"]) -> Bool[Array, " B"]:
        """Whether the word at `kept` is sure to be rejected, of rows in which no word is complete.

        So it is where it has a token of the wrong kind, will be judged (it is not white space, and not the first word
        of its span), and nothing ends the thinking before it is complete: a marker, or the budget.

        Args:
            first_wrong: where the first such token starts, see `WordScorer.first_wrong`.
        """
        text, size = self._text(state), state.written - state.kept
        at = jnp.arange(AHEAD)

        # The word reaches to the next space of which it is not known yet whether it begins another word, at least.
        undecided = (text == ord(" ")) & (at > 0) & (at < size[:, None]) & (at >= size[:, None] - 4)
        end = jnp.min(jnp.where(undecided, at, jnp.minimum(size, AHEAD)[:, None]), axis=1)
        wrong = first_wrong < state.kept + end

        before = gather(state.text, state.kept[:, None] - BACK + at[:BACK])
        of_span = state.kept[:, None] - BACK + at[:BACK] >= state.span_start[:, None]
        judged = jnp.any(_is_solid(before) & of_span, axis=1) & jnp.any(_is_solid(text) & (at < end[:, None]), axis=1)

        # A word ends with the first token behind its 48th byte that ends a character: it gets no more tokens than this.
        used = state.think_tokens + state.streams[self.role].n - state.streams[self.role].base
        room = used + (LONG_WORD - size) + LONGEST_CHAR <= self.max_think_tokens
        return wrong & judged & room & ~self._begins_marker(text, size) & (size <= LONG_WORD)

    def _text(self, state: State) -> UInt8[Array, "B X"]:
        """The bytes behind `kept`; zeros where nothing is written yet."""
        at = state.kept[:, None] + jnp.arange(AHEAD)
        return jnp.where(at < state.written[:, None], gather(state.text, at), 0).astype(jnp.uint8)

    def _marked(self, text: UInt8[Array, "B X"], size: Int[Array, " B"]) -> Bool[Array, " B"]:
        """Whether the marker's last byte is there."""
        if self.marker is None:
            return jnp.zeros(len(text), bool)
        return jnp.any((text == self.marker[-1]) & (jnp.arange(AHEAD) < size[:, None]), axis=1)

    def _begins_marker(self, text: UInt8[Array, "B X"], size: Int[Array, " B"]) -> Bool[Array, " B"]:
        """Whether the bytes end in the beginning of a marker."""
        begins = jnp.zeros(len(text), bool)
        for length in range(1, len(self.marker or b"")):
            assert self.marker is not None
            last = gather(text, size[:, None] - length + jnp.arange(length))
            same = jnp.all(last == jnp.frombuffer(self.marker[:length], jnp.uint8), axis=1)
            begins |= same & (size >= length)
        return begins


def _is_newline(text: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
    return (text == ord("\n")) | (text == ord("\r"))


def _is_solid(text: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
    """Bytes that belong to a character that is surely no white space."""
    ascii_, lead = (text > 0x20) & (text < 0x7F), (text >= 0xC3) & (text != 0xE1) & (text != 0xE2) & (text != 0xE3)
    return ascii_ | lead
