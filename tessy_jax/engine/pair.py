"""A pair of models from a configuration: chats first (cheap, and can be wrong), then weights, then the engine."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from tessy_jax import models
from tessy_jax.config.synthesize import CheckpointPredictor, PredictorConfig, ProbePredictor, SynthesisConfig
from tessy_jax.data.hashing import hash_file, hash_folder
from tessy_jax.engine.build import build_engine
from tessy_jax.engine.engine import Engine, settings
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.errors import ConfigError
from tessy_jax.models import Blocks
from tessy_jax.models.hub import model_folder
from tessy_jax.models.mask import Mask
from tessy_jax.models.weights import open_tensors
from tessy_jax.predictors.base import Checkpoint, Predictor, Unigram
from tessy_jax.predictors.probe import Probe
from tessy_jax.text.chat import Chat

ROLES = ("student", "teacher")


@dataclasses.dataclass(frozen=True)
class Pair:
    """The two roles' folders and chats, checked against their templates."""

    config: SynthesisConfig
    writers: tuple[ModelSource, ...]

    @classmethod
    def open(cls, config: SynthesisConfig) -> "Pair":
        """Reads both tokenizers and runs the conformance gate, and reads the headers of all weights.

        So whatever is wrong with the files is said before a run directory is touched and before anything long begins.

        Raises:
          ConfigError: a model or table is not there. TextError: a tokenizer or template cannot be used, or does not
            conform. WeightsError, models.ModelConfigError: a checkpoint is incomplete, damaged or of an unknown kind.
        """
        writers = tuple(ModelSource.open(getattr(config, name), f"{name}.model") for name in ROLES)
        for name, writer in zip(ROLES, writers, strict=True):
            predictor = getattr(config.predictors, name)
            source = _predictor_source(predictor, name)
            if isinstance(predictor, CheckpointPredictor):
                models.read_config(source)
                open_tensors(source)
            if isinstance(predictor, ProbePredictor):
                Probe.load(source, writer.chat.tokenizer, models.read_config(writer.folder))
        return cls(config, writers)

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(writer.folder for writer in self.writers)

    @property
    def chats(self) -> tuple[Chat, ...]:
        return tuple(writer.chat for writer in self.writers)

    @property
    def plan(self) -> str:
        """What decides a trace, for the user."""
        return str(self.config.cooperation)

    @property
    def predictors(self) -> dict[str, tuple[Path, Mask]]:
        """Predictors with weights of their own, by name: their folders, and what their tokens see."""
        named = {f"{name}'s predictor": getattr(self.config.predictors, name) for name in ROLES}
        return {
            name: (Path(predictor.model), Blocks(predictor.block))
            for name, predictor in named.items()
            if isinstance(predictor, CheckpointPredictor)
        }

    def identity(self) -> dict[str, Any]:
        """What the records depend on, for the manifest."""
        config = self.config
        values = config.model_dump(mode="json", include={"cooperation", "seed", "columns"})
        values["context"], values["dtype"] = config.engine.context, config.engine.dtype
        for name, writer in zip(ROLES, self.writers, strict=True):
            predictor = _predictor_identity(getattr(config.predictors, name), name)
            values[name] = writer.identity() | {"predictor": predictor}
        return values

    def load(self, mesh: Mesh | None) -> Engine:
        """Loads all weights onto the mesh and builds the engine.

        Raises:
          WeightsError, ShardingError, TextError: with the file and what to do.
        """
        config = self.config
        dtype = jnp.dtype(config.engine.dtype)
        voices = [writer.load(mesh, dtype) for writer in self.writers]
        predictors = [
            _predictor(getattr(config.predictors, name), name, writer, mesh, dtype)
            for name, writer in zip(ROLES, self.writers, strict=True)
        ]
        return build_engine(voices, predictors, config.cooperation, settings(config.engine), config.seed, mesh)


def _predictor(
    config: PredictorConfig, name: str, writer: ModelSource, mesh: Mesh | None, dtype: jnp.dtype
) -> Predictor | Probe:
    source = _predictor_source(config, name)
    if isinstance(config, CheckpointPredictor):
        return Checkpoint.load(
            source, threshold=config.threshold, shift=config.shift, block=config.block, mesh=mesh, dtype=dtype
        )
    if isinstance(config, ProbePredictor):
        probe = Probe.load(source, writer.chat.tokenizer, models.read_config(writer.folder))
        return probe if config.threshold is None else dataclasses.replace(probe, threshold=config.threshold)
    return Unigram.load(source, writer.chat.tokenizer, threshold=config.threshold)


def _predictor_identity(config: PredictorConfig, name: str) -> dict[str, Any]:
    values, source = config.model_dump(mode="json"), _predictor_source(config, name)
    if isinstance(config, CheckpointPredictor):
        return values | {"model": hash_folder(source)}
    if isinstance(config, ProbePredictor):
        return values | {"model": hash_file(source / "probe.safetensors")}
    return values | {"table": hash_file(source)}


def _predictor_source(config: PredictorConfig, name: str) -> Path:
    """The folder or the table of a predictor."""
    if isinstance(config, CheckpointPredictor):
        return model_folder(config.model, f"predictors.{name}.model")
    if isinstance(config, ProbePredictor):
        return Path(config.model).expanduser()
    table = Path(config.table).expanduser()
    if not table.is_file():
        raise ConfigError(f"predictors.{name}.table: there is no file '{config.table}'")
    return table
