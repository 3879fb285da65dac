"""The words that a span has produced, read on the host: split at the cut points, and tokenised for the predictor."""

import bisect
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Int, UInt8

from tessy_jax.cooperate.host_callback import HostTokenizer, TokenEdits
from tessy_jax.cooperate.state import Finish
from tessy_jax.text.repetition import Repetition
from tessy_jax.text.words import is_blank, words
from tessy_jax.text_jax.arrays import Leaf

AGAIN = -1
"""`Words.after`: there is more to judge in this turn. 0: nothing more for now. Above: thinking ends (a
`Finish`).
"""


MAX_WORDS = 32
"""Words judged in one pass; more take another pass."""


PENDING = 64
"""Tokens that can be undecided when a turn begins: a word ends after 48 bytes."""


class Words(struct.PyTreeNode):
    """The words that rows have ready to be judged, W at most.

    Attributes:
        ends: byte offset at which each word ends; 0 beyond the last word.
        free: kept without a judgement: white space, and the first other word of a span.
        after: what follows if all of them are kept; see AGAIN.
    """

    ends: Int[Leaf, "*B W"]
    free: Bool[Leaf, "*B W"]
    after: Int[Leaf, "*B"]


class HostReading(struct.PyTreeNode):
    """What the host found: words, and the edits that bring the predictor's canonical tokens up to the last of them."""

    words: Words
    edits: TokenEdits

    @staticmethod
    def shape(words: int, width: int) -> "HostReading":
        """Shapes for one row: of so many words, and edits of so many tokens."""
        ends, free = (jax.ShapeDtypeStruct((words,), dtype) for dtype in (jnp.int32, jnp.bool_))
        return HostReading(Words(ends, free, jax.ShapeDtypeStruct((), jnp.int32)), TokenEdits.shape(width))


class RowView(NamedTuple):
    """What the host sees of a row; on the device, of all rows.

    Attributes:
        text: the bytes of the row; those up to `written` count.
        span_start, kept, written: byte offsets, see `State`.
        event: structural event after `written`, a `Finish`.
        rejected: the span has ended; only the predictor's tokens of the rejected words are to be taken back.
        covered: bytes that the predictor's tokens stand for.
        used: tokens of the trace that are kept, those of this span included.
        token_ends: ends of the tokens sampled beyond `kept`, padded with 0.
    """

    text: UInt8[Leaf, "*B Y"]
    span_start: Int[Leaf, "*B"]
    kept: Int[Leaf, "*B"]
    written: Int[Leaf, "*B"]
    event: Int[Leaf, "*B"]
    rejected: Bool[Leaf, "*B"]
    covered: Int[Leaf, "*B"]
    used: Int[Leaf, "*B"]
    token_ends: Int[Leaf, "*B I"]


@dataclasses.dataclass(frozen=True)
class HostWords:
    """Splits what a span has produced into words and tokenises them for the predictor.

    Attributes:
        tokenizer: the predictor's; None where it reads hidden states, and so no tokens of its own.
        marker: bytes of a textual end of thinking; None where a token says it.
        repetition: when a text loops; None: never.
        max_think_tokens: budget of the thinking.
        max_words: words in one reading.
    """

    tokenizer: HostTokenizer | None
    marker: bytes | None
    repetition: Repetition | None
    max_think_tokens: int
    max_words: int = MAX_WORDS

    @property
    def shape(self) -> HostReading:
        """Shapes of the reading of one row."""
        return HostReading.shape(self.max_words, self.tokenizer.width if self.tokenizer else 1)

    def read(self, row: RowView) -> HostReading:
        """Reads one row."""
        if row.rejected and self.tokenizer:
            return _reading([], [], 0, self.tokenizer.step(row.text, row.covered, row.kept))
        data = row.text[: row.written].tobytes()
        kept, written, event = int(row.kept), int(row.written), int(row.event)
        sampled = [int(end) for end in row.token_ends if end > 0]
        found = words(data, kept, sampled, written, self.marker, event != Finish.NONE, self.max_words)
        ends: list[int] = []
        free: list[bool] = []
        begun = kept > row.span_start and not is_blank(data[row.span_start : kept])
        after = AGAIN if found.more else 0
        if found.event_at is not None and not found.more:
            # A textual marker lies before whatever was sampled after it.
            after = event if event and found.event_at == written else Finish.END
        for end, blank in zip(found.ends, found.blank, strict=True):
            if row.used + bisect.bisect_right(sampled, end) > self.max_think_tokens:
                after = Finish.LENGTH
                break
            ends.append(end)
            free.append(blank or not begun)
            begun = begun or not blank
            if self.repetition is not None and self.repetition.loops(data, end):
                after = Finish.LOOP
                break
        if self.tokenizer is None or all(free):
            return _reading(ends, free, after, TokenEdits(0, [], [], 0, row.covered))
        return self._tokenised(self.tokenizer, data, int(row.covered), ends, free, after)

    def _tokenised(
        self, tokenizer: HostTokenizer, data: bytes, covered: int, ends: list[int], free: list[bool], after: int
    ) -> HostReading:
        """The words whose tokens fit one edit and extend each other; the others wait for the next pass."""
        tail, last = tokenizer.retokenizer.edit_through(data, covered, ends)
        while len(tail.ids) > tokenizer.width and last > 0:
            last -= 1
            tail = tokenizer.retokenizer.edit(data, covered, ends[last])
        edit = tokenizer.pack(data, covered, ends[last], tail)
        if edit.covered != ends[last]:  # not even one word fits: the predictor reads on, nothing is judged yet
            return _reading([], [], AGAIN, edit)
        done = last + 1 == len(ends)
        return _reading(ends[: last + 1], free[: last + 1], after if done else AGAIN, edit)


def _reading(ends: list[int], free: list[bool], after: int, edits: TokenEdits) -> HostReading:
    return HostReading(Words(np.asarray(ends, np.int32), np.asarray(free, bool), int(after)), edits)
