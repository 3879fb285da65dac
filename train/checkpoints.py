"""Checkpoints of a training run: the newest few and the best, whole or not at all, for any mesh.

Here are those of a run on a disk; `stored_checkpoints` has those of a run on a store.
"""

import errno
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from tessy_jax.errors import UserError
from tessy_jax.storage.paths import StorageError
from tessy_jax.train.step import TrainState

_METRIC = "held_out_loss"
_WRITING = "earlier checkpoints are as they were; repair this and run the same command again"


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be written or read; the message is meant for the user."""


class Checkpoints(ABC):
    """The checkpoints of one run. Use it in a `with` statement: leaving it waits for the writing to end.

    All processes of a run make the same calls.
    """

    @property
    @abstractmethod
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""

    @property
    def newest(self) -> int | None:
        """The last of them; None where there is none."""
        return max(self.steps, default=None)

    @property
    @abstractmethod
    def best(self) -> int | None:
        """The step with the lowest held-out loss; None where no checkpoint has one."""

    def find(self, which: str) -> int:
        """The step of a checkpoint that the user names: "newest", "best" or its number.

        Raises:
            CheckpointError: there is none; the message says which there are.
        """
        named = {"newest": self.newest, "best": self.best}
        step = named[which] if which in named else int(which) if which.isdecimal() else None
        if step in self.steps:
            return step
        there = ", ".join(map(str, self.steps)) or "none"
        raise CheckpointError(f"there is no checkpoint '{which}' to export; steps with one: {there}")

    @abstractmethod
    def save(self, step: int, state: TrainState, data: Mapping[str, Any], held_out_loss: float | None) -> None:
        """Begins to write, when an earlier checkpoint is done; `state` may change when this returns.

        Where the devices are the host's processors it waits until all is written: the next step would take the same
        processors, and memory for a second state while this one is being read.

        Raises:
            CheckpointError: this or an earlier one could not be written; those that were complete are left as they are.
        """

    @abstractmethod
    def check(self) -> None:
        """Raises CheckpointError where writing in the background has failed by now."""

    @abstractmethod
    def restore(self, step: int, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of a checkpoint, laid out as `state` is (on whatever devices), and the position in the data.

        Raises:
            CheckpointError: it is damaged, or is of another model.
        """

    @abstractmethod
    def wait(self) -> None:
        """Returns when all is written; raises CheckpointError where it could not be."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class DiskCheckpoints(Checkpoints):
    """The checkpoints of a run on a disk that all processes see, written by Orbax.

    A checkpoint is written in the background into a folder with a temporary name, which is renamed when all of it is
    there: one that was interrupted is never taken. It holds the step, what is trained and the optimizer's state, in
    shards, and the position in the data.
    """

    def __init__(self, folder: Path, keep: int = 1, best: int = 0):
        """Keeps the newest `keep` checkpoints, and the `best` ones with the lowest held-out loss."""
        self.folder = folder.absolute()
        lowest = BestN(get_metric_fn=_loss, reverse=True, n=best, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=_loss,
            best_mode="min",
            preservation_policy=AnyPreservationPolicy([LatestN(keep), lowest]),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    @property
    def best(self) -> int | None:
        return self._manager.best_step()

    def save(self, step: int, state: TrainState, data: Mapping[str, Any], held_out_loss: float | None) -> None:
        with explained(f"cannot write the checkpoint of step {step} to {self.folder}", _WRITING):
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(kept(state)), data=ocp.args.JsonSave(dict(data))),
                metrics=None if held_out_loss is None else {_METRIC: held_out_loss},
            )
            if jax.default_backend() == "cpu":
                self._manager.wait_until_finished()

    def check(self) -> None:
        with explained(f"cannot write a checkpoint to {self.folder}", _WRITING):
            self._manager.check_for_errors()

    def restore(self, step: int, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        where = self.folder / str(step)
        with explained(f"cannot read the checkpoint {where}", "remove that folder to go on from an earlier one"):
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(jax.tree.map(abstract, kept(state))),
                    data=ocp.args.JsonRestore(),
                ),
            )
        values = found["state"]
        new = TrainState(values["step"], values["params"], values["optimizer"], state.frozen)
        return new, found["data"]

    def wait(self) -> None:
        with explained(f"cannot write a checkpoint to {self.folder}", _WRITING):
            self._manager.wait_until_finished()

    def __enter__(self) -> Self:
        self._hook = sys.excepthook
        sys.excepthook = self._without_closed_loops
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()
            sys.excepthook = self._hook

    def _without_closed_loops(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        """Where one write of a checkpoint fails, Orbax leaves the loop that waits for all of them; tensorstore then
        prints a traceback for each of the others that it cannot tell the loop of. The failure itself is raised.
        """
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self._hook(kind, error, traceback)


def _loss(metrics: Mapping[str, float]) -> float:
    return metrics[_METRIC]


def kept(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a state: all but the frozen weights, which the run read when it began."""
    return {"step": state.step, "params": state.params, "optimizer": state.optimizer}


def abstract(value: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=value.sharding)


@contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Orbax and the libraries below it raise many kinds of errors."""
    try:
        yield
    except StorageError:  # which says all that there is to say
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: {_reason(error)}; {advice}") from error


def _reason(error: Exception) -> str:
    """What went wrong; of a chain in which each library names its files, the end says it: the disk is full."""
    text = " ".join(str(error).split())
    full = os.strerror(errno.ENOSPC)
    if full in text or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        return f"{full} (free some)"
    return text[:300] or type(error).__name__
