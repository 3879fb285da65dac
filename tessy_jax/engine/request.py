"""Rows that differ in what they ask for: a request, and how far its row is."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from tessy_jax.cooperate.sampling import RowSettings
from tessy_jax.cooperate.state import Finish, Phase, Role, State
from tessy_jax.data.records import Span
from tessy_jax.engine.language_model import Prompt


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """What a job of one model asks for that others do not; see `RowSettings`.

    Attributes:
        prompt: token ids that the model reads, in place of the problem's messages.
        seed: with the sample's index it decides all random numbers of the row.
    """

    prompt: tuple[int, ...]
    seed: int
    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop_ids: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """What decides the random numbers besides: nothing."""
        return ""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """By role."""
        return [Prompt(list(self.prompt), b"", len(self.prompt)), Prompt([], b"", 0)]

    def fill(self, settings: RowSettings, slot: int) -> None:
        """Writes it into a slot."""
        for name in ("temperature", "top_k", "top_p", "min_p", "max_tokens"):
            getattr(settings, name)[slot] = getattr(self, name)
        settings.stop_ids[slot] = -1
        settings.stop_ids[slot, : len(self.stop_ids)] = self.stop_ids


@dataclasses.dataclass(frozen=True)
class PairRequest:
    """A job of a pair of which is told how far it is. It gives the record of a run with this seed, for this id.

    Attributes:
        prompts: of the models, by role.
        seed, id: with the sample's index they decide all random numbers of the row.
    """

    prompts: tuple[Prompt, ...]
    seed: int
    id: str


class RequestOutput(NamedTuple):
    """How far the row of a job with a request is.

    Attributes:
        key: of the job.
        text: the bytes that are decided; they may end within a character.
        think_end: where its thinking ended; -1: it has not, or there was none.
        tokens: written so far, thinking included; those of text that is not decided yet count as well.
        ends: bytes at which the tokens of the answer end.
        finish: why it has ended; NONE: it goes on.
        ids: all tokens as the model has read and written them, and behind them the one that ended the answer.
        begin: where those of the answer begin.
        finish_think: why its thinking has.
        spans: of a pair, who wrote which of the bytes; the last one may grow.
    """

    key: tuple[str, int]
    text: bytes
    think_end: int
    tokens: int
    ends: list[int]
    finish: Finish
    ids: Int[np.ndarray, " T"]
    begin: int
    finish_think: Finish = Finish.NONE
    spans: tuple[Span, ...] = ()

    @classmethod
    def read(
        cls, batch: State, slot: int, key: tuple[str, int], before: int, spans: tuple[Span, ...]
    ) -> "RequestOutput":
        """Of the row in `slot`, whose finished spans have so many tokens."""
        stream, done = batch.streams[Role.STUDENT], batch.phase[slot] == Phase.DONE
        finish = Finish(int(batch.finish_answer[slot])) or Finish(int(batch.finish_think[slot]))
        answering = batch.phase[slot] == Phase.ANSWER or batch.finish_answer[slot] != Finish.NONE
        base, n = int(stream.base[slot]), int(stream.n[slot])
        return cls(
            key=key,
            text=batch.text[slot, : int(batch.kept[slot])].tobytes(),
            think_end=int(batch.think_end[slot]),
            tokens=before + int(batch.span_sampled[slot]),
            ends=stream.ends[slot, base:n].tolist() if answering else [],
            finish=finish if done else Finish.NONE,
            ids=stream.tokens[slot, : n + (done and finish == Finish.STOP)],
            begin=base if answering else n,
            finish_think=Finish(int(batch.finish_think[slot])),
            spans=spans,
        )
