"""The training loop: batches in, checkpoints and numbers out, and the same weights however often it is interrupted."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding

from tessy_jax.devices import processes
from tessy_jax.errors import UserError
from tessy_jax.train.checkpoints import Checkpoints
from tessy_jax.train.data.batches import Batch
from tessy_jax.train.metrics import Reporter, Seen
from tessy_jax.train.mfu import Arithmetic
from tessy_jax.train.step import Evaluation, Metrics, Step, Sums, TrainState


class TrainingError(UserError, RuntimeError):
    """Training cannot go on; the message is meant for the user."""


class BatchIterator(Protocol):
    """The batches from some step on. `get_state` gives JSON from which `set_state` goes on, as in Grain's iterators."""

    def __next__(self) -> Batch: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


class StopRequest(Protocol):
    """Says whether the run is to end before its last step."""

    @property
    def asked(self) -> bool: ...


@dataclass(frozen=True)
class Trainer:
    """The training loop of one run.

    Attributes:
        step: the optimizer step, see `train.step.make_step`.
        evaluate: the evaluation of a batch, see `train.step.make_eval`.
        sharding: of a batch's arrays; None: the default device.
        held_out: the batches of an evaluation; None: nothing is held out.
        names: the examples of a step (from 0), for messages.
        arithmetic: what a step has to compute, for the MFU.
        total: steps of the whole run.
        checkpoint_every: steps between two checkpoints. Each comes with an evaluation, unless the user stops the run.
        evaluate_every: steps between two further evaluations; None: there are none.
        pauses: the steps after which `run` saves and returns, to be called again. Numbers and weights are the same.
    """

    step: Step
    evaluate: Evaluation
    sharding: NamedSharding | None
    held_out: Iterable[Batch] | None
    names: Callable[[int], list[str]]
    arithmetic: Arithmetic
    total: int
    checkpoint_every: int
    evaluate_every: int | None
    pauses: frozenset[int] = frozenset()

    def run(
        self,
        state: TrainState,
        data: BatchIterator,
        checkpoints: Checkpoints,
        reporter: Reporter,
        stop: StopRequest,
        show: Callable[[], None],
    ) -> TrainState:
        """Trains to the last step, or a pause, or where it is asked to stop; the last step done has a checkpoint.

        Args:
            state: where to begin.
            data: its next batch is that of the step after `state`.
            checkpoints: where to save; writing goes on in the background when this returns.
            reporter: takes the numbers of every step and evaluation.
            stop: looked at after every step.
            show: called whenever there are new numbers.

        Raises:
            TrainingError: the loss or gradient of a step, or the held-out loss, is not a number. No checkpoint has it.
            CheckpointError: one could not be written; noticed at the next step.
        """
        unread: _Unread | None = None  # read when the next step runs already, so that no device waits for the host

        def report() -> None:
            if unread is not None:
                self._report(unread, reporter)
                show()

        done = int(state.step)
        if done == 0:
            self._held_out(0, state, reporter)
        for number in range(done + 1, self.total + 1):
            batch = next(data)
            state, metrics = self.step(state, place(batch, self.sharding))
            report()
            unread = _Unread(number, metrics, Seen.of(batch, self.arithmetic))
            checkpoints.check()

            stopped = processes.anywhere(stop.asked) and number < self.total
            due = number == self.total or number % self.checkpoint_every == 0
            evaluated = not stopped and (due or bool(self.evaluate_every and number % self.evaluate_every == 0))
            ends = stopped or number in self.pauses
            saved = ends or due

            if saved or evaluated:
                report()
                unread = None
            loss = self._held_out(number, state, reporter) if evaluated else None
            if saved:
                checkpoints.save(number, state, data.get_state(), loss)
            if ends:
                break
        return state

    def _report(self, unread: "_Unread", reporter: Reporter) -> None:
        number, metrics = unread.number, jax.device_get(unread.metrics)
        reporter.step(number, metrics, unread.seen)
        for name, value in (("loss", metrics.loss), ("norm of the gradient", metrics.grad_norm)):
            if not np.isfinite(value):
                raise TrainingError(
                    f"the {name} of step {number} is {value}; its examples: {_some(self.names(number - 1))}. "
                    "The last checkpoint is from before it. Look at these examples (--inspect), lower optimizer.lr, or "
                    "set compute.dtype=float32"
                )

    def _held_out(self, number: int, state: TrainState, reporter: Reporter) -> float | None:
        if self.held_out is None:
            return None
        parts = (self.evaluate(state, place(batch, self.sharding)) for batch in self.held_out)
        loss = reporter.held_out(number, add(parts))
        if not np.isfinite(loss):
            raise TrainingError(
                f"the held-out loss after step {number} is {loss}; lower optimizer.lr, or look at the data (--inspect)"
            )
        return loss


class _Unread(NamedTuple):
    """A step that was begun and whose numbers are still on the devices."""

    number: int
    metrics: Metrics
    seen: Seen


def place(batch: Batch, sharding: NamedSharding | None) -> Batch:
    """A process's rows on its devices, as a part of the whole batch."""
    if sharding is None:
        return jax.device_put(batch)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def add(parts: Iterable[Sums]) -> Sums:
    """The sum of sums, in float64 on the host."""
    host = [jax.tree.map(np.float64, jax.device_get(sums)) for sums in parts]
    return jax.tree.map(lambda *values: np.sum(values, axis=0), *host)


def _some(names: list[str], shown: int = 8) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
