"""What the loop knows of each row: its text, whose turn it is, and how every model sees it.

Letters: B slots, Y bytes of text, S tokens of a stream, V vocabulary; between two visits of the host J spans logged, D
bytes dropped and N words judged.
"""

import enum

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from tessy_jax.cooperate.sampling import RowSettings
from tessy_jax.text_jax.arrays import Leaf, gather, pick, replace_at, scatter


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
    BLANK = 9  # white space only, again and again (preset `released_code`): the row is rejected


class Stream(struct.PyTreeNode):
    """One model's view of the rows: `prompt + canonical tokens of the text + tokens it sampled in this span`.

    Attributes:
          tokens: the model's own token ids.
          ends: byte offset in the text that is reached after each token; 0 for prompt tokens.
          n: tokens in use.
          base: how many of them are prompt or canonical; the rest was sampled in the current span.
          covered: bytes of the text that the canonical tokens stand for.
          cached: tokens whose keys and values are in the model's cache.
          high: the highest slot position ever written since the cache was last read from its start (see `rollback`).
    """

    tokens: Int[Leaf, "B S"]
    ends: Int[Leaf, "B S"]
    n: Int[Leaf, " B"]
    base: Int[Leaf, " B"]
    covered: Int[Leaf, " B"]
    cached: Int[Leaf, " B"]
    high: Int[Leaf, " B"]

    @property
    def sampled(self) -> Bool[Array, "B S"]:
        """The tokens that the model sampled in the current span, decided or not.

        n=7 base=4    [p p a a|x y z] -> 0 0 0 0 1 1 1        p: prompt, a: canonical, x y z: sampled
        """
        index = jnp.arange(self.ends.shape[1])
        return (index >= self.base[:, None]) & (index < self.n[:, None])

    @property
    def last(self) -> Int[Array, " B"]:
        """Position of the last token in use: the one that a decode step feeds. 0 where there is none.

        n=7           [p p a a|x y z] -> 6
        """
        return jnp.maximum(self.n - 1, 0)

    def full(self) -> Bool[Array, " B"]:
        """The rows in which there is no room behind one more token."""
        return self.n + 1 >= self.tokens.shape[1]

    def kept_tokens(self, kept: Int[Array, " B"]) -> Int[Array, " B"]:
        """How many of the sampled tokens end within the first `kept` bytes of the text.

        kept=12    ends [0 0 4 6|9 12 15] -> 2
        """
        return jnp.sum(self.sampled & (self.ends <= kept[:, None]), axis=1)


class Opening(struct.PyTreeNode):
    """The end of a model's prompt, where prompt and text are tokenised as one string.

    Attributes:
        text, size: its last bytes, from a place on over which no token goes, and how many there are.
        prompt: tokens of the whole prompt, no text behind it.
    """

    text: UInt8[Leaf, "*B Y"]
    size: Int[Leaf, "*B"]
    prompt: Int[Leaf, "*B"]


class Requests(struct.PyTreeNode):
    """What the preset `released_code` knows of the rows besides: there each turn is a request of its own to a server.

    Attributes:
        openings: by role; tokens may stand for the end of the prompt and the beginning of the text together.
        attempt: how often the request was made before in vain: white space came back.
    """

    openings: tuple[Opening, ...]
    attempt: Int[Leaf, " B"]


ROOM_SHARE = 3
"""Room of `DroppedBytes` and `WordScores`, in parts that hold as much as a turn can bring. A dispatch ends where more
than one is in use, and a round has two turns.
"""


class DroppedBytes(struct.PyTreeNode):
    """What was rolled back since the host last looked, in runs that keep it (`keep_dropped`).

    Attributes:
        text: the bytes behind the cuts, one cut after the other.
        ends: where the bytes of each logged span end in `text`.
    """

    text: UInt8[Leaf, "B D"]
    ends: Int[Leaf, "B J"]

    def size(self, logged: Int[Array, " B"]) -> Int[Array, " B"]:
        """Bytes in use, where so many spans are logged.

        logged=2    ends [4 9 7 0] -> 9        the 7 is of an earlier dispatch
        """
        return jnp.where(logged > 0, gather(self.ends, logged[:, None] - 1)[:, 0], 0)

    def full(self, logged: Int[Array, " B"]) -> Bool[Array, " B"]:
        """The rows in which another round might not find room."""
        return self.size(logged) > self.text.shape[1] // ROOM_SHARE

    def append(self, rows: Bool[Array, " B"], state: "State") -> "DroppedBytes":
        """With what the rows have written behind `State.kept`, for the span that is logged next."""
        size, length = self.size(state.logged), state.written - state.kept
        at = jnp.arange(self.text.shape[1]) - size[:, None]
        new = rows[:, None] & (at >= 0) & (at < length[:, None])
        slot = jnp.where(rows, state.logged, self.ends.shape[1])
        return DroppedBytes(
            text=jnp.where(new, gather(state.text, state.kept[:, None] + at), self.text),
            ends=self.ends.at[jnp.arange(len(slot)), slot].set(size + length, mode="drop"),
        )


