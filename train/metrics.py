"""What a training run reports: a line of numbers per step in `metrics.jsonl`, and the same on the console."""

import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from tessy_jax.console.progress import Remaining, duration
from tessy_jax.data.jsonl import LineFile, read_objects, replace_file
from tessy_jax.data.records import dump_line
from tessy_jax.errors import ConfigError
from tessy_jax.train.data.batches import Batch
from tessy_jax.train.data.examples import CONTEXT, PARTS
from tessy_jax.train.memory import peak_bytes
from tessy_jax.train.mfu import Arithmetic
from tessy_jax.train.step import Metrics, Sums

_RECENT = 20
"""Steps over which rates are averaged."""


class Sink(Protocol):
    """Where lines of numbers go."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Takes one line; `row["step"]` says when."""
        ...

    def close(self) -> None:
        """No more lines come."""
        ...


class MetricsFile:
    """`metrics.jsonl`: each line is whole or not there."""

    def __init__(self, path: Path, step: int):
        """Opens the file to go on after `step`; lines of what an interrupted run did after it are removed."""
        if path.exists():
            rows = [row for _, row in read_objects(path) if row is not None]
            replace_file(path, "".join(dump_line(row) + "\n" for row in rows if 0 < step >= row["step"]))
        self._file = LineFile(path, durable=False)

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.append(dump_line(row))

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Event files, one scalar per number of a line."""

    def __init__(self, folder: Path, step: int):
        """Raises ConfigError where no package can write event files."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "report.tensorboard: package tensorboardX is not installed; run: pip install 'tessy-jax[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        for name, value in _scalars(row):
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._writer.close()


