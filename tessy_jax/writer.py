"""One writing model from a configuration: its chat first (cheap, and can be wrong), then its weights."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from tessy_jax import models
from tessy_jax.config import EngineConfig, RoleConfig
from tessy_jax.cooperate.engine import Settings
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.cooperate.voice import Voice
from tessy_jax.data.manifest import hash_folder
from tessy_jax.hub import model_folder
from tessy_jax.models.weights import open_tensors
from tessy_jax.text.chat import Chat
from tessy_jax.text.thinking import thinking_of


@dataclass(frozen=True)
class Writer:
    """The folder and the chat of a model that writes, checked against its template."""

    config: RoleConfig
    folder: Path
    chat: Chat

    @classmethod
    def open(cls, config: RoleConfig, key: str, chat: type[Chat] = Chat) -> "Writer":
        """Reads the tokenizer, runs the conformance gate, and reads the headers of the weights.

        Args:
          key: where the configuration names the model, for messages.
          chat: how it is talked to.

        Raises:
          ConfigError: the model is not there. TextError: its tokenizer or template cannot be used, or does not conform.
            WeightsError, models.ConfigError: the checkpoint is incomplete, damaged or of an unknown kind.
        """
        folder = model_folder(config.model, key)
        thinking = thinking_of(folder, **config.thinking.model_dump(exclude_none=True))
        loaded = chat.load(folder, thinking=thinking, **config.prompt.model_dump(exclude={"system"}))
        loaded.check()
        writer = cls(config, folder, loaded)
        shapes = writer.shapes
        try:
            models.describe(shapes)
        except models.ConfigError as error:
            raise models.ConfigError(f"{folder}: {error}") from None
        open_tensors(folder)
        return writer

    def identity(self) -> dict[str, Any]:
        """What the model's text depends on, for manifests."""
        return {
            "model": hash_folder(self.folder),
            "template": self.chat.template_hash,
            "system": self.config.prompt.system,
            "sampling": self.config.sampling.model_dump(),
        } | self.config.model_dump(include={"weights", "cache"}, exclude_none=True)

    @property
    def shapes(self) -> models.DecoderConfig:
        """The model as it will be loaded."""
        return dataclasses.replace(models.read_config(self.folder), **self.config.loading)

    def load(self, mesh: Mesh | None, dtype: jnp.dtype) -> Voice:
        """Loads the weights onto the mesh.

        Raises:
          WeightsError, ShardingError: with the file and what to do.
        """
        try:
            model = models.load(self.folder, mesh=mesh, dtype=dtype, **self.config.loading)
        except models.ShardingError as error:
            raise models.ShardingError(f"{self.folder}: {error}") from None
        sampling = Sampling(**self.config.sampling.model_dump())
        return Voice.of(model, self.chat, sampling, self.config.prompt.system, self.config.cache)


def settings(engine: EngineConfig) -> Settings:
    """The engine's sizes, from the configuration."""
    return Settings(
        batch=engine.batch,
        context=engine.context,
        prompt_buckets=tuple(engine.prompt_buckets),
        chunk=engine.chunk,
        turns_per_dispatch=engine.turns_per_dispatch,
        dtype=engine.dtype,
    )