class WordScores(struct.PyTreeNode):
    """The P(style) by which words were kept or rejected since the host last looked, in runs that keep it
    (`keep_scores`).

    Attributes:
        starts, ends: bytes of the text that a kept word has; of a rejected one both are where the span was cut.
        style: of the token that decided; see `WordScorer.deciding`.
        n: words that are in use.
    """

    starts: Int[Leaf, "B N"]
    ends: Int[Leaf, "B N"]
    style: Float[Leaf, "B N"]
    n: Int[Leaf, " B"]

    def full(self) -> Bool[Array, " B"]:
        """The rows in which another round might not find room."""
        return self.n > self.ends.shape[1] // ROOM_SHARE

    def emptied(self) -> "WordScores":
        """Without the words that the host has seen."""
        return self.replace(n=jnp.zeros_like(self.n))

    def append(
        self, words: Bool[Array, "B W"], starts: Int[Array, "B W"], ends: Int[Array, "B W"], style: Float[Array, "B W"]
    ) -> "WordScores":
        """With some of these words."""
        index = self.n[:, None] + jnp.cumsum(words, axis=1) - 1
        return WordScores(
            starts=scatter(self.starts, index, starts, words),
            ends=scatter(self.ends, index, ends, words),
            style=scatter(self.style, index, style, words),
            n=self.n + jnp.sum(words, axis=1),
        )


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
        think_tokens: tokens that the finished spans of the trace take from the budget.
        span_sampled: tokens sampled in the current span, kept or not.
        unjudged: whether something was sampled since the row was judged.
        canonical: whether the kept ones of them are known to be the canonical tokens of the text.
        finish_think, finish_answer: see `Finish`.
        waiting: whether the row has had no turn since the host last looked, for want of slots in a cache.
        log, logged: spans finished since the host last looked: (role, phase, end, tokens kept, tokens dropped).
        streams: by role, how the student and the teacher see the rows.
        predictor_streams: by role, how the two boundary predictors see them; without a prompt.
        style: by role, P(style) of each token of that predictor's stream; of the writing model's own stream, where the
          predictor reads hidden states.
        requests: see `Requests`; None in the preset `paper`.
        dropped: see `DroppedBytes`; None in runs that do not keep it.
        scores: see `WordScores`; None in runs that do not keep them.
        settings: see `RowSettings`; None where all rows have the same.
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
    unjudged: Bool[Leaf, " B"]
    canonical: Bool[Leaf, " B"]
    finish_think: Int[Leaf, " B"]
    finish_answer: Int[Leaf, " B"]
    waiting: Bool[Leaf, " B"]
    log: Int[Leaf, "B J 5"]
    logged: Int[Leaf, " B"]
    streams: tuple[Stream, ...]
    predictor_streams: tuple[Stream, ...]
    style: tuple[Float[Leaf, "B S"], ...]
    requests: Requests | None = None
    dropped: DroppedBytes | None = None
    scores: WordScores | None = None
    settings: RowSettings | None = None

    def whose_turn(self, role: Role) -> Bool[Array, " B"]:
        """The rows whose turn it is for `role`."""
        return (self.role == role) & self.going_on()

    def going_on(self) -> Bool[Array, " B"]:
        """The rows that are neither done nor waiting for slots."""
        return (self.phase != Phase.DONE) & ~self.waiting

    @property
    def tokens(self) -> Int[Array, " B"]:
        """The tokens of the row so far: of thinking that is decided, and of the span that is being written."""
        return self.think_tokens + self.span_sampled

    def answering(self) -> Bool[Array, " B"]:
        """The rows in which the student writes the answer."""
        return self.phase == Phase.ANSWER

    def draw(self, role: Role) -> Int[Array, " B"] | int:
        """Which of the random numbers of a place in the text is used, so that no two draws there are the same."""
        return role if self.requests is None else role + len(Role) * self.requests.attempt

    def opening(self, role: Role) -> tuple[Opening, ...]:
        """What the host must know of the model's prompt to tokenise the text: nothing, or how the prompt ends."""
        return () if self.requests is None else (self.requests.openings[role],)

    def with_stream(self, role: Role, stream: Stream) -> "State":
        """The same with another stream for the model of `role`."""
        return self.replace(streams=replace_at(self.streams, role, stream))

    def with_predictor_stream(self, role: Role, stream: Stream) -> "State":
        """The same with another stream for the predictor of `role`."""
        return self.replace(predictor_streams=replace_at(self.predictor_streams, role, stream))

    def with_style(self, role: Role, style: Float[Array, "B S"]) -> "State":
        """The same with other predictions for `role`."""
        return self.replace(style=replace_at(self.style, role, style))

    def with_scores(
        self, words: Bool[Array, "B W"], starts: Int[Array, "B W"], ends: Int[Array, "B W"], style: Float[Array, "B W"]
    ) -> "State":
        """The same with what was said of some more words, of those for which something is predicted."""
        assert self.scores is not None, "this run does not keep them"
        return self.replace(scores=self.scores.append(words & jnp.isfinite(style), starts, ends, style))

    def failed(self, why: Int[Array, " B"]) -> "State":
        """Takes the rows with a reason (a `Finish`) out of the loop; the host rejects them."""
        failed = why != Finish.NONE
        return self.replace(
            phase=jnp.where(failed, Phase.DONE, self.phase), finish_think=pick(failed, why, self.finish_think)
        )
