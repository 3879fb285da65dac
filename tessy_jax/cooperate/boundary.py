"""The `paper` preset's cut: which of the words that a span has produced are kept (trace.md, "Words", "Judging",
"Span").

The host finds the words and brings the predictor's tokens of them; the device lets the predictor read those and
keeps the words up to the first that is not of the role's kind. Words are judged in passes until no complete word is
left.
"""

import bisect
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from tessy_jax.cooperate.host import Delivery, Scribe, visit
from tessy_jax.cooperate.predictors import Predictor
from tessy_jax.cooperate.state import Finish, Leaf, Phase, Role, State, Stream, pick, replace_at, writes
from tessy_jax.cooperate.streams import catch_up, deliver, forget, gather, kept_tokens
from tessy_jax.text.cuts import LoopRule, is_blank, words

AGAIN = -1
"""`after` of a reading: there is more to judge in this turn. 0: nothing more for now. Above: thinking ends (a
`Finish`).
"""

MAX_WORDS = 32
"""Words judged in one pass; more take another pass."""

WORD_TOKENS = 256
"""Predictor tokens looked back over for one pass: a word has at most 48 bytes and one token more (128 bytes in all
known vocabularies), a pass at most 64 new tokens.
"""

PENDING = 64
"""Tokens that can be undecided when a turn begins: a word ends after 48 bytes."""


class Reading(struct.PyTreeNode):
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
    delivery: Delivery

    @staticmethod
    def shape(words: int, width: int) -> "Reading":
        return Reading(
            jax.ShapeDtypeStruct((words,), jnp.int32),
            jax.ShapeDtypeStruct((words,), jnp.bool_),
            jax.ShapeDtypeStruct((), jnp.int32),
            Delivery.shape(width),
        )


@dataclasses.dataclass(frozen=True)
class Reader:
    """The host's half: splits what a span has produced into words and tokenises them for the predictor."""

    scribe: Scribe
    marker: bytes | None
    loop: LoopRule | None
    max_think_tokens: int
    max_words: int = MAX_WORDS

    @property
    def shape(self) -> Reading:
        return Reading.shape(self.max_words, self.scribe.width)

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
    ) -> Reading:
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
        if rejected:
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
        if all(free):
            return self._reading(ends, free, after, Delivery(0, [], [], 0, covered))
        return self._judged(data, covered, ends, free, after)

    def _judged(self, data: bytes, covered: int, ends: list[int], free: list[bool], after: int) -> Reading:
        """The words whose tokens fit one visit and extend each other; the others wait for the next pass."""
        tail, last = self.scribe.retokenizer.nested(data, int(covered), ends)
        while len(tail.ids) > self.scribe.width and last > 0:
            last -= 1
            tail = self.scribe.retokenizer.tail(data, int(covered), ends[last])
        delivery = self.scribe.pack(data, covered, ends[last], tail)
        if delivery.covered != ends[last]:  # not even one word fits: the predictor reads on, nothing is judged yet
            return self._reading([], [], AGAIN, delivery)
        done = last + 1 == len(ends)
        return self._reading(ends[: last + 1], free[: last + 1], after if done else AGAIN, delivery)

    @staticmethod
    def _reading(ends: list[int], free: list[bool], after: int, delivery: Delivery) -> Reading:
        return Reading(np.asarray(ends, np.int32), np.asarray(free, bool), int(after), delivery)


def of_kind(
    stream: Stream,
    style: Float[Array, "B S"],
    kept: Int[Array, " B"],
    reading: Reading,
    role: Role,
    predictor: Predictor,
) -> Bool[Array, "B W"]:
    """Whether every token of each word is predicted to be of the role's kind: style for the student, capability for
    the teacher.

    A word's tokens are those that end inside it. The first token of a text has no token before it, so with `shift`
    1 nothing is predicted for it: it counts as being of the kind.
    """
    index = stream.n[:, None] - WORD_TOKENS + jnp.arange(WORD_TOKENS)
    is_style = gather(style, index) >= predictor.threshold
    right = (is_style == (role == Role.STUDENT)) | (index < predictor.shift)
    ends = gather(stream.ends, index)
    starts = jnp.concatenate([kept[:, None], reading.ends[:, :-1]], axis=1)
    inside = (
        (ends[:, :, None] > starts[:, None]) & (ends[:, :, None] <= reading.ends[:, None]) & (index >= 0)[:, :, None]
    )
    return ~jnp.any(inside & ~right[:, :, None], axis=1)


