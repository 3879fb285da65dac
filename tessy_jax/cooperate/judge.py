"""Predict and cut, preset `paper`: which of the words that a span has produced are kept. Lines 5 and 6 of Algorithm 1.

Words are found on the device where that is certain (`words_device`), else on the host (`words_host`), which also brings
the predictor's tokens of them. The predictor gives P(style) of those tokens (`scorers`), and the words up to the first
that is not of the role's kind are kept. This goes on until no complete word is left (docs/algorithm.md: Words, Judging,
Span).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.host_callback import Host, TokenEdits
from tessy_jax.cooperate.open_word import OpenWord
from tessy_jax.cooperate.params import RoleParams, Vocab
from tessy_jax.cooperate.scorers import WordScorer
from tessy_jax.cooperate.state import Finish, Phase, Role, State
from tessy_jax.cooperate.streams import copy_tokens
from tessy_jax.cooperate.words_device import DeviceWords
from tessy_jax.cooperate.words_host import AGAIN, PENDING, HostReading, HostWords, RowView, Words
from tessy_jax.text_jax.arrays import gather, pick

# -- what a rule of cutting is -----------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What becomes of each row's thinking span.

    Attributes:
        over: the span ends at `State.kept`.
        switch: and the other model goes on.
        finish: why thinking ends there (a `Finish`); NONE where it goes on.
        tokens: what the span takes from the budget of the thinking, if it ends.
    """

    over: Bool[Array, " B"]
    switch: Bool[Array, " B"]
    finish: Int[Array, " B"]
    tokens: Int[Array, " B"]


class Judged(NamedTuple):
    """The rows with `kept` moved on, the predictor's cache, the verdict, and the predictor's passes over the batch."""

    state: State
    cache: Any
    verdict: Verdict
    passes: Int[Array, ""]


class Boundary(Protocol):
    """A rule that decides what is kept of a thinking span: the boundary b of Algorithm 1."""

    def judge(self, params: RoleParams, state: State, cache: Any, rows: Bool[Array, " B"]) -> Judged:
        """Judges what the thinking ones of `rows` have sampled; `cache` is the predictor's."""
        ...


# -- the paper's -------------------------------------------------------------------------------------------------------


class _Pass(NamedTuple):
    """Between two passes over the words: rows that are still judged, rows with a rejected word, ends of thinking."""

    state: State
    cache: Any
    open_: Bool[Array, " B"]
    rejected: Bool[Array, " B"]
    finish: Int[Array, " B"]
    passes: Int[Array, ""]


class _Reading(NamedTuple):
    """What is to be judged in a pass.

    Attributes:
        state: with the predictor's tokens, as far as the device could copy them.
        words, edits: the words, and the edit that brings the predictor's tokens of them where the host read the row.
        proven: byte offset up to which the sampled tokens are known to be canonical.
        why: why a row failed (a `Finish`), or NONE.
    """

    state: State
    words: Words
    edits: TokenEdits
    proven: Int[Array, " B"]
    why: Int[Array, " B"]


