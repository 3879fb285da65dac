"""A pair of models from a configuration: chats first (cheap, and can be wrong), then weights, then the engine."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from tessy_jax import models
from tessy_jax.config import CheckpointPredictor, ConfigError, PredictorConfig, RoleConfig, SynthesisConfig
from tessy_jax.cooperate.build import build_engine
from tessy_jax.cooperate.engine import Engine, Settings
from tessy_jax.cooperate.predictors import Checkpoint, Predictor, Unigram
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.cooperate.voice import Voice
from tessy_jax.data.manifest import hash_file, hash_folder
from tessy_jax.hub import model_folder
from tessy_jax.models.weights import open_tensors
from tessy_jax.text.chat import Chat, Thinking

ROLES = ("student", "teacher")


@dataclasses.dataclass(frozen=True)
class Pair:
    """The two roles' folders and chats, checked against their templates."""

    config: SynthesisConfig
    folders: tuple[Path, ...]
    chats: tuple[Chat, ...]

    @classmethod
    def open(cls, config: SynthesisConfig) -> "Pair":
        """Reads both tokenizers and runs the conformance gate, and reads the headers of all weights.

        So whatever is wrong with the files is said before a run directory is touched and before anything long begins.

        Raises:
          ConfigError: a model or table is not there. TextError: a tokenizer or template cannot be used, or does not
            conform. WeightsError, models.ConfigError: a checkpoint is incomplete, damaged or of an unknown kind.
        """
        roles = (config.student, config.teacher)
        folders = tuple(model_folder(role.model, f"{name}.model") for name, role in zip(ROLES, roles, strict=True))
        chats = tuple(_chat(folder, role) for folder, role in zip(folders, roles, strict=True))
        for chat in chats:
            chat.check()
        judges = [_predictor_source(getattr(config.predictors, name), name) for name in ROLES]
        for folder in (*folders, *(judge for judge in judges if judge.is_dir())):
            models.read_config(folder)
            open_tensors(folder)
        return cls(config, folders, chats)

    def identity(self) -> dict[str, Any]:
        """What the records depend on, for the manifest."""
        config = self.config
        values = config.model_dump(mode="json", include={"cooperation", "seed", "columns"})
        values["context"], values["dtype"] = config.engine.context, config.engine.dtype
        for name, folder, chat in zip(ROLES, self.folders, self.chats, strict=True):
            part = getattr(config, name)
            values[name] = {
                "model": hash_folder(folder),
                "template": chat.template_hash,
                "system": part.prompt.system,
                "sampling": part.sampling.model_dump(),
                "predictor": _predictor_identity(getattr(config.predictors, name), name),
            }
        return values

    def load(self, mesh: Mesh | None) -> Engine:
        """Loads all weights onto the mesh and builds the engine.

        Raises:
          WeightsError, ShardingError, TextError: with the file and what to do.
        """
        config = self.config
        dtype = jnp.dtype(config.engine.dtype)
        voices = [
            Voice.of(
                _load(folder, mesh, dtype),
                chat,
                Sampling(**part.sampling.model_dump()),
                part.prompt.system,
            )
            for folder, chat, part in zip(self.folders, self.chats, (config.student, config.teacher), strict=True)
        ]
        predictors = [
            _predictor(getattr(config.predictors, name), name, self.chats[i], mesh, dtype)
            for i, name in enumerate(ROLES)
        ]
        engine = config.engine
        settings = Settings(
            batch=engine.batch,
            context=engine.context,
            prompt_buckets=tuple(engine.prompt_buckets),
            chunk=engine.chunk,
            turns_per_dispatch=engine.turns_per_dispatch,
            dtype=engine.dtype,
        )
        return build_engine(voices, predictors, config.cooperation, settings, config.seed, mesh)


def _load(folder: Path, mesh: Mesh | None, dtype: jnp.dtype) -> models.Model:
    try:
        return models.load(folder, mesh=mesh, dtype=dtype)
    except models.ShardingError as error:
        raise models.ShardingError(f"{folder}: {error}") from None


def _chat(folder: Path, role: RoleConfig) -> Chat:
    return Chat.load(folder, template=role.prompt.template, thinking=Thinking(**role.thinking.model_dump()))


def _predictor(config: PredictorConfig, name: str, chat: Chat, mesh: Mesh | None, dtype: jnp.dtype) -> Predictor:
    source = _predictor_source(config, name)
    if isinstance(config, CheckpointPredictor):
        return Checkpoint.load(
            source, threshold=config.threshold, shift=config.shift, block=config.block, mesh=mesh, dtype=dtype
        )
    return Unigram.load(source, chat.tokenizer, threshold=config.threshold)


def _predictor_identity(config: PredictorConfig, name: str) -> dict[str, Any]:
    values, source = config.model_dump(mode="json"), _predictor_source(config, name)
    if isinstance(config, CheckpointPredictor):
        return values | {"model": hash_folder(source)}
    return values | {"table": hash_file(source)}


def _predictor_source(config: PredictorConfig, name: str) -> Path:
    """The folder or the table of a predictor."""
    if isinstance(config, CheckpointPredictor):
        return model_folder(config.model, f"predictors.{name}.model")
    table = Path(config.table).expanduser()
    if not table.is_file():
        raise ConfigError(f"predictors.{name}.table: there is no file '{config.table}'")
    return table
