"""The preset `released_code`: the rule of the code released with the paper, for comparison with the released data.

There each turn is a request to a server, which is given prompt and text as one string (`requests.py`). Then the
predictor reads the last 200 tokens of the text with the new tokens in it, afresh; the first new token at which it
predicts the other kind is the cut, extended to the next white space; the role switches if the prediction flips.
docs/algorithm.md says what is not taken over.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.host_callback import Host, TokenEdits
from tessy_jax.cooperate.judge import Judged, Verdict
from tessy_jax.cooperate.params import RoleParams
from tessy_jax.cooperate.state import Finish, Phase, Role, State
from tessy_jax.predictors.base import TextPredictor
from tessy_jax.text.repetition import Repetition
from tessy_jax.text.retokenize import Retokenizer
from tessy_jax.text_jax.arrays import Leaf, gather, pick

END_TAGS = (b"</think>", b"assistantfinal")
"""What ends the thinking where it stands in the text, in the order in which they are looked for."""

ATTEMPTS = 3
"""Requests for one turn, at most, until something else than white space comes back."""

_BYTES_PER_TOKEN = 16


class Window(struct.PyTreeNode):
    """The predictor's last W tokens of the text, this turn's included.

    Attributes:
      edits: the tokens; nothing is dropped, `covered` is the end of the last whole character.
      new: tokens that start after the first byte of this turn (the released comparison is strict).
      cut: where the kept text would end if it were cut at each token: its end, extended to the next white space. The
        last entry, here and below, is for the text that is not cut.
      loops: whether the text up to `cut` ends in a loop.
      tokens: the student's tokens of what this turn would keep, on its own.
      tags: where each end-of-thinking tag begins, and where it ends; -1 if it is not there.
      blank: whether the turn has brought white space only, or nothing.
    """

    edits: TokenEdits
    new: Bool[Leaf, "*B W"]
    cut: Int[Leaf, "*B L"]
    loops: Bool[Leaf, "*B L"]
    tokens: Int[Leaf, "*B L"]
    tags: Int[Leaf, "*B T 2"]
    blank: Bool[Leaf, "*B"]

    @staticmethod
    def shape(width: int, tags: int) -> "Window":
        def many(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype)

        return Window(
            edits=TokenEdits.shape(width),
            new=many(jnp.bool_, width),
            cut=many(jnp.int32, width + 1),
            loops=many(jnp.bool_, width + 1),
            tokens=many(jnp.int32, width + 1),
            tags=many(jnp.int32, tags, 2),
            blank=many(jnp.bool_),
        )


@dataclasses.dataclass(frozen=True)
class HostWindow:
    """The host's half.

    Attributes:
        predictor, student: their tokens.
        tags: texts that end the thinking.
        repetition: when a text loops; None: never.
        width: tokens that the predictor sees.
    """

    predictor: Retokenizer
    student: Retokenizer
    tags: tuple[bytes, ...]
    repetition: Repetition | None
    width: int

    @property
    def shape(self) -> Window:
        """Shapes of the window of one row."""
        return Window.shape(self.width, len(self.tags))

    def read(self, text: np.ndarray, begin: int, written: int) -> Window:
        """Reads the text of one row; its turn began at byte `begin`."""
        data, begin = text[:written].tobytes().decode("utf-8", errors="ignore").encode(), int(begin)
        ids, starts, ends = self._last_tokens(data)
        new = [start > begin for start in starts]
        behind = [None] * (self.width - len(ids))
        cuts = [_to_white_space(data, end) if fresh else None for end, fresh in zip(ends, new, strict=True)]
        cuts += [*behind, len(data)]
        return Window(
            edits=TokenEdits(0, ids, ends, len(ids), len(data)),
            new=np.asarray(new, bool),
            cut=np.array([cut or 0 for cut in cuts]),
            loops=np.array([cut is not None and self._loops(data, cut) for cut in cuts]),
            tokens=np.array([0 if cut is None else len(self.student.encode(data, begin, cut)[0]) for cut in cuts]),
            tags=np.array([_find(data, tag, begin) for tag in self.tags]),
            blank=np.asarray(not data[begin:].decode().strip()),
        )

    def _last_tokens(self, data: bytes) -> tuple[list[int], list[int], list[int]]:
        """The last `width` tokens of the text, where they start and where they end, encoding no more than it takes."""
        reach = self.width * _BYTES_PER_TOKEN
        while True:
            known = max(0, len(data) - reach)
            while known and data[known] & 0xC0 == 0x80:
                known -= 1
            start = self.predictor.sync_before(data, known) if known else 0
            ids, ends = self.predictor.encode(data, start, len(data))
            if start == 0 or len(ids) >= self.width:
                starts = _starts(start, ends)
                return ids[-self.width :], starts[-self.width :], ends[-self.width :]
            reach *= 2

    def _loops(self, data: bytes, end: int) -> bool:
        return self.repetition is not None and self.repetition.loops(data, end)


def _starts(start: int, ends: list[int]) -> list[int]:
    """Where tokens start; those of one character start where it does, as they end where it ends."""
    starts: list[int] = []
    for before, end in zip([start, *ends], ends, strict=False):
        starts.append(starts[-1] if starts and end == before else before)
    return starts


def _to_white_space(data: bytes, end: int) -> int:
    for char in data[end:].decode():
        if char.isspace():
            break
        end += len(char.encode())
    return end


def _find(data: bytes, tag: bytes, begin: int) -> tuple[int, int]:
    """Where `tag` stands; before this turn it did not."""
    at = data.find(tag, max(0, begin - len(tag) + 1))
    return (at, at + len(tag)) if at >= 0 else (-1, -1)


@dataclasses.dataclass(frozen=True)
class ReleasedBoundary:
    """Judges one role's turns by the released rule.

    Attributes:
        max_tokens: budget of the student's prompt and the thinking together.
    """

    role: Role
    window: HostWindow
    predictor: TextPredictor
    max_tokens: int
    host: Host

    def judge(self, params: RoleParams, state: State, cache: Any, rows: Bool[Array, " B"]) -> Judged:
        """Cuts the turns of the thinking `rows`; see `judge.Boundary`. Every turn ends its span."""
        rows = rows & (state.phase == Phase.THINK) & state.whose_turn(self.role)
        window = self.host.call(
            "words", self.window.read, self.window.shape, rows, state.text, state.span_start, state.written
        )

        # The first new token that is predicted to be of the other kind; a tie is capability, as argmax takes the first.
        tokens, index = window.edits, jnp.arange(self.window.width)
        there = index < tokens.count[:, None]
        p = self.predictor.window(params.predictor, tokens.ids, jnp.where(there, index, -1))
        other = (p > self.predictor.threshold) != (self.role == Role.STUDENT)
        bad = there & window.new & other
        is_cut = jnp.any(bad, axis=1)
        cut = jnp.where(is_cut, jnp.argmax(bad, axis=1), self.window.width)[:, None]
        kept, looping, used = (gather(column, cut)[:, 0] for column in (window.cut, window.loops, window.tokens))
        switch = is_cut | (gather(other, tokens.count[:, None] - 1)[:, 0] & (tokens.count > 0))

        # Text behind an end of thinking is not kept; where the whole turn is, a token may have ended the thinking.
        whole = kept == tokens.covered
        tagged = (window.tags[..., 0] >= 0) & (window.tags[..., 1] <= kept[:, None])
        tag = jnp.argmax(tagged, axis=1)[:, None]
        tagged = jnp.any(tagged, axis=1)
        kept = jnp.where(tagged, gather(window.tags[..., 0], tag)[:, 0], kept)

        # White space only, before the model has ended anything but its turn: the same request again.
        assert state.requests is not None
        blank = window.blank & ((state.event == Finish.NONE) | (state.event == Finish.EOS))
        kept = jnp.where(blank, state.span_start, kept)
        used = jnp.where(blank, 0, used)
        attempt = jnp.where(blank, state.requests.attempt + 1, 0)

        # The end of the turn ends no thinking: the model is asked again, for what follows its text.
        spent = state.requests.openings[Role.STUDENT].prompt + state.think_tokens + used >= self.max_tokens
        finish = jnp.where(looping, Finish.LOOP, Finish.NONE)
        ended = (state.event != Finish.NONE) & (state.event != Finish.EOS)
        finish = jnp.where(ended & whole, state.event, finish)
        finish = jnp.where(tagged, Finish.END, finish)
        finish = jnp.where(spent, Finish.LENGTH, finish)
        finish = jnp.where((state.event == Finish.OVERFLOW) & whole, Finish.OVERFLOW, finish)
        finish = jnp.where(blank, jnp.where(attempt < ATTEMPTS, Finish.NONE, Finish.BLANK), finish)
        finish = jnp.where(tokens.count < 0, Finish.FAILED, finish)
        finish = jnp.where(rows, finish, Finish.NONE)

        requests = state.requests.replace(attempt=pick(rows, attempt, state.requests.attempt))
        state = state.replace(kept=pick(rows, kept, state.kept), requests=requests)
        verdict = Verdict(rows, rows & switch & ~blank & (finish == Finish.NONE), finish, used)
        return Judged(state, cache, verdict, jnp.ones((), jnp.int32))
