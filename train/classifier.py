"""The predictor to train, from a configuration: its tokenizer first (cheap, and can be wrong), then what trains it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from tessy_jax import models
from tessy_jax.config.train_predictor import TrainPredictorConfig
from tessy_jax.data.hashing import hash_file, hash_folder
from tessy_jax.data.sources import data_path, files
from tessy_jax.errors import ConfigError
from tessy_jax.models.hub import model_folder
from tessy_jax.models.weights import open_tensors
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.train import step
from tessy_jax.train.data.labels import LABELS
from tessy_jax.train.data.packing import BatchPlan
from tessy_jax.train.lora import Full
from tessy_jax.train.loss import token_class
from tessy_jax.train.memory import step_memory
from tessy_jax.train.mfu import Arithmetic
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.student import adamw


@dataclass(frozen=True)
class Classifier:
    """A checkpoint's folder, tokenizer and shapes as a token classifier, checked."""

    config: TrainPredictorConfig
    folder: Path
    tokenizer: ContentTokenizer
    model: models.DecoderConfig

    @classmethod
    def open(cls, config: TrainPredictorConfig) -> "Classifier":
        """Reads the tokenizer and the headers of the weights.

        Raises:
          ConfigError: the model or a source of data is not there, or the rows are longer than the model reads.
          TextError, WeightsError, models.ModelConfigError: what is there cannot be used.
        """
        for source in config.data.train:
            if not Path(source).expanduser().exists():
                raise ConfigError(f"data.train: there is no file or folder '{source}'")
        if config.baseline is not None and not Path(config.baseline).expanduser().is_file():
            raise ConfigError(f"baseline: there is no file '{config.baseline}'")
        folder = model_folder(config.model, "model")
        tokenizer = ContentTokenizer.load(folder)
        model = models.classifier_config(folder, LABELS)
        if config.data.length > model.max_position_embeddings:
            raise ConfigError(
                f"data.length: {folder} reads {model.max_position_embeddings} tokens at most, not {config.data.length}"
            )
        open_tensors(folder)
        return cls(config, folder, tokenizer, model)

    def identity(self) -> dict[str, Any]:
        """What the trained weights depend on, for the manifest."""
        config = self.config
        kept = {"shift", "class_weights", "batch", "epochs", "max_steps", "patience", "optimizer", "seed"}
        values = config.model_dump(mode="json", include=kept)
        files = {f"{n}/{file.name}": hash_file(file) for n, file in enumerate(_files(config.data.train))}
        return values | {
            "model": hash_folder(self.folder),
            "data": {"length": config.data.length, "held_out": config.data.held_out, "files": files},
            "every": config.checkpoint.every if config.patience else None,  # says when patience is tried
            "dtype": config.compute.dtype,
        }

    @property
    def compute(self) -> step.Compute:
        """How a step is computed."""
        return step.Compute(**self.config.compute.model_dump(exclude={"compilation_cache"}))

    @property
    def arithmetic(self) -> Arithmetic:
        """What a step has to compute."""
        return Arithmetic(self.model)

    def optimizer(self, steps: int) -> AdamW:
        """For a run of so many steps."""
        return adamw(self.config.optimizer, steps)

    def memory(self, mesh: Mesh | None, plan: BatchPlan) -> dict[str, float]:
        """GiB of one device in a step of the plan; see `step_memory`."""
        pieces = self.config.accumulate
        shape = (pieces, plan.rows // pieces, plan.length)
        return step_memory(self.model, mesh, self.optimizer(plan.steps), self.compute, Full(), token_class, shape)

    def load(self, mesh: Mesh | None, optimizer: AdamW) -> step.TrainState:
        """The state before the first step, on the mesh.

        Raises:
          WeightsError, ShardingError: with the file and what to do.
        """
        key = jax.random.key(self.config.seed)
        weights = models.load_classifier(self.folder, LABELS, key, mesh=mesh, rules=models.TRAINING)
        return step.init(self.model, models.named_parameters(weights), mesh, optimizer, Full())

    def trained(self, state: step.TrainState, mesh: Mesh | None) -> models.Model:
        """The model with the weights of a state."""
        return models.with_parameters(self.model, state.params, mesh, models.TRAINING)


def _files(sources: tuple[str, ...]) -> list[Path]:
    return [file for source in sources for file in files(data_path(Path(source)))]