def _scalars(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    out = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            out += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            out.append((prefix + name, float(value)))
    return out


@dataclass(frozen=True)
class Seen:
    """A batch as the host saw it, before it went to the devices.

    Attributes:
        crc: of the ids, in the order of rows: runs that train on the same batches have the same numbers.
        operations: of this process's rows, see `Arithmetic`.
    """

    crc: str
    operations: float

    @classmethod
    def of(cls, batch: Batch, arithmetic: Arithmetic) -> "Seen":
        ids = np.ascontiguousarray(batch.tokens)
        return cls(f"{zlib.crc32(ids.tobytes()):08x}", arithmetic.operations(np.asarray(batch.positions)))


class Reporter:
    """Turns what steps and evaluations return into lines of numbers, and shows the newest on the console.

    `step` and `held_out` are called in the order of the run, `cells` at any time.
    """

    def __init__(
        self,
        sinks: list[Sink],
        *,
        first: int,
        total: int,
        epoch: Callable[[int], int],
        peak: float | None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """
        Args:
            sinks: where the lines go.
            first: steps that were done before.
            total: steps of the whole run.
            epoch: the epoch of a step (both from 0).
            peak: operations per second of all devices of this process; None: unknown, and no MFU is reported.
            clock: seconds.
        """
        self._sinks = sinks
        self._done, self._total, self._epoch, self._peak = first, total, epoch, peak
        self._clock = clock
        self._started = clock()
        self._last: float | None = None  # when the last step or evaluation ended
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=_RECENT)  # seconds, tokens, operations
        self._remaining = Remaining()
        self._row: dict[str, Any] = {}
        self._held_out: float | None = None

    def step(self, step: int, metrics: Metrics, seen: Seen) -> None:
        """Takes the numbers of a step (counted from 1), which are on the host by now."""
        now = self._clock()
        if self._last is not None:  # the first step includes compiling
            self._recent.append((now - self._last, int(metrics.sums.tokens_all), seen.operations))
        self._last, self._done = now, step
        self._remaining.see(now, [1.0])
        self._row = {
            "step": step,
            "epoch": self._epoch(step - 1) + 1,
            "loss": float(metrics.loss),
            "grad_norm": float(metrics.grad_norm),
            "learning_rate": float(metrics.learning_rate),
            "tokens": int(metrics.sums.tokens),
            "tokens_all": int(metrics.sums.tokens_all),
            "parts": by_part(metrics.sums),
            "data": seen.crc,
            **self._rates(),
            "memory_gib": round(memory_gib(), 3),
        }
        self.write(self._row)

    def held_out(self, step: int, sums: Sums) -> float:
        """Takes the sums of an evaluation after `step`; returns the loss, by which checkpoints are ranked."""
        self._held_out = float(sums.loss) / float(sums.weight)
        self._last = self._clock()  # no rate counts the evaluation
        row = {"loss": self._held_out, "tokens": int(sums.tokens), "parts": by_part(sums)}
        self.write({"step": step, "held_out": row | self.more(sums)})
        return self._held_out

    def pause(self) -> None:
        """Says that time passes which is not of steps: no rate counts it."""
        self._last = None

    def more(self, sums: Sums) -> dict[str, Any]:
        """Further numbers of an evaluation; for subclasses."""
        return {}

    def cells(self, now: float) -> dict[str, str]:
        """What the console shows at a time of the clock, by name."""
        cells = {"step": f"{self._done}/{self._total}"}
        if row := self._row:
            cells["epoch"] = f"{row['epoch']}"
            cells["loss"] = f"{row['loss']:.4f}"
            for name, part in row["parts"].items():
                cells[name] = f"{part['loss']:.3f}"
        if self._held_out is not None:
            cells["held-out"] = f"{self._held_out:.4f}"
        if row:
            cells["lr"] = f"{row['learning_rate']:.2e}"
            cells["grad"] = f"{row['grad_norm']:.2f}"
            if (rate := row["tokens_per_second"]) is not None:
                cells["tok/s"] = f"{rate:,.0f}"
            if (mfu := row.get("mfu")) is not None:
                cells["MFU"] = f"{mfu:.1%}"
            cells["GiB"] = f"{row['memory_gib']:.2f}"
        cells["elapsed"] = duration(now - self._started)
        eta = row.get("eta_seconds") if row else None
        return cells | {"eta": "?" if eta is None else duration(eta)}

    def close(self) -> None:
        """No more lines come."""
        for sink in self._sinks:
            sink.close()

    def _rates(self) -> dict[str, float | None]:
        """Seconds of a step, rates and the time that is left, from the last steps; None where there is none yet."""
        if not self._recent:
            return {"step_seconds": None, "tokens_per_second": None, "eta_seconds": None}
        eta = self._remaining.seconds(self._total - self._done, self._last or 0.0)
        seconds, tokens, operations = (max(sum(values), 1e-9) for values in zip(*self._recent, strict=True))
        out = {
            "step_seconds": round(seconds / len(self._recent), 4),
            "tokens_per_second": round(tokens / seconds, 1),
            "eta_seconds": None if eta is None else round(eta, 1),
        }
        return out if self._peak is None else out | {"mfu": round(operations / (seconds * self._peak), 4)}

    def write(self, row: Mapping[str, Any]) -> None:
        """Takes a line of other numbers."""
        for sink in self._sinks:
            sink.write(row)


def by_part(sums: Sums) -> dict[str, dict[str, float]]:
    """Of each part that occurs: mean loss in nats, share of tokens than which none was likelier, number of tokens."""
    out = {}
    for code, name in enumerate(PARTS):
        if code != CONTEXT and (count := int(sums.count[code])):
            nll, correct = float(sums.nll[code]), int(sums.correct[code])
            out[name] = {"loss": nll / count, "accuracy": correct / count, "tokens": count}
    return out


def memory_gib() -> float:
    """The most memory that a local device has held so far, in GiB; on a CPU, that of the process."""
    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in jax.local_devices()]
    if any(peaks):
        return max(peak or 0 for peak in peaks) / 2**30
    return peak_bytes() / 2**30