@dataclasses.dataclass(frozen=True)
class PaperBoundary:
    """Judges the words of one role's spans. `judge` is the boundary rule of the `paper` preset."""

    role: Role
    reader: Reader
    predictor: Predictor
    chunk: int
    depth: int
    mesh: Mesh | None
    turn_tokens: int

    def judge(
        self, params: Any, state: State, cache: Any, rows: Bool[Array, " B"]
    ) -> tuple[State, Any, Bool[Array, " B"], Bool[Array, " B"], Int[Array, " B"]]:
        """Keeps the words of the thinking `rows` up to the first that is not of the role's kind; see `turn.Boundary`.

        A span is over, and the role switches, when a word is rejected.
        """
        role = self.role

        def one(carry: tuple) -> tuple:
            state, cache, open_, rejected, finish = carry
            stream, style = state.judges[role], state.style[role]
            reading = visit(self.mesh, self.reader.row, self.reader.shape, open_, *self._arguments(state, rejected))
            stream, why = deliver(stream, open_, reading.delivery)
            failed = why != Finish.NONE
            stream = forget(stream, open_, self.depth)
            read_now = open_ & (reading.delivery.count > 0) & ~rejected
            stream, (style, cache) = catch_up(
                stream, read_now, stream.n, self.chunk, self._reading(params), (style, cache)
            )
            valid = reading.ends > 0
            bad = valid & ~reading.free & ~of_kind(stream, style, state.kept, reading, role, self.predictor)
            good = valid & (jnp.cumsum(bad, axis=1) == 0)
            kept = jnp.maximum(state.kept, jnp.max(jnp.where(good, reading.ends, 0), axis=1))
            judged = open_ & ~failed & ~rejected
            now_rejected = judged & jnp.any(bad, axis=1)
            ended = judged & ~now_rejected & (reading.after > 0)
            more = judged & ~now_rejected & (reading.after == AGAIN)
            rejected = rejected | now_rejected
            state = state.replace(
                kept=pick(judged, kept, state.kept),
                judges=replace_at(state.judges, role, stream),
                style=replace_at(state.style, role, style),
            )
            finish = jnp.where(ended, reading.after, jnp.where(failed, why, finish))
            # A rejected word's tokens are taken back by the next pass.
            open_ = more | (rejected & ~failed & (stream.covered > state.kept))
            return state, cache, open_, rejected, finish

        thinking = rows & (state.phase == Phase.THINK) & writes(state, role)
        no = jnp.zeros_like(rows)
        start = (state, cache, thinking, no, jnp.zeros_like(state.kept))
        state, cache, _, rejected, finish = jax.lax.while_loop(lambda c: jnp.any(c[2]), one, start)
        rejected &= finish < Finish.OVERFLOW
        return state, cache, rejected, rejected, finish

    def _reading(self, params: Any) -> Any:
        def read(tokens: Array, positions: Array, carry: tuple) -> tuple:
            style, cache = carry
            p, cache = self.predictor.style(params, tokens, positions, cache)
            rows = jnp.arange(style.shape[0])[:, None]
            at = jnp.where(positions >= 0, positions + self.predictor.shift, style.shape[1])
            return style.at[rows, at].set(p, mode="drop"), cache

        return read

    def _arguments(self, state: State, rejected: Bool[Array, " B"]) -> tuple[Array, ...]:
        """The columns of `Reader.row`."""
        writer, judge = state.writers[self.role], state.judges[self.role]
        decided = kept_tokens(writer, state.kept)
        first = writer.base + decided
        width = self.turn_tokens + PENDING
        index = first[:, None] + jnp.arange(width)
        ends = jnp.where(index < writer.n[:, None], gather(writer.ends, index), 0)
        used = state.think_tokens + decided
        return (
            state.text, state.span_start, state.kept, state.written, state.event, rejected, judge.covered, used, ends,
        )  # fmt: skip
