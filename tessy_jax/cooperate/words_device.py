"""Words found on the device: which words of a span are complete, and that their tokens are canonical.

Where a predictor reads its model's vocabulary, its canonical tokens of the text are nearly always those that the model
sampled, and that can be proven from them (`text_jax.pretokens`, `text_jax.merges`). Then neither judging nor the
hand-over to another model of the vocabulary needs the host. All that is rare is left to the host, which decides
everything: an end of thinking, a spent budget, what may be a loop, a token that is not canonical, characters of class
UNKNOWN.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from tessy_jax.cooperate.state import Finish, Role, State
from tessy_jax.cooperate.words_host import AGAIN, Words
from tessy_jax.text.repetition import Repetition
from tessy_jax.text_jax.arrays import behind, gather
from tessy_jax.text_jax.canonical import Canonical
from tessy_jax.text_jax.characters import CharClass, classes_of, is_lead, is_white, spaces
from tessy_jax.text_jax.words import NONE, first, look_back, may_loop, word_ends

BACK, AHEAD = 64, 448
"""Bytes of the text looked at, before what is decided and behind it. A word ends after 48 bytes and a token."""


class DeviceReading(NamedTuple):
    """What was found in each row.

    Attributes:
        words: meant only where `sure`.
        sure: the rows of which all is known.
        proven: byte offset up to which the sampled tokens of each of these words are the canonical ones of the text
            that ends there; `kept` if that is not proven of any.
    """

    words: Words
    sure: Bool[Array, " B"]
    proven: Int[Array, " B"]


@dataclasses.dataclass(frozen=True)
class DeviceWords:
    """Finds the words of one role's spans.

    Attributes:
      marker, repetition, max_think_tokens: see `words_host.HostWords`.
      for_text_predictor: whether a predictor reads the words in tokens; then they are found as far as those are proven.
      max_words: in one reading. max_tokens: sampled and not decided, looked at in one reading.
    """

    role: Role
    marker: bytes | None
    repetition: Repetition | None
    max_think_tokens: int
    for_text_predictor: bool
    max_words: int
    max_tokens: int

    def read(self, canonical: Canonical | None, state: State) -> DeviceReading:
        """Reads the words after `state.kept`. Where they end is a matter of bytes; without tables of the vocabulary no
        token is proven to be canonical.
        """
        start = state.kept - BACK
        at = start[:, None] + jnp.arange(BACK + AHEAD)
        known = jnp.minimum(state.written, state.kept + AHEAD)
        inside = (at >= 0) & (at < known[:, None])
        text = jnp.where(inside, gather(state.text, at), 0)
        if canonical is None:
            classes = classes_of(jnp.asarray(spaces()), text, inside)
        else:
            classes = canonical.pretokens.classes_of(text, inside)
        tokens, ends = self._tokens(state, start)

        sampled = _mask(jnp.where(ends > BACK, ends, NONE), text.shape[1])
        words, more = word_ends(text, classes, sampled, BACK, self.max_words)
        last_token = jnp.max(jnp.where(ends == NONE, 0, ends), axis=1, keepdims=True)
        seen = words <= last_token  # a cut behind it may depend on tokens that are not looked at
        good = jnp.zeros_like(seen)
        if canonical is not None:
            good = seen & state.canonical[:, None]
            good &= _good_words(canonical, text, classes, jnp.maximum(-start, -1), tokens, ends, words)
        proven = jnp.max(jnp.where(good, words, BACK), axis=1) + start
        complete = good if self.for_text_predictor else seen
        more |= jnp.any((words != NONE) & ~complete, axis=1)
        words = jnp.where(complete, words, NONE)
        some = complete[:, 0]
        free, free_known = self._free(state, classes, words, start)

        last = jnp.max(jnp.where(complete, words, 0), axis=1)
        unknown, waiting = classes == CharClass.UNKNOWN, inside & (at >= state.kept[:, None])
        # A word that waits for an unknown character may be complete to the host.
        more |= (known < state.written) | jnp.any(unknown & waiting, axis=1)
        of_words = (at >= state.span_start[:, None]) & (at < (last + start)[:, None])
        rare = (state.event != Finish.NONE) | jnp.any(unknown & of_words, axis=1)
        rare |= self._marked(text, waiting) | self._spent(state, ends, last)
        if self.repetition is not None:
            rare |= self._may_loop(state, words, start)
        found = jnp.where(complete, words + start[:, None], 0)
        after = jnp.where(more, AGAIN, 0)
        return DeviceReading(Words(found, free, after), (some | ~more) & free_known & ~rare, proven)

    def _tokens(self, state: State, start: Int[Array, " B"]) -> tuple[Array, Array]:
        """The tokens around `kept`, canonical and sampled, and where in the window they end: NONE for those of the
        prompt and beyond the last.
        """
        stream = state.streams[self.role]
        first = stream.base + stream.kept_tokens(state.kept) - BACK
        index = first[:, None] + jnp.arange(BACK + self.max_tokens)
        ends = gather(stream.ends, index)
        real = (index >= 0) & (index < stream.n[:, None]) & (ends > 0)
        return gather(stream.tokens, index), jnp.where(real, ends - start[:, None], NONE)

    def _free(
        self, state: State, classes: UInt8[Array, "B X"], words: Int[Array, "B W"], start: Int[Array, " B"]
    ) -> tuple[Bool[Array, "B W"], Bool[Array, " B"]]:
        """Words that are not judged: white space, and the first other one of a span; and whether that is known."""
        solid = jnp.pad(jnp.cumsum((classes != CharClass.OUTSIDE) & ~is_white(classes), axis=1), ((0, 0), (1, 0)))
        starts = jnp.concatenate([jnp.full_like(words[:, :1], BACK), words[:, :-1]], axis=1)
        before = gather(solid, jnp.where(starts == NONE, 0, starts))  # bytes of other characters before each word
        after = gather(solid, jnp.where(words == NONE, 0, words))
        span_start = state.span_start - start
        nothing = before == gather(solid, jnp.maximum(span_start, 0)[:, None])
        return (after == before) | nothing, ~nothing[:, 0] | (span_start >= 0)

    def _marked(self, text: UInt8[Array, "B X"], waiting: Bool[Array, "B X"]) -> Bool[Array, " B"]:
        """Whether the textual end of thinking stands in what is not decided."""
        if self.marker is None:
            return jnp.zeros(len(text), bool)
        padded = jnp.pad(text, ((0, 0), (0, len(self.marker))))
        here = waiting
        for i, byte in enumerate(self.marker):
            here &= padded[:, i : i + text.shape[1]] == byte
        return jnp.any(here, axis=1)

    def _spent(self, state: State, ends: Int[Array, "B I"], last: Int[Array, " B"]) -> Bool[Array, " B"]:
        """Whether the words take more tokens than the budget leaves."""
        used = state.think_tokens + state.streams[self.role].kept_tokens(state.kept)
        return used + _count(ends, last[:, None])[:, 0] > self.max_think_tokens

    def _may_loop(self, state: State, words: Array, start: Int[Array, " B"]) -> Bool[Array, " B"]:
        assert self.repetition is not None
        extra = max(0, look_back(self.repetition) - BACK)
        at = start[:, None] - extra + jnp.arange(extra + BACK + AHEAD)
        text = jnp.where((at >= 0) & (at < state.written[:, None]), gather(state.text, at), 0)
        return may_loop(text, jnp.where(words == NONE, NONE, words + extra), self.repetition)


def _good_words(
    canonical: Canonical,
    text: UInt8[Array, "B X"],
    classes: UInt8[Array, "B X"],
    origin: Int[Array, " B"],
    tokens: Int[Array, "B I"],
    ends: Int[Array, "B I"],
    words: Int[Array, "B W"],
) -> Bool[Array, "B W"]:
    """The words, up to the first other one, at whose ends the tokens are the canonical ones of the text up to there.

    Args:
        origin: where in the window the text begins; -1: before it.
        tokens, ends: those around BACK, and where they end in the window (NONE: no token), those up to BACK canonical.
    """
    pretokens, merges = canonical.pretokens, canonical.merges
    at = jnp.arange(text.shape[1])
    here = (at <= BACK) & (pretokens.sure_boundaries(classes) | (at == origin[:, None]))
    start = jnp.max(jnp.where(here, at, -1), axis=1, keepdims=True)
    begins = pretokens.boundaries(text, classes)

    def total(where: Bool[Array, "B X"]) -> Int[Array, "B X+1"]:
        return jnp.pad(jnp.cumsum(where, axis=1), ((0, 0), (1, 0)))  # [p]: how many before p

    real = (ends != NONE) & (ends > start) & (ends < text.shape[1])
    end = jnp.where(real, ends, 0)
    before = jnp.maximum(behind(end, 1), start)
    split = gather(total(begins), end) > gather(total(begins), before + 1)
    strange = gather(total(classes == CharClass.UNKNOWN), end) > gather(total(classes == CharClass.UNKNOWN), before)
    neighbours = (before > start) & ~gather(begins, before)
    torn = neighbours & ~merges.joined(behind(tokens, 1), tokens)
    whole = gather(is_lead(text) & (classes != CharClass.OUTSIDE), end)
    bad = real & (split | strange | torn | ~whole | ~jnp.asarray(merges.alone)[tokens])
    limit = jnp.min(jnp.where(bad, end, NONE), axis=1, keepdims=True)

    place = jnp.where(words == NONE, 0, words)
    fine = (
        gather(_mask(ends, text.shape[1]) & pretokens.stable_ends(text, classes), place)
        & (place < limit)
        & (start >= 0)
        & (words != NONE)
    )
    return jnp.arange(fine.shape[1]) < first(~fine)[:, None]


def _mask(places: Int[Array, "B I"], size: int) -> Bool[Array, "B X"]:
    """True at these places of a window of `size`; others are dropped."""
    rows = jnp.arange(places.shape[0])[:, None]
    return jnp.zeros((places.shape[0], size), bool).at[rows, jnp.where(places < 0, size, places)].set(True, mode="drop")


def _count(ends: Int[Array, "B I"], words: Int[Array, "B W"]) -> Int[Array, "B W"]:
    """How many tokens end behind BACK and not behind each word."""
    inside = (ends[:, None] > BACK) & (ends[:, None] <= words[:, :, None]) & (ends[:, None] != NONE)
    return jnp.sum(inside, axis=2)
