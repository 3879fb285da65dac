"""What a run trains: a student or a predictor. `train.run` is the same for both, and here is where they may differ."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import jax
from jax.sharding import Mesh
from rich.console import Console

from tessy_jax import models
from tessy_jax.config.sft import ComputeConfig, OptimizerConfig, SftConfig
from tessy_jax.config.train_predictor import TrainPredictorConfig
from tessy_jax.console.messages import tell
from tessy_jax.train.data.batches import Batches
from tessy_jax.train.data.packing import BatchPlan
from tessy_jax.train.evaluations import Evaluations
from tessy_jax.train.export import EndOfTurn, export
from tessy_jax.train.lora import Full, Tuning
from tessy_jax.train.loss import Objective
from tessy_jax.train.memory import Memory, run_memory
from tessy_jax.train.metrics import Reporter, Sink
from tessy_jax.train.mfu import Arithmetic
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.patience import Patience
from tessy_jax.train.run_home import RunHome
from tessy_jax.train.step import Compute, TrainState, init

RULES = 2
"""Which rules a run follows that no key of its configuration says. They are in the identity of its manifest; a run that
was begun under earlier ones keeps them to its end.

1 (the manifest has no such key): the first step of a warm-up has the learning rate 0, and routers have no loss.
2: the warm-up begins above 0; routers have a loss where config.json asks for it.
"""


class TrainingData(Protocol):
    """What a run trains on.

    Attributes:
        train: the batches of all steps.
        held_out: the batches of an evaluation; None where nothing is held out.
        rejected: how many rows could not be used.
    """

    @property
    def train(self) -> Batches[Any]: ...

    @property
    def held_out(self) -> Batches[Any] | None: ...

    @property
    def rejected(self) -> int: ...

    def rejects(self) -> Iterator[str]:
        """Where each row that could not be used stands, and why it could not, for people."""
        ...

    def summary(self) -> str:
        """Counts, for people."""
        ...


ConfigT = TypeVar("ConfigT", SftConfig, TrainPredictorConfig)
DataT = TypeVar("DataT", bound=TrainingData)


@dataclass(frozen=True)
class Learner(ABC, Generic[ConfigT, DataT]):
    """A checkpoint to train, checked, and what its training needs.

    Attributes:
        config: of the whole run.
        folder: the checkpoint that the training begins with.
        model: its shapes.
        rules: see `RULES`.
        home: the run directory, once it is held.
    """

    name: ClassVar[str]
    """What it is called in messages."""
    manifest: ClassVar[str]
    """Format and version of the run's manifest."""
    written: ClassVar[tuple[str, ...]]
    """What a run leaves in its directory besides the manifest, as patterns."""
    rejects_file: ClassVar[str]
    """Where the run directory lists the rows that could not be used."""
    memory_advice: ClassVar[str]
    """What to change where a device has too little memory."""
    exports_best: ClassVar[bool]
    """Whether the checkpoint with the lowest held-out loss is exported; else the last one."""

    config: ConfigT
    folder: Path
    model: models.DecoderConfig
    rules: int = field(default=RULES, kw_only=True)
    home: RunHome | None = field(default=None, kw_only=True)

    @property
    def path(self) -> Path:
        """The run directory, to read and write; messages name `config.output`."""
        return self.config.output if self.home is None else self.home.path

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the trained weights depend on, for the manifest. Devices, memory and how often the run is saved are not
        in it: a run goes on with others.
        """

    # -- data ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, console: Console) -> DataT:
        """The data of the run. What is made of it for later stays in the run directory."""

    @abstractmethod
    def preview(self) -> AbstractContextManager[DataT]:
        """The data of the run, to be looked at: nothing of it stays."""

    # -- weights -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def load_model(self, mesh: Mesh | None) -> models.Model:
        """The model before the first step, float32, on the mesh.

        Raises:
            WeightsError, ShardingError: with the file and what to do.
        """

    def load(self, mesh: Mesh | None, optimizer: AdamW) -> TrainState:
        """The state before the first step, on the mesh. Raises as `load_model` does."""
        params = models.named_parameters(self.load_model(mesh))
        return init(self.model, params, mesh, optimizer, self.tuning, jax.random.key(self.config.seed))

    @property
    def template(self) -> str | None:
        """The chat template to export, where it is not the checkpoint's own."""
        return None

    @property
    def end_of_turn(self) -> EndOfTurn | None:
        """The token that ends an answer in the training; None: there are no answers."""
        return None

    def export(
        self, state: TrainState, mesh: Mesh | None, console: Console, name: str = "export", *, here: bool = True
    ) -> Path:
        """Writes the model of a state, adapters merged, as a Hugging Face folder in the run directory; returns it.

        Args:
            here: it is read on this machine next; else, of a run on a store, its weights need not stay here.
        """
        folder = self.path / name
        params = jax.jit(self.tuning.merge)(state.params, state.frozen)
        trained = models.with_parameters(self.model, params, mesh, models.TRAINING)
        written = None if here or self.home is None else self.home.model_sender(name)
        export(trained, self.folder, folder, self.template, self.end_of_turn, written)
        tell(console, f"the {self.name} after step {int(state.step)} is in {self.config.output / name}")
        return folder

    # -- a step --------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """What is learned."""

    @property
    def router_loss(self) -> float:
        """The factor of the routers' loss, see `make_step`."""
        return 0.0

    @property
    @abstractmethod
    def accumulate(self) -> int:
        """Micro-batches of a step."""

    @property
    def tuning(self) -> Tuning:
        """What of the model is trained."""
        return Full()

    @property
    def compute(self) -> Compute:
        """How a step is computed."""
        return compute(self.config.compute)

    @property
    def arithmetic(self) -> Arithmetic:
        """What a step has to compute."""
        return Arithmetic(self.model)

    def optimizer(self, steps: int) -> AdamW:
        """For a run of so many steps."""
        return adamw(self.config.optimizer, steps, self.rules)

    def memory(self, mesh: Mesh | None, plan: BatchPlan) -> Memory:
        """What a run of the plan needs; see `run_memory`."""
        shape = (self.accumulate, plan.rows // self.accumulate, plan.length)
        optimizer = self.optimizer(plan.steps)
        how = (self.compute, self.tuning, self.objective, self.router_loss)
        return run_memory(self.model, mesh, optimizer, *how, shape)

    # -- a run ---------------------------------------------------------------------------------------------------------

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to say before the training begins."""
        return ()

    @property
    def evaluate_every(self) -> int | None:
        """Steps between two evaluations; None: at checkpoints only."""
        return None

    @property
    def keep_best(self) -> int:
        """Checkpoints with the lowest held-out loss to keep."""
        return self.config.checkpoint.best

    def patience(self, step: int) -> Patience:
        """Whether the run ends early, as that stood after `step`."""
        return Patience(None)

    def reporter(self, sinks: list[Sink], patience: Patience, **options: Any) -> Reporter:
        """What reports the numbers of steps and evaluations; `options` are those of `Reporter`."""
        return Reporter(sinks, **options)

    @abstractmethod
    def already_done(self, steps: int) -> str | None:
        """What to say where all that a run of so many steps leaves is there; None where something is missing."""

    def evaluations(self, plan: BatchPlan) -> Evaluations | None:
        """What benchmarks say of the run's checkpoints; None where none are asked."""
        return None

    def finish(self, state: TrainState, data: DataT, mesh: Mesh | None, early: bool, console: Console) -> None:
        """Exports the model of a state, and writes what a run leaves besides.

        Args:
            early: whether the run ended before its last step.
        """
        self.export(state, mesh, console, here=False)


def compute(config: ComputeConfig) -> Compute:
    """How a step is computed."""
    return Compute(**config.model_dump(exclude={"compilation_cache"}))


def adamw(config: OptimizerConfig, steps: int, rules: int = RULES) -> AdamW:
    """For a run of so many steps; the warm-up is rounded up to whole ones, as in transformers."""
    values = config.model_dump(exclude={"lr", "warmup"})
    warmup = math.ceil(config.warmup * steps)
    return AdamW(peak=config.lr, steps=steps, warmup=warmup, warmup_from=0 if rules == 1 else 1, **values)
