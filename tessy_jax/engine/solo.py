"""One model writing alone, in the same loop: a pair whose teacher has no turn, and a predictor that keeps all words."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Int

from tessy_jax.config.sample import SampleConfig
from tessy_jax.config.sections import Budgets, EngineConfig
from tessy_jax.config.synthesize import PaperCooperation
from tessy_jax.cooperate.state import Role
from tessy_jax.cooperate.turn import RollbackSchedule
from tessy_jax.data.records import Message, Problem, RowState
from tessy_jax.engine.build import build_schedule
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import LanguageModel, ModelSource
from tessy_jax.engine.request import GenerationRequest
from tessy_jax.engine.rows import AS_NAMED, NAMES, Job, Seats
from tessy_jax.engine.sizes import PromptRoom, prompt_room
from tessy_jax.engine.writers import WithoutPredictors
from tessy_jax.models.cache import Cache, Pool, init_cache
from tessy_jax.models.mask import Blocks
from tessy_jax.text.chat import Chat
from tessy_jax.text.tokenizer import ContentTokenizer


def _identity(config: SampleConfig, alone: Mapping[str, Any]) -> dict[str, Any]:
    values = config.model_dump(mode="json", include={"budgets", "seed", "columns"})
    del values["budgets"]["k"]
    return values | {"context": config.engine.context, "dtype": config.engine.dtype, "alone": alone}


@dataclasses.dataclass(frozen=True)
class Solo(WithoutPredictors):
    """A model's folder and chat, checked against its template. Its records are those of a student."""

    config: SampleConfig
    sources: tuple[ModelSource, ...]

    @classmethod
    def open(cls, config: SampleConfig) -> "Solo":
        """Reads what is small, as `ModelSource.open` does, and raises what it raises."""
        return cls(config, (ModelSource.open(config, "model"),))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return NAMES[:1]

    @property
    def plan(self) -> str:
        """What decides a text, for the user."""
        return str(self.config.budgets)

    @property
    def rooms(self) -> list[PromptRoom]:
        """The room for a prompt, twice; raises ConfigError where there is none."""
        budgets = self.config.budgets
        return prompt_room(budgets, self.config.engine, budgets.k)

    def identity(self) -> dict[str, Any]:
        """What the records depend on, for the manifest."""
        return _identity(self.config, self.sources[0].identity())

    @staticmethod
    def identity_as(stored: Mapping[str, Any], config: SampleConfig) -> dict[str, Any] | None:
        """As `Pair.identity_as`."""
        alone = ModelSource.identity_as(stored["alone"], config, "model")
        return None if alone is None else _identity(config, alone)

    def load(self, mesh: Mesh | None = None) -> Engine:
        """Loads the weights onto the mesh and builds the engine.

        Raises:
          WeightsError, ShardingError: with the file and what to do.
        """
        config = self.config
        model = self.sources[0].load(mesh, jnp.dtype(config.engine.dtype))
        return solo_engine(model, config.budgets, config.budgets.k, config.engine, config.seed, mesh)


@dataclasses.dataclass(frozen=True, eq=False)
class NoTeacher(LanguageModel):
    """The teacher that has no turn. It shares the student's weights, and its cache is as small as may be."""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return []

    def init_cache(
        self, batch: int, length: int, slack: int, dtype: DTypeLike, mesh: Mesh | None, pool: Pool | None = None
    ) -> Cache:
        return init_cache(self.config, batch, length, slack, dtype, mask=Blocks(1), mesh=mesh)


@dataclasses.dataclass(frozen=True, eq=False)
class KeepAll:
    """A predictor to which all words are alike: style, and the first role keeps them all. With `p_style` 0 they are
    capability, and the second role does.
    """

    tokenizer: ContentTokenizer
    params: Any = ()
    p_style: float = 1.0
    threshold: float = 0.5
    shift: int = 0
    layer: None = None

    def init_cache(self, batch: int, length: int, slack: int, mesh: Mesh | None) -> Any:
        return ()

    def style(
        self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], cache: Any
    ) -> tuple[Float[Array, "B C"], Any]:
        return self.window(params, tokens, positions), cache

    def window(self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"]) -> Float[Array, "B C"]:
        return jnp.full(tokens.shape, self.p_style, jnp.float32)


class DirectChat(Chat):
    """A chat with a model that answers at once: no thinking, and nothing that marks it."""

    @property
    def close_text(self) -> bytes:
        return b""

    def closed_ids(self, trace: bytes, answer: bytes = b"", start: int = 0) -> list[int]:
        return self.tokenizer.encode(trace[start:] + answer)[0]


def answer_job(model: LanguageModel, problem: Problem, sample: int = 0) -> Job:
    """A job whose thinking is over before it began: the text begins with its end."""
    text = model.chat.close_text
    state = RowState(
        id=problem.id, sample_index=sample, text=text, spans=(), role="student", phase="answer", span_start=len(text),
        kept=len(text), span_tokens=(), span_ends=(), event=0, counters={"think_end": 0}, finish_think="end",
    )  # fmt: skip
    return Job(problem, sample, state)


def request_job(request: GenerationRequest, id: str, sample: int, thinks: bool) -> Job:
    """A job for an engine whose rows have settings of their own.

    Args:
        id: with the sample's index unique among the jobs.
        thinks: whether what follows the prompt is thinking first; else it is all answer.
    """
    state = RowState(
        id=id, sample_index=sample, text=b"", spans=(), role="student", phase="answer", span_start=0, kept=0,
        span_tokens=(), span_ends=(), event=0, counters={"think_end": -1}, finish_think=None,
    )  # fmt: skip
    return Job(Problem(id=id, messages=[]), sample, None if thinks else state, request)


def solo_engine(
    model: LanguageModel,
    budgets: Budgets,
    k: int,
    config: EngineConfig,
    seed: int,
    mesh: Mesh | None,
    seats: Seats = AS_NAMED,
    stop_ids: int | None = None,
) -> Engine:
    """An engine in which `model` writes thinking and answer, `k` tokens per turn, as the first of `seats`.

    Args:
        stop_ids: room for the stop ids of rows that have settings of their own (`GenerationRequest`); None: they
            have none.
    """
    teacher = NoTeacher(**{field.name: getattr(model, field.name) for field in dataclasses.fields(LanguageModel)})
    keep = KeepAll(model.chat.tokenizer)
    limits = {name: getattr(budgets, name) for name in Budgets.model_fields}
    cooperation = PaperCooperation(preset="paper", k=k, **limits)
    models, predictors = (model, teacher), (keep, keep)
    pair = build_schedule(models, predictors, cooperation, config, mesh, schedule="rollback")
    alone = RollbackSchedule((pair.turns[Role.STUDENT],))
    return Engine(alone, models, predictors, config, cooperation, seed, mesh, seats=seats, stop_ids=stop_ids)
