"""The `released_code` preset's cut, as in the code released with the paper; for comparison with the released data only.

Each turn stands for itself: the predictor reads the last 200 tokens of the text with the new tokens in it, afresh;
the first new token at which it predicts the other kind is the cut, extended to the next white space; the role
switches if the prediction flips; then the whole text is tokenised again. What is not taken over: tags found by
string search where the vocabulary has a token for them, running on after the end of the turn, and half characters.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.host_callback import TokenEdits, call_host
from tessy_jax.cooperate.judge import Judged, Verdict
from tessy_jax.cooperate.params import RoleParams
from tessy_jax.cooperate.state import Finish, Phase, Role, State
from tessy_jax.predictors.base import TextPredictor
from tessy_jax.text.repetition import Repetition
from tessy_jax.text.retokenize import Retokenizer
from tessy_jax.text.words import is_blank
from tessy_jax.text_jax.arrays import Leaf, gather, pick

_BYTES_PER_TOKEN = 16


class Window(struct.PyTreeNode):
    """The predictor's last W tokens of the text, this turn's included.

    Attributes:
      edits: the tokens; nothing is dropped, `covered` is the end of the last whole character.
      new: tokens that start after the first byte of this turn (the released comparison is strict).
      cut: where the kept text would end if it were cut at each token: its end, extended to the next white space.
      loops: whether the text up to `cut` ends in a loop; the last entry is for the text that is not cut.
      marker: where a textual end-of-thinking marker begins, and where it ends; -1 if there is none.
    """

    edits: TokenEdits
    new: Bool[Leaf, "*B W"]
    cut: Int[Leaf, "*B W"]
    loops: Bool[Leaf, "*B L"]
    marker: Int[Leaf, "*B 2"]

    @staticmethod
    def shape(width: int) -> "Window":
        def many(size: int, dtype: type) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((size,), dtype)

        return Window(
            TokenEdits.shape(width),
            many(width, jnp.bool_),
            many(width, jnp.int32),
            many(width + 1, jnp.bool_),
            many(2, jnp.int32),
        )


@dataclasses.dataclass(frozen=True)
class HostWindow:
    """The host's half."""

    retokenizer: Retokenizer
    marker: bytes | None
    repetition: Repetition | None
    width: int

    def read(self, text: np.ndarray, begin: int, written: int) -> Window:
        """Reads the text of one row; its turn began at byte `begin`."""
        data = text[:written].tobytes().decode("utf-8", errors="ignore").encode()
        ids, ends = self._last_tokens(data)
        starts: list[int] = []
        for i, end in enumerate(ends):
            before = ends[i - 1] if i else len(data[:end].decode()[:-1].encode())
            starts.append(starts[-1] if i and end == before else before)
        new = [i > 0 and start > begin for i, start in enumerate(starts)]
        cut = [self._to_white_space(data, end) if fresh else 0 for end, fresh in zip(ends, new, strict=True)]
        loops = [fresh and self._loops(data, end) for end, fresh in zip(cut, new, strict=True)]
        loops += [False] * (self.width - len(loops)) + [self._loops(data, len(data))]
        at = data.find(self.marker, max(0, begin - len(self.marker) + 1)) if self.marker else -1
        marker = (at, at + len(self.marker or b"")) if at >= 0 else (-1, -1)
        return Window(
            TokenEdits(0, ids, ends, len(ids), len(data)), *(np.asarray(a) for a in (new, cut, loops, marker))
        )

    def _last_tokens(self, data: bytes) -> tuple[list[int], list[int]]:
        """The last `width` canonical tokens, encoding no more of the text than it takes."""
        reach = self.width * _BYTES_PER_TOKEN
        while True:
            known = max(0, len(data) - reach)
            while known and data[known] & 0xC0 == 0x80:
                known -= 1
            start = self.retokenizer.sync_before(data, known) if known else 0
            ids, ends = self.retokenizer.encode(data, start, len(data))
            if start == 0 or len(ids) >= self.width:
                return ids[-self.width :], ends[-self.width :]
            reach *= 2

    def _loops(self, data: bytes, end: int) -> bool:
        return self.repetition is not None and self.repetition.loops(data, end)

    @staticmethod
    def _to_white_space(data: bytes, end: int) -> int:
        for char in data[end:].decode():
            if is_blank(char.encode()):
                break
            end += len(char.encode())
        return end


@dataclasses.dataclass(frozen=True)
class ReleasedBoundary:
    """Judges one role's turns by the released rule."""

    role: Role
    window: HostWindow
    predictor: TextPredictor
    max_think_tokens: int
    mesh: Mesh | None

    def judge(self, params: RoleParams, state: State, cache: Any, rows: Bool[Array, " B"]) -> Judged:
        """Cuts the turns of the thinking `rows`; see `judge.Boundary`. Every turn ends its span."""
        rows = rows & (state.phase == Phase.THINK) & state.whose_turn(self.role)
        width = self.window.width
        window = call_host(
            self.mesh, self.window.read, Window.shape(width), rows, state.text, state.span_start, state.written
        )
        index = jnp.arange(width)
        tokens = window.edits
        there = index < tokens.count[:, None]
        p = self.predictor.window(params.predictor, tokens.ids, jnp.where(there, index, -1))
        other = (p >= self.predictor.threshold) != (self.role == Role.STUDENT)
        bad = there & window.new & other
        is_cut = jnp.any(bad, axis=1)
        first = jnp.argmax(bad, axis=1)[:, None]
        kept = jnp.where(is_cut, gather(window.cut, first)[:, 0], tokens.covered)
        last = gather(other, tokens.count[:, None] - 1)[:, 0] & (tokens.count > 0)
        switch = is_cut | last

        marked = (window.marker[:, 0] >= 0) & (window.marker[:, 1] <= kept)
        kept = jnp.where(marked, window.marker[:, 0], kept)
        used = state.think_tokens + state.streams[self.role].kept_tokens(kept)
        looping = jnp.where(is_cut, gather(window.loops, first)[:, 0], window.loops[:, -1])

        finish = jnp.where(used >= self.max_think_tokens, Finish.LENGTH, Finish.NONE)
        finish = jnp.where(looping, Finish.LOOP, finish)
        finish = jnp.where((state.event != Finish.NONE) & (kept == tokens.covered), state.event, finish)
        finish = jnp.where(marked, Finish.END, finish)
        finish = jnp.where(tokens.count < 0, Finish.FAILED, finish)
        finish = jnp.where(rows, finish, Finish.NONE)
        state = state.replace(kept=pick(rows, kept, state.kept))
        verdict = Verdict(rows, rows & switch & (finish == Finish.NONE), finish)
        return Judged(state, cache, verdict, jnp.ones((), jnp.int32))