@dataclass(frozen=True)
class PaperBoundary:
    """Judges the words of one role's spans.

    Attributes:
        host_words: finds words on the host.
        device_words: finds those that are certain on the device; None: the host finds all.
        scorer: says which words are of the role's kind.
        open_word: what is known of the word behind those that are complete.
        k: tokens generated per turn at most.
    """

    role: Role
    host_words: HostWords
    device_words: DeviceWords | None
    scorer: WordScorer
    open_word: OpenWord
    host: Host
    k: int

    def has_words(self, state: State) -> Bool[Array, " B"]:
        """The thinking rows in which a word may be complete, or is lost already."""
        return (state.phase == Phase.THINK) & (self.open_word.may_be_complete(state) | self.lost(state))

    def lost(self, state: State) -> Bool[Array, " B"]:
        """The rows, of those in which no word is complete, whose word will be rejected however it goes on."""
        thinking = (state.phase == Phase.THINK) & (state.event == Finish.NONE)
        return thinking & self.open_word.is_lost(state, self.scorer.first_wrong(state))

    def note_lost(self, state: State, rows: Bool[Array, " B"]) -> State:
        """With what the predictor says of the lost word of each of `rows`, in runs that keep it."""
        if state.scores is None:
            return state
        cut = state.kept[:, None]
        return state.with_scores(rows[:, None], cut, cut, self.scorer.deciding(state, cut, state.written[:, None]))

    @property
    def asks_host(self) -> bool:
        """Whether only the host finds words."""
        return self.device_words is None

    def judge(self, params: RoleParams, state: State, cache: Any, rows: Bool[Array, " B"]) -> Judged:
        """Keeps the words up to the first that is not of the role's kind. There the span is over and the role switches.

        See `Boundary.judge`.
        """
        thinking = rows & (state.phase == Phase.THINK) & state.whose_turn(self.role)
        if self.device_words is not None:  # what is canonical at the beginning of a span is so without a proof
            state = state.replace(canonical=state.canonical | (thinking & (state.kept == state.span_start)))
        none, zero = jnp.zeros_like(rows), jnp.zeros((), jnp.int32)
        end = jax.lax.while_loop(
            lambda now: jnp.any(now.open_),
            lambda now: self._judge_words(params, now),
            _Pass(state, cache, thinking, none, jnp.zeros_like(state.kept), zero),
        )
        rejected = end.rejected & (end.finish < Finish.OVERFLOW)
        tokens = end.state.streams[self.role].kept_tokens(end.state.kept)
        return Judged(end.state, end.cache, Verdict(rejected, rejected, end.finish, tokens), end.passes)

    def _judge_words(self, params: RoleParams, now: _Pass) -> _Pass:
        """Judges the words that are ready in the open rows, at most `MAX_WORDS` of each."""
        # Find the words, and let the predictor read them.
        reading = self._read(params.vocab, now.state, now.open_, now.rejected)
        words = reading.words
        scored = self.scorer.read(params, reading.state, now.cache, now.open_, now.rejected, reading.edits)
        state = scored.state
        why = jnp.maximum(scored.why, reading.why)
        failed = why != Finish.NONE

        # Keep those up to the first that is not of the role's kind.
        there = words.ends > 0
        starts = jnp.concatenate([state.kept[:, None], words.ends[:, :-1]], axis=1)
        bad = there & ~words.free & ~self.scorer.of_kind(state, starts, words.ends)
        good = there & (jnp.cumsum(bad, axis=1) == 0)
        kept = jnp.maximum(state.kept, jnp.max(jnp.where(good, words.ends, 0), axis=1))
        judged = now.open_ & ~failed & ~now.rejected
        kept = pick(judged, kept, state.kept)
        if state.scores is not None:
            last = bad & (jnp.cumsum(bad, axis=1) == 1)  # those behind it are not judged
            said = judged[:, None] & ((good & ~words.free) | last)
            style = self.scorer.deciding(state, starts, words.ends)
            state = state.with_scores(said, starts, jnp.where(last, starts, words.ends), style)
        state = state.replace(kept=kept, canonical=state.canonical & (kept <= reading.proven))

        # A rejected word ends the span; if all are kept, thinking may end, or there is more to judge.
        rejects = judged & jnp.any(bad, axis=1)
        ended = judged & ~rejects & (words.after > 0)
        more = judged & ~rejects & (words.after == AGAIN)
        rejected = now.rejected | rejects
        finish = jnp.where(ended, words.after, jnp.where(failed, why, now.finish))
        # Tokens of a rejected word that the predictor has read are taken back by the next pass.
        open_ = more | (rejected & ~failed & self.scorer.ahead(state))
        return _Pass(state, scored.cache, open_, rejected, finish, now.passes + scored.passes)

    # -- finding the words ---------------------------------------------------------------------------------------------

    def _read(self, vocab: Vocab, state: State, open_: Bool[Array, " B"], rejected: Bool[Array, " B"]) -> _Reading:
        """The words of the `open_` rows, found here where that is certain, else on the host."""
        if self.device_words is None:
            host = self._ask_host(state, open_, rejected)
            return _Reading(state, host.words, host.edits, state.kept, jnp.zeros_like(state.kept))
        found = self.device_words.read(vocab.canonical, state)
        sure = open_ & jnp.where(rejected, state.canonical, found.sure)
        words = found.words.replace(
            ends=jnp.where(rejected[:, None], 0, found.words.ends), after=jnp.where(rejected, 0, found.words.after)
        )

        # A predictor of the same vocabulary reads what its model sampled.
        stream, why = state.predictor_streams[self.role], jnp.zeros_like(state.kept)
        if self.device_words.for_text_predictor:
            upto = jnp.where(rejected, state.kept, jnp.max(words.ends, axis=1))
            read = rejected | jnp.any((words.ends > 0) & ~words.free, axis=1)
            stream, why = copy_tokens(stream, state.streams[self.role], sure & read, upto)
            state = state.with_predictor_stream(self.role, stream)

        # The host is asked for the other rows, if there are any.
        asked = open_ & ~sure
        shape = self.host_words.shape
        nothing = jax.tree.map(lambda leaf: jnp.zeros((len(open_), *leaf.shape), leaf.dtype), shape)
        host = jax.lax.cond(
            jnp.any(asked), lambda rows: self._ask_host(state, rows, rejected), lambda _: nothing, asked
        )
        return _Reading(
            state,
            jax.tree.map(lambda theirs, ours: pick(asked, theirs, ours), host.words, words),
            host.edits.replace(covered=pick(asked, host.edits.covered, stream.covered)),
            pick(asked, state.kept, found.proven),
            why,
        )

    def _ask_host(self, state: State, rows: Bool[Array, " B"], rejected: Bool[Array, " B"]) -> HostReading:
        stream = state.streams[self.role]
        decided = stream.kept_tokens(state.kept)
        index = (stream.base + decided)[:, None] + jnp.arange(self.k + PENDING)
        view = RowView(
            text=state.text,
            span_start=state.span_start,
            kept=state.kept,
            written=state.written,
            event=state.event,
            rejected=rejected,
            covered=state.predictor_streams[self.role].covered,
            used=state.think_tokens + decided,
            token_ends=jnp.where(index < stream.n[:, None], gather(stream.ends, index), 0),
        )
        return self.host.call("words", self.host_words.read, self.host_words.shape, rows, view)
