"""The `paper` preset's cut: which of the words that a span has produced are kept (trace.md, "Words", "Judging",
"Span").

The host finds the words and brings the predictor's tokens of them, or in the plain case of one vocabulary the device
does (`plain.py`); the device lets the predictor read those and keeps the words up to the first that is not of the
role's kind. Words are judged in passes until no complete word is left.
"""

import bisect
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from tessy_jax.arrays import Leaf, gather, pick, replace_at
from tessy_jax.cooperate.evidence import Evidence
from tessy_jax.cooperate.host import Delivery, Scribe, visit
from tessy_jax.cooperate.plain import PlainReader
from tessy_jax.cooperate.state import Finish, Phase, Role, State, Writer, writes
from tessy_jax.cooperate.streams import follow, kept_tokens
from tessy_jax.text.cuts import LoopRule, is_blank, words

AGAIN = -1
"""`after` of a reading: there is more to judge in this turn. 0: nothing more for now. Above: thinking ends (a
`Finish`).
"""

MAX_WORDS = 32
"""Words judged in one pass; more take another pass."""

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
    """The host's half: splits what a span has produced into words and tokenises them for the predictor.

    `scribe` is None where the predictor is a probe, which reads no tokens of its own.
    """

    scribe: Scribe | None
    marker: bytes | None
    loop: LoopRule | None
    max_think_tokens: int
    max_words: int = MAX_WORDS

    @property
    def shape(self) -> Reading:
        return Reading.shape(self.max_words, self.scribe.width if self.scribe else 1)

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
            return self._reading(ends, free, after, Delivery(0, [], [], 0, covered))
        return self._judged(self.scribe, data, covered, ends, free, after)

    def _judged(
        self, scribe: Scribe, data: bytes, covered: int, ends: list[int], free: list[bool], after: int
    ) -> Reading:
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
    def _reading(ends: list[int], free: list[bool], after: int, delivery: Delivery) -> Reading:
        return Reading(np.asarray(ends, np.int32), np.asarray(free, bool), int(after), delivery)


@dataclasses.dataclass(frozen=True)
class PaperBoundary:
    """Judges the words of one role's spans. `judge` is the boundary rule of the `paper` preset.

    `plain` reads what it can on the device; None: the host reads everything.
    """

    role: Role
    reader: Reader
    plain: PlainReader | None
    evidence: Evidence
    mesh: Mesh | None
    turn_tokens: int

    def judge(
        self, params: Any, writer: Writer, state: State, cache: Any, rows: Bool[Array, " B"]
    ) -> tuple[State, Any, Bool[Array, " B"], Bool[Array, " B"], Int[Array, " B"], Int[Array, ""]]:
        """Keeps the words of the thinking `rows` up to the first that is not of the role's kind; see `turn.Boundary`.

        A span is over, and the role switches, when a word is rejected.
        """

        def one(carry: tuple) -> tuple:
            state, cache, open_, rejected, finish, passes = carry
            state, reading, proven, full = self._read(writer, state, open_, rejected)
            state, cache, why, more_passes = self.evidence.read(params, state, cache, open_, rejected, reading.delivery)
            why = jnp.maximum(why, full)
            failed = why != Finish.NONE
            valid = reading.ends > 0
            starts = jnp.concatenate([state.kept[:, None], reading.ends[:, :-1]], axis=1)
            bad = valid & ~reading.free & ~self.evidence.of_kind(state, starts, reading.ends)
            good = valid & (jnp.cumsum(bad, axis=1) == 0)
            kept = jnp.maximum(state.kept, jnp.max(jnp.where(good, reading.ends, 0), axis=1))
            judged = open_ & ~failed & ~rejected
            now_rejected = judged & jnp.any(bad, axis=1)
            ended = judged & ~now_rejected & (reading.after > 0)
            more = judged & ~now_rejected & (reading.after == AGAIN)
            rejected = rejected | now_rejected
            kept = pick(judged, kept, state.kept)
            state = state.replace(kept=kept, canonical=state.canonical & (kept <= proven))
            finish = jnp.where(ended, reading.after, jnp.where(failed, why, finish))
            # A rejected word's tokens are taken back by the next pass.
            open_ = more | (rejected & ~failed & self.evidence.ahead(state))
            return state, cache, open_, rejected, finish, passes + more_passes

        thinking = rows & (state.phase == Phase.THINK) & writes(state, self.role)
        no = jnp.zeros_like(rows)
        if self.plain is not None:  # what is canonical at the beginning of a span is so without a proof
            state = state.replace(canonical=state.canonical | (thinking & (state.kept == state.span_start)))
        start = (state, cache, thinking, no, jnp.zeros_like(state.kept), jnp.zeros((), jnp.int32))
        state, cache, _, rejected, finish, passes = jax.lax.while_loop(lambda c: jnp.any(c[2]), one, start)
        rejected &= finish < Finish.OVERFLOW
        return state, cache, rejected, rejected, finish, passes

    def _read(
        self, writer: Writer, state: State, open_: Bool[Array, " B"], rejected: Bool[Array, " B"]
    ) -> tuple[State, Reading, Int[Array, " B"], Int[Array, " B"]]:
        """The words of the `open_` rows, read here or on the host. Also returns up to which byte the sampled tokens are
        known to be canonical, and why a row failed (a `Finish`), or NONE.
        """

        def ask(rows: Bool[Array, " B"]) -> Reading:
            return visit(self.mesh, self.reader.row, self.reader.shape, rows, *self._arguments(state, rejected))

        if self.plain is None:
            return state, ask(open_), state.kept, jnp.zeros_like(state.kept)
        assert writer.canonical is not None, "what reads on the device needs the vocabulary there"
        found = self.plain.read(writer.canonical, state)
        sure = open_ & jnp.where(rejected, state.canonical, found.sure)
        words = jnp.where(rejected[:, None], 0, found.ends)
        judge, full = state.judges[self.role], jnp.zeros_like(state.kept)
        if self.plain.own_tokens:
            upto = jnp.where(rejected, state.kept, jnp.max(words, axis=1))
            read = rejected | jnp.any((words > 0) & ~found.free, axis=1)
            judge, full = follow(judge, state.writers[self.role], sure & read, upto)
            state = state.replace(judges=replace_at(state.judges, self.role, judge))
        asked = open_ & ~sure
        none = jax.tree.map(lambda leaf: jnp.zeros((len(open_), *leaf.shape), leaf.dtype), self.reader.shape)
        reading = jax.lax.cond(jnp.any(asked), ask, lambda _: none, asked)
        after = jnp.where(found.more & ~rejected, AGAIN, 0)
        reading = Reading(
            ends=pick(asked, reading.ends, words),
            free=pick(asked, reading.free, found.free),
            after=pick(asked, reading.after, after),
            delivery=reading.delivery.replace(covered=pick(asked, reading.delivery.covered, judge.covered)),
        )
        return state, reading, pick(asked, state.kept, found.proven), full

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
