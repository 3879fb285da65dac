"""The student to train, from a configuration: its chat first (cheap, and can be wrong), then what trains it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from rich.console import Console

from tessy_jax import models
from tessy_jax.config.sft import LoraConfig, SftConfig
from tessy_jax.console.messages import tell
from tessy_jax.data.hashing import hash_folder
from tessy_jax.data.run_folder import numbered
from tessy_jax.errors import ConfigError
from tessy_jax.models.config import Fields
from tessy_jax.models.hub import model_folder
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import StorePath
from tessy_jax.text.chat import Chat
from tessy_jax.text.files import read_json
from tessy_jax.text.thinking import thinking_of
from tessy_jax.train.data.packing import BatchPlan
from tessy_jax.train.data.sft_data import SftData
from tessy_jax.train.evaluations import Evaluations
from tessy_jax.train.export import EndOfTurn
from tessy_jax.train.learner import Learner
from tessy_jax.train.lora import Full, LoRA, Tuning
from tessy_jax.train.loss import Objective, next_token
from tessy_jax.train.mfu import Arithmetic

ROUTER_LOSS = 0.001
"""HF: router_aux_loss_coef of Qwen3-MoE and GPT-OSS, where config.json has none."""


@dataclass(frozen=True)
class Student(Learner[SftConfig, SftData]):
    """A language model that learns to write traces.

    Attributes:
        chat: how it is talked to.
    """

    name = "student"
    manifest = "tessy_jax sft 1"
    written = (
        *("corpus", "held_out", "checkpoints", "tensorboard", "export", "exports", "evaluations"),
        *("metrics.jsonl", "run*.log", "curves.png", "config.yaml"),
    )
    rejects_file = "corpus/rejects.jsonl"
    memory_advice = (
        "Raise batch.accumulate or mesh.fsdp, set compute.remat=full, or lower compute.loss_chunk or data.length"
    )
    exports_best = False

    chat: Chat

    @classmethod
    def open(cls, config: SftConfig) -> "Student":
        """Reads the tokenizer, runs the conformance gate, and reads the headers of the weights.

        Raises:
            ConfigError: the model or a source of data is not there, the model is no language model, or it has no layer
                that `lora.targets` names.
            TextError: its tokenizer or template cannot be used.
            WeightsError, models.ModelConfigError: the checkpoint is incomplete, damaged or of an unknown kind.
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
        chat.check_fits(model.vocab_size)
        models.check_weights(model, folder)
        _router_loss(folder, model)
        student = cls(config, folder, model, chat)
        try:
            student.tuning.dims(model)
        except ValueError as error:
            raise ConfigError(f"lora.targets: {error}") from None
        return student

    def identity(self) -> dict[str, Any]:
        config = self.config
        held_out = isinstance(config.data.held_out, str)  # the corpora know what their files are
        values = config.model_dump(mode="json", include={"epochs", "max_steps", "optimizer", "lora", "seed"})
        return values | {
            **numbered(self.rules),
            "model": hash_folder(self.folder),
            "template": self.chat.template_hash,
            "system": config.prompt.system,
            "data": config.data.model_dump(mode="json", exclude={"train"} | ({"held_out"} if held_out else set())),
            "batch": config.batch.rows,
            "dtype": config.compute.dtype,
        }

    def read(self, console: Console) -> SftData:
        tell(console, f"reading {', '.join(self.config.data.train)}")
        return SftData.open(self.config, self.chat, self.path)

    @contextmanager
    def preview(self) -> Iterator[SftData]:
        """What a run made of the data is read where it is there; else it is made in a folder that goes again."""
        with tempfile.TemporaryDirectory() as scratch:
            output = self.config.output
            made = not isinstance(output, StorePath) and (output / "corpus").is_dir()
            yield SftData.open(self.config, self.chat, output if made else Path(scratch))

    def load_model(self, mesh: Mesh | None) -> models.Model:
        try:
            return models.load(self.folder, mesh=mesh, rules=models.TRAINING)
        except models.ShardingError as error:
            raise models.ShardingError(f"{self.folder}: {error}") from None

    @property
    def template(self) -> str | None:
        return self.config.prompt.template

    @property
    def end_of_turn(self) -> EndOfTurn:
        end, tokens = self.chat.end_of_turn, self.chat.tokenizer.ids
        return EndOfTurn(end, next(token for token, i in tokens.items() if i == end))

    @property
    def objective(self) -> Objective:
        return next_token

    @property
    def router_loss(self) -> float:
        return 0.0 if self.rules == 1 else _router_loss(self.folder, self.model)

    @property
    def accumulate(self) -> int:
        return self.config.batch.accumulate

    @property
    def tuning(self) -> Tuning:
        return tuning(self.config.lora)

    @property
    def arithmetic(self) -> Arithmetic:
        return Arithmetic(self.model, frozen=self.config.lora is not None)

    @property
    def warnings(self) -> tuple[str, ...]:
        found: list[str] = []
        path, tuning = self.folder / "config.json", self.tuning
        if dropout := read_json(path, models.ModelConfigError).get("attention_dropout"):
            found.append(f"{path}: attention_dropout is {dropout}; this training is without dropout")
        if isinstance(tuning, LoRA):
            found.append("LoRA: in the paper (Fig. 13) rank 8 made the student much worse than training all weights")
            found.append(f"LoRA: {tuning.coverage(self.model)}")
        return tuple(found)

    @property
    def evaluate_every(self) -> int | None:
        return self.config.evaluate_every

    def evaluations(self, plan: BatchPlan) -> Evaluations | None:
        section = self.config.evaluate
        return None if section is None else Evaluations(section, self.folder, self.path, plan)

    def already_done(self, steps: int) -> str | None:
        if not (self.path / "export").is_dir():
            return None
        return f"all {steps} steps are done, the trained student is in {self.config.output / 'export'}"


def tuning(config: LoraConfig | None) -> Tuning:
    """What of a model is trained."""
    return Full() if config is None else LoRA(config.rank, config.alpha, config.targets)


def _router_loss(folder: Path, model: models.DecoderConfig) -> float:
    """As in transformers: where config.json asks for the routers' scores, their loss is trained as well."""
    path = folder / "config.json"
    fields = Fields(read_json(path, models.ModelConfigError), str(path), quantised=("mxfp4", "fp8"))
    if not (model.balanced_experts and fields.flag("output_router_logits", False)):
        return 0.0
    return fields.number("router_aux_loss_coef", ROUTER_LOSS)


def _check_sources(config: SftConfig) -> None:
    named = [("data.train", source) for source in config.data.train]
    if isinstance(config.data.held_out, str):
        named.append(("data.held_out", config.data.held_out))
    for key, source in named:
        if not local(source).expanduser().exists():
            raise ConfigError(f"{key}: there is no file or folder '{source}'")
