"""The student to train, from a configuration: its chat first (cheap, and can be wrong), then what trains it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from tessy_jax import models
from tessy_jax.config.sft import SftConfig
from tessy_jax.config.training import OptimizerConfig
from tessy_jax.data.hashing import hash_folder
from tessy_jax.errors import ConfigError
from tessy_jax.models.hub import model_folder
from tessy_jax.models.weights import open_tensors
from tessy_jax.text.chat import Chat
from tessy_jax.text.thinking import thinking_of
from tessy_jax.train import step
from tessy_jax.train.lora import Full, LoRA, Tuning
from tessy_jax.train.loss import next_token
from tessy_jax.train.memory import step_memory
from tessy_jax.train.mfu import Arithmetic
from tessy_jax.train.optimizer import AdamW


@dataclass(frozen=True)
class Student:
    """A checkpoint's folder, chat and shapes, checked."""

    config: SftConfig
    folder: Path
    chat: Chat
    model: models.DecoderConfig

    @classmethod
    def open(cls, config: SftConfig) -> "Student":
        """Reads the tokenizer, runs the conformance gate, and reads the headers of the weights.

        Raises:
          ConfigError: the model or a source of data is not there, the model is no language model, or it has no layer
            that `lora.targets` names.
          TextError: its tokenizer or template cannot be used. WeightsError, models.ModelConfigError: the checkpoint is
            incomplete, damaged or of an unknown kind.
        """
        _check_sources(config)
        folder = model_folder(config.model, "model")
        thinking = thinking_of(folder, **config.thinking.model_dump(exclude_none=True))
        chat = Chat.load(folder, thinking=thinking, **config.prompt.model_dump(exclude={"system"}))
        chat.check()
        model = models.read_config(folder)
        if model.labels:
            raise ConfigError(f"model: {folder} is a token classifier; give a language model")
        packed = [name for name, spec in models.describe(model).items() if spec.dtype_in("float32").itemsize == 1]
        if packed:
            raise ConfigError(
                f"model: {folder} is quantised ({packed[0]} and {len(packed) - 1} more), and packed weights cannot be"
                " trained; give a checkpoint in bfloat16, float16 or float32"
            )
        if config.data.length > model.max_position_embeddings:
            raise ConfigError(
                f"data.length: {folder} reads {model.max_position_embeddings} tokens at most, not {config.data.length}"
            )
        open_tensors(folder)
        student = cls(config, folder, chat, model)
        try:
            student.tuning.dims(model)
        except ValueError as error:
            raise ConfigError(f"lora.targets: {error}") from None
        return student

    def identity(self) -> dict[str, Any]:
        """What the trained weights depend on besides the data, for the manifest. Devices, memory and how often the run
        is saved are not in it: a run goes on with others.
        """
        config = self.config
        held_out = isinstance(config.data.held_out, str)  # the corpora know what their files are
        values = config.model_dump(mode="json", include={"epochs", "max_steps", "optimizer", "lora", "seed"})
        return values | {
            "model": hash_folder(self.folder),
            "template": self.chat.template_hash,
            "system": config.prompt.system,
            "data": config.data.model_dump(mode="json", exclude={"train"} | ({"held_out"} if held_out else set())),
            "batch": config.batch.rows,
            "dtype": config.compute.dtype,
        }

    @property
    def tuning(self) -> Tuning:
        """What of the model is trained."""
        return tuning(self.config)

    @property
    def compute(self) -> step.Compute:
        """How a step is computed."""
        return compute(self.config)

    @property
    def arithmetic(self) -> Arithmetic:
        """What a step has to compute."""
        return Arithmetic(self.model, frozen=self.config.lora is not None)

    def optimizer(self, steps: int) -> AdamW:
        """For a run of so many steps."""
        return adamw(self.config.optimizer, steps)

    def load(self, mesh: Mesh | None, optimizer: AdamW) -> step.TrainState:
        """The state before the first step, on the mesh.

        Raises:
          WeightsError, ShardingError: with the file and what to do.
        """
        try:
            weights = models.load(self.folder, mesh=mesh, rules=models.TRAINING)
        except models.ShardingError as error:
            raise models.ShardingError(f"{self.folder}: {error}") from None
        params = models.named_parameters(weights)
        return step.init(self.model, params, mesh, optimizer, self.tuning, jax.random.key(self.config.seed))

    def trained(self, state: step.TrainState, mesh: Mesh | None) -> models.Model:
        """The model with the weights of a state, adapters merged."""
        params = jax.jit(self.tuning.merge)(state.params, state.frozen)
        return models.with_parameters(self.model, params, mesh, models.TRAINING)

    def memory(self, mesh: Mesh | None, steps: int) -> dict[str, float]:
        """GiB of one device in a training step, from the compiler: it is compiled here, and not run."""
        batch = self.config.batch
        shape = (batch.accumulate, batch.rows // batch.accumulate, self.config.data.length)
        return step_memory(self.model, mesh, self.optimizer(steps), self.compute, self.tuning, next_token, shape)


def tuning(config: SftConfig) -> Tuning:
    """What of the model is trained."""
    lora = config.lora
    return Full() if lora is None else LoRA(lora.rank, lora.alpha, lora.targets)


def compute(config: SftConfig) -> step.Compute:
    """How a step is computed."""
    return step.Compute(**config.compute.model_dump(exclude={"compilation_cache"}))


def adamw(config: OptimizerConfig, steps: int) -> AdamW:
    """For a run of so many steps; the warm-up is rounded up to whole ones, as in transformers."""
    values = config.model_dump(exclude={"lr", "warmup"})
    return AdamW(peak=config.lr, steps=steps, warmup=math.ceil(config.warmup * steps), **values)


def _check_sources(config: SftConfig) -> None:
    named = [("data.train", source) for source in config.data.train]
    if isinstance(config.data.held_out, str):
        named.append(("data.held_out", config.data.held_out))
    for key, source in named:
        if not Path(source).expanduser().exists():
            raise ConfigError(f"{key}: there is no file or folder '{source}'")
