"""One model that writes alone, from a configuration."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from tessy_jax.cooperate.alone import lone_engine
from tessy_jax.cooperate.engine import Engine
from tessy_jax.models.context import Context
from tessy_jax.sample_config import SampleConfig
from tessy_jax.writer import Writer, settings


@dataclasses.dataclass(frozen=True)
class Solo:
    """A model's folder and chat, checked against its template. Its records are those of a student."""

    config: SampleConfig
    writers: tuple[Writer, ...]

    @classmethod
    def open(cls, config: SampleConfig) -> "Solo":
        """Reads what is small, as `Writer.open` does, and raises what it raises."""
        return cls(config, (Writer.open(config, "model"),))

    @property
    def plan(self) -> str:
        """What decides a text, for the user."""
        return str(self.config.budgets)

    @property
    def predictors(self) -> dict[str, tuple[Path, Context]]:
        """None: every word is kept."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What the records depend on, for the manifest."""
        config = self.config
        values = config.model_dump(mode="json", include={"budgets", "seed", "columns"})
        del values["budgets"]["k"]
        return values | {
            "context": config.engine.context,
            "dtype": config.engine.dtype,
            "alone": self.writers[0].identity(),
        }

    def load(self, mesh: Mesh | None) -> Engine:
        """Loads the weights onto the mesh and builds the engine.

        Raises:
          WeightsError, ShardingError: with the file and what to do.
        """
        config = self.config
        voice = self.writers[0].load(mesh, jnp.dtype(config.engine.dtype))
        return lone_engine(voice, config.budgets, config.budgets.k, settings(config.engine), config.seed, mesh)
