"""A pair of models from a configuration: chats first (cheap, and can be wrong), then weights, then the engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from tessy_jax.config.synthesize import ReleasedCodeCooperation, SynthesisConfig
from tessy_jax.engine.build import build_engine, tokens_per_turn
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.engine.rows import NAMES, Keeps
from tessy_jax.engine.sizes import PromptRoom, prompt_room
from tessy_jax.engine.writers import Stage
from tessy_jax.predictors.base import JudgedModel, OwnModel, PredictorSource
from tessy_jax.predictors.registry import identify_predictor, open_predictor
from tessy_jax.text.chat import Chat

RELEASED_RULES = 2
"""Of the preset `released_code`, in the identity of a run. 1 (the manifest has no such key): as it was before prompt
and text were one string at every turn, and what else has come with that (CHANGELOG.md).
"""


def _identity(
    config: SynthesisConfig, sources: Sequence[Mapping[str, Any]], predictors: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    values = config.model_dump(mode="json", include={"cooperation", "seed", "columns", "keep_dropped", "keep_scores"})
    values["context"], values["dtype"] = config.engine.context, config.engine.dtype
    for name, source, predictor in zip(NAMES, sources, predictors, strict=True):
        values[name] = {**source, "predictor": predictor}
    return values


@dataclass(frozen=True)
class Pair:
    """The two roles' models and predictors: found and checked, not loaded.

    Attributes:
        sources, predictors: by role.
    """

    config: SynthesisConfig
    sources: tuple[ModelSource, ...]
    predictors: tuple[PredictorSource, ...]

    @classmethod
    def open(cls, config: SynthesisConfig) -> "Pair":
        """Reads both tokenizers and runs the conformance gate, and reads the headers of all weights.

        So whatever is wrong with the files is said before a run directory is touched and before anything long begins.

        Raises:
            ConfigError: a model or table is not there. TextError: a tokenizer or template cannot be used, or does not
                conform. WeightsError, ModelConfigError: a checkpoint is incomplete, damaged or of an unknown kind.
        """
        sources = tuple(ModelSource.open(getattr(config, name), f"{name}.model") for name in NAMES)
        predictors = tuple(
            open_predictor(
                getattr(config.predictors, name),
                f"predictors.{name}",
                JudgedModel(source.chat.tokenizer, source.checkpoint_config),
            )
            for name, source in zip(NAMES, sources, strict=True)
        )
        return cls(config, sources, predictors)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return NAMES

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of the models."""
        return tuple(source.folder for source in self.sources)

    @property
    def chats(self) -> tuple[Chat, ...]:
        """Of the models."""
        return tuple(source.chat for source in self.sources)

    @property
    def plan(self) -> str:
        """What decides a trace, for the user."""
        return str(self.config.cooperation)

    @property
    def rooms(self) -> list[PromptRoom]:
        """The room for each prompt; raises ConfigError where there is none."""
        cooperation = self.config.cooperation
        return prompt_room(cooperation, self.config.engine, max(tokens_per_turn(cooperation)))

    @property
    def predictor_models(self) -> dict[str, OwnModel]:
        """The models that predictors bring along, by name."""
        named = zip(NAMES, self.predictors, strict=True)
        return {f"{name}'s predictor": own for name, source in named if (own := source.own_model) is not None}

    @property
    def rules(self) -> int:
        """The number of the rules that records follow and that no key of the configuration says."""
        return RELEASED_RULES if isinstance(self.config.cooperation, ReleasedCodeCooperation) else 1

    @property
    def stages(self) -> tuple[Stage, ...]:
        """None: nothing is written first."""
        return ()

    def identity(self) -> dict[str, Any]:
        """What the records depend on but for `rules`, for the manifest."""
        sources, predictors = ([each.identity() for each in both] for both in (self.sources, self.predictors))
        return _identity(self.config, sources, predictors)

    @staticmethod
    def identity_as(stored: Mapping[str, Any], config: SynthesisConfig) -> dict[str, Any] | None:
        """The identity of the pair that `open` would give, told from files without opening a tokenizer, by one that is
        `stored`; None where it cannot be told so, or certainly is another.
        """
        sources = [ModelSource.identity_as(stored[name], getattr(config, name), f"{name}.model") for name in NAMES]
        predictors = [identify_predictor(getattr(config.predictors, name), f"predictors.{name}") for name in NAMES]
        known_sources, known_predictors = ([each for each in both if each] for both in (sources, predictors))
        if len(known_sources) + len(known_predictors) < 2 * len(NAMES):
            return None
        return _identity(config, known_sources, known_predictors)

    def load(self, mesh: Mesh | None = None) -> Engine:
        """Loads all weights onto the mesh and builds the engine; without a mesh, on one device.

        Raises:
            WeightsError, ShardingError, TextError: with the file and what to do.
        """
        config = self.config
        dtype = jnp.dtype(config.engine.dtype)
        models = [source.load(mesh, dtype) for source in self.sources]
        predictors = [source.load(mesh, dtype) for source in self.predictors]
        more = config.cooperation, config.engine, config.seed
        keeps = Keeps(config.keep_dropped, config.keep_scores)
        return build_engine(models, predictors, *more, mesh, schedule=config.schedule, keeps=keeps)
