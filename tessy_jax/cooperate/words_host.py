"""The words that a span has produced, read on the host: split at the cut points, and tokenised for the predictor."""

import bisect
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Int

from tessy_jax.cooperate.host_callback import HostTokenizer, TokenEdits
from tessy_jax.cooperate.state import Finish
from tessy_jax.text.repetition import Repetition
from tessy_jax.text.words import is_blank, words
from tessy_jax.text_jax.arrays import Leaf

AGAIN = -1
"""`after` of a reading: there is more to judge in this turn. 0: nothing more for now. Above: thinking ends (a
`Finish`).
"""


MAX_WORDS = 32
"""Words judged in one pass; more take another pass."""


PENDING = 64
"""Tokens that can be undecided when a turn begins: a word ends after 48 bytes."""


class Words(struct.PyTreeNode):
    """The words that one row has ready to be judged, W at most.

    Attributes:
      ends: byte offset at which each word ends; 0 beyond the last word.
      free: kept without a judgement: white space, and the first other word of a span.
      after: what follows if all of them are kept; see AGAIN.
      delivery: the predictor's canonical tokens up to the last of these words.
    """

    ends: Int[Leaf, "B W"]
    free: Bool[Leaf, "B W"]
    after: Int[Leaf, " B"]
    delivery: TokenEdits

    @staticmethod
    def shape(words: int, width: int) -> "Words":
        return Words(
            jax.ShapeDtypeStruct((words,), jnp.int32),
            jax.ShapeDtypeStruct((words,), jnp.bool_),
            jax.ShapeDtypeStruct((), jnp.int32),
            TokenEdits.shape(width),
        )


@dataclasses.dataclass(frozen=True)
class HostWords:
    """The host's half: splits what a span has produced into words and tokenises them for the predictor.

    `scribe` is None where the predictor is a probe, which reads no tokens of its own.
    """

    scribe: HostTokenizer | None
    marker: bytes | None
    loop: Repetition | None
    max_think_tokens: int
    max_words: int = MAX_WORDS

    @property
    def shape(self) -> Words:
        return Words.shape(self.max_words, self.scribe.width if self.scribe else 1)

    def row(
        self,
        text: np.ndarray,
        span_start: int,
        kept: int,
        written: int,
        event: int,
        rejected: bool,
        covered: int,
        used: int,
        token_ends: np.ndarray,
    ) -> Words:
        """Reads one row.

        Args:
          text: the bytes of the row; those up to `written` count.
          span_start, kept, written: byte offsets, see `State`.
          event: structural event after `written`, a `Finish`.
          rejected: the span has ended; only the predictor's tokens of the rejected words are to be taken back.
          covered: bytes that the predictor's tokens stand for.
          used: tokens of the trace that are kept, those of this span included.
          token_ends: ends of the tokens sampled beyond `kept`, padded with 0.
        """
        if rejected and self.scribe:
            return self._reading([], [], 0, self.scribe.step(text, covered, kept))
        data = text[:written].tobytes()
        sampled = [int(e) for e in token_ends if e > 0]
        found = words(data, int(kept), sampled, int(written), self.marker, event != Finish.NONE, self.max_words)
        ends: list[int] = []
        free: list[bool] = []
        begun = kept > span_start and not is_blank(data[span_start:kept])
        after = AGAIN if found.more else 0
        if found.event_at is not None and not found.more:
            # A textual marker lies before whatever was sampled after it.
            after = event if event and found.event_at == written else Finish.END
        for end, blank in zip(found.ends, found.blank, strict=True):
            if used + bisect.bisect_right(sampled, end) > self.max_think_tokens:
                after = Finish.LENGTH
                break
            ends.append(end)
            free.append(blank or not begun)
            begun = begun or not blank
            if self.loop is not None and self.loop.loops(data, end):
                after = Finish.LOOP
                break
        if self.scribe is None or all(free):
            return self._reading(ends, free, after, TokenEdits(0, [], [], 0, covered))
        return self._judged(self.scribe, data, covered, ends, free, after)

    def _judged(
        self, scribe: HostTokenizer, data: bytes, covered: int, ends: list[int], free: list[bool], after: int
    ) -> Words:
        """The words whose tokens fit one visit and extend each other; the others wait for the next pass."""
        tail, last = scribe.retokenizer.nested(data, int(covered), ends)
        while len(tail.ids) > scribe.width and last > 0:
            last -= 1
            tail = scribe.retokenizer.tail(data, int(covered), ends[last])
        delivery = scribe.pack(data, covered, ends[last], tail)
        if delivery.covered != ends[last]:  # not even one word fits: the predictor reads on, nothing is judged yet
            return self._reading([], [], AGAIN, delivery)
        done = last + 1 == len(ends)
        return self._reading(ends[: last + 1], free[: last + 1], after if done else AGAIN, delivery)

    @staticmethod
    def _reading(ends: list[int], free: list[bool], after: int, delivery: TokenEdits) -> Words:
        return Words(np.asarray(ends, np.int32), np.asarray(free, bool), int(after), delivery)
