"""The `paper` preset's cut: which of the words that a span has produced are kept (trace.md, "Words", "Judging",
"Span").

The host finds the words and brings the predictor's tokens of them, or in the plain case of one vocabulary the device
does (`plain.py`); the device lets the predictor read those and keeps the words up to the first that is not of the
role's kind. Words are judged in passes until no complete word is left.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.host_callback import call_host
from tessy_jax.cooperate.scorers import WordScorer
from tessy_jax.cooperate.state import Finish, Phase, Role, State, Vocab, writes
from tessy_jax.cooperate.streams import copy_tokens, kept_tokens
from tessy_jax.cooperate.words_device import DeviceWords
from tessy_jax.cooperate.words_host import AGAIN, PENDING, HostWords, Words
from tessy_jax.text_jax.arrays import gather, pick, replace_at


@dataclasses.dataclass(frozen=True)
class PaperBoundary:
    """Judges the words of one role's spans. `judge` is the boundary rule of the `paper` preset.

    `plain` reads what it can on the device; None: the host reads everything.
    """

    role: Role
    reader: HostWords
    plain: DeviceWords | None
    evidence: WordScorer
    mesh: Mesh | None
    turn_tokens: int

    def judge(
        self, params: Any, writer: Vocab, state: State, cache: Any, rows: Bool[Array, " B"]
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
        self, writer: Vocab, state: State, open_: Bool[Array, " B"], rejected: Bool[Array, " B"]
    ) -> tuple[State, Words, Int[Array, " B"], Int[Array, " B"]]:
        """The words of the `open_` rows, read here or on the host. Also returns up to which byte the sampled tokens are
        known to be canonical, and why a row failed (a `Finish`), or NONE.
        """

        def ask(rows: Bool[Array, " B"]) -> Words:
            return call_host(self.mesh, self.reader.row, self.reader.shape, rows, *self._arguments(state, rejected))

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
            judge, full = copy_tokens(judge, state.writers[self.role], sure & read, upto)
            state = state.replace(judges=replace_at(state.judges, self.role, judge))
        asked = open_ & ~sure
        none = jax.tree.map(lambda leaf: jnp.zeros((len(open_), *leaf.shape), leaf.dtype), self.reader.shape)
        reading = jax.lax.cond(jnp.any(asked), ask, lambda _: none, asked)
        after = jnp.where(found.more & ~rejected, AGAIN, 0)
        reading = Words(
            ends=pick(asked, reading.ends, words),
            free=pick(asked, reading.free, found.free),
            after=pick(asked, reading.after, after),
            delivery=reading.delivery.replace(covered=pick(asked, reading.delivery.covered, judge.covered)),
        )
        return state, reading, pick(asked, state.kept, found.proven), full

    def _arguments(self, state: State, rejected: Bool[Array, " B"]) -> tuple[Array, ...]:
        """The columns of `HostWords.row`."""
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
