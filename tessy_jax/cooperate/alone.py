"""One model writing alone, in the same loop: a pair whose teacher is silent, and a predictor that keeps every word."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Int

from tessy_jax.config import Budgets, PaperCooperation
from tessy_jax.cooperate.build import build_engine
from tessy_jax.cooperate.engine import Engine, Settings
from tessy_jax.cooperate.rows import Job
from tessy_jax.cooperate.voice import Voice
from tessy_jax.data.records import Message, Problem, RowState
from tessy_jax.models import Blocks, Cache, init_cache
from tessy_jax.text.chat import Chat
from tessy_jax.text.tokenizer import ContentTokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Silent(Voice):
    """The teacher that never has its turn. It shares the weights of the other, and its cache is as small as may be."""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return []

    def init_cache(self, batch: int, length: int, slack: int, dtype: DTypeLike, mesh: Mesh | None) -> Cache:
        return init_cache(self.config, batch, length, slack, dtype, context=Blocks(1), mesh=mesh)


@dataclasses.dataclass(frozen=True, eq=False)
class Everything:
    """A predictor to which every word is style: the student keeps them all."""

    tokenizer: ContentTokenizer
    params: Any = ()
    threshold: float = 0.5
    shift: int = 0

    def init_cache(self, batch: int, length: int, slack: int, mesh: Mesh | None) -> Any:
        return ()

    def style(
        self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], cache: Any
    ) -> tuple[Float[Array, "B C"], Any]:
        return jnp.ones(tokens.shape, jnp.float32), cache

    def window(self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"]) -> Float[Array, "B C"]:
        return jnp.ones(tokens.shape, jnp.float32)


class DirectChat(Chat):
    """A chat with a model that answers at once: no thinking, and nothing that marks it."""

    @property
    def close_text(self) -> bytes:
        return b""

    def closed_ids(self, trace: bytes, answer: bytes = b"", start: int = 0) -> list[int]:
        return self.tokenizer.encode(trace[start:] + answer)[0]


def answering(voice: Voice, problem: Problem, sample: int = 0) -> Job:
    """A job whose thinking is over before it began: the text begins with its end."""
    text = voice.chat.close_text
    state = RowState(
        id=problem.id, sample_index=sample, text=text, spans=(), role="student", phase="answer", span_start=len(text),
        kept=len(text), span_tokens=(), span_ends=(), event=0, counters={"think_end": 0}, finish_think="end",
    )  # fmt: skip
    return Job(problem, sample, state)


def lone_engine(voice: Voice, budgets: Budgets, k: int, settings: Settings, seed: int, mesh: Mesh | None) -> Engine:
    """An engine in which `voice` writes thinking and answer, `k` tokens per turn, as the student."""
    silent = Silent(**{field.name: getattr(voice, field.name) for field in dataclasses.fields(Voice)})
    judge = Everything(voice.chat.tokenizer)
    limits = {name: getattr(budgets, name) for name in Budgets.model_fields}
    cooperation = PaperCooperation(preset="paper", k=k, **limits)
    return build_engine((voice, silent), (judge, judge), cooperation, settings, seed, mesh)
