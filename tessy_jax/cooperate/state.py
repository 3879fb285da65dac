"""What the loop knows of each row: its text, whose turn it is, and how every model sees it.

Letters: B slots, Y bytes of text, S tokens of a stream, V vocabulary, J spans logged between two visits of the host.
"""

import enum

from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from tessy_jax.text_jax.arrays import Leaf
from tessy_jax.text_jax.canonical import Canonical


class Role(enum.IntEnum):
    """Whose turn it is; also the author of what is written."""

    STUDENT = 0
    TEACHER = 1


class Phase(enum.IntEnum):
    """Where a row stands. An empty slot is DONE."""

    DONE = 0
    THINK = 1
    CLOSING = 2  # thinking has ended; the end-of-thinking marker is not written yet
    ANSWER = 3


class Finish(enum.IntEnum):
    """Why a phase ended; the names, in lower case, are those of the record's `finish`."""

    NONE = 0
    END = 1  # the model's own end-of-thinking marker
    EOS = 2  # end of the turn while thinking
    CHANNEL = 3  # a tool call or another channel while thinking
    LENGTH = 4  # the token budget
    LOOP = 5  # the same words over and over
    STOP = 6  # end of the turn in the answer: the good ending
    OVERFLOW = 7  # the text or a token buffer is full: the row is rejected
    FAILED = 8  # the host could not read the row: rejected, the reason is in the log


class Stream(struct.PyTreeNode):
    """One model's view of the rows: `prompt + canonical tokens of the text + tokens it sampled in this span`.

    Attributes:
      tokens: the model's own token ids.
      ends: byte offset in the text that is reached after each token; 0 for prompt tokens.
      n: tokens in use.
      base: how many of them are prompt or canonical; the rest was sampled in the current span.
      covered: bytes of the text that the canonical tokens stand for.
      cached: tokens whose keys and values are in the model's cache.
      high: the highest slot position ever written since the cache was last read from its start (see `forget`).
    """

    tokens: Int[Leaf, "B S"]
    ends: Int[Leaf, "B S"]
    n: Int[Leaf, " B"]
    base: Int[Leaf, " B"]
    covered: Int[Leaf, " B"]
    cached: Int[Leaf, " B"]
    high: Int[Leaf, " B"]


class State(struct.PyTreeNode):
    """All rows of the batch. Every array leads with B.

    Attributes:
      key: the row's random key.
      text: the UTF-8 bytes of the row, undecided ones included.
      kept: bytes that are decided: the trace, then the marker, then the answer.
      written: bytes including those that are sampled and not decided yet.
      utf8: state of the UTF-8 automaton after `written` bytes (0: between two characters).
      span_start: where the current span begins.
      role, phase: see `Role` and `Phase`.
      event: the structural event sampled after `written` (a `Finish`), or NONE.
      think_end: where the trace ended, or -1 while it goes on.
      think_tokens: tokens kept in the finished spans of the trace.
      span_sampled: tokens sampled in the current span, kept or not.
      canonical: whether the kept ones of them are known to be the canonical tokens of the text.
      finish_think, finish_answer: see `Finish`.
      log, logged: spans finished since the host last looked: (role, phase, end, tokens kept, tokens dropped).
      writers: the streams of the student and the teacher.
      judges: the streams of the two boundary predictors, by role.
      style: by role, P(style) of each token of that predictor's stream; with a probe, of the writer's stream.
    """

    key: UInt32[Leaf, "B 2"]
    text: UInt8[Leaf, "B Y"]
    kept: Int[Leaf, " B"]
    written: Int[Leaf, " B"]
    utf8: Int[Leaf, " B"]
    span_start: Int[Leaf, " B"]
    role: Int[Leaf, " B"]
    phase: Int[Leaf, " B"]
    event: Int[Leaf, " B"]
    think_end: Int[Leaf, " B"]
    think_tokens: Int[Leaf, " B"]
    span_sampled: Int[Leaf, " B"]
    canonical: Bool[Leaf, " B"]
    finish_think: Int[Leaf, " B"]
    finish_answer: Int[Leaf, " B"]
    log: Int[Leaf, "B J 5"]
    logged: Int[Leaf, " B"]
    writers: tuple[Stream, ...]
    judges: tuple[Stream, ...]
    style: tuple[Float[Leaf, "B S"], ...]


class Vocab(struct.PyTreeNode):
    """What the loop must know of a writing model's vocabulary, on the device.

    Attributes:
      next_utf8: per (answer?, automaton state) and token the next automaton state, 255 where the token is not
        allowed: bytes that break UTF-8, padding rows, special tokens other than the declared events.
      token_bytes, token_len: the bytes each token stands for.
      event: the structural event each token is (a `Finish`), NONE for text.
      canonical: its canonical tokens; None where the device does not know them, or need not.
    """

    next_utf8: UInt8[Leaf, "Q V"]
    token_bytes: UInt8[Leaf, "V L"]
    token_len: Int[Leaf, " V"]
    event: Int[Leaf, " V"]
    canonical: Canonical | None = None


def writes(state: State, role: Role) -> Bool[Array, " B"]:
    """The rows whose turn it is for `role`."""
    return (state.role == role) & (state.phase != Phase.DONE)
