"""The part of an input that one job of an array writes: `--shard 3/8`, or `--shard auto/8` where the scheduler counts.

The jobs know nothing of each other. All may write into one run directory, which holds files for each (`run_rows`), or
each into one of its own, which `merge` puts together. A record depends on its problem alone, so a run may go on with
another number of jobs.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tessy_jax.errors import ConfigError

T = TypeVar("T")

WORKERS = "JOB_COMPLETION_INDEX"
COUNTERS = ((WORKERS, None), ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN"))
"""Where schedulers say which job this is, and what the first one's number is, where it is not 0: Kubernetes' indexed
jobs, Slurm's arrays.
"""


@dataclass(frozen=True)
class Shard:
    """Every `count`-th row of an input, from row `index` on."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str | None, environment: Mapping[str, str] = os.environ, *, pod: bool = False) -> "Shard":
        """Reads `index/count`, counted from 0, or `auto/count`; None: all rows. `pod`: whether several processes, which
        the scheduler may have counted, hold one model between them.

        Raises:
            ConfigError: it is neither, or no scheduler says which job this is.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d+|auto)/(\d+)", text)
        if not found:
            raise ConfigError(f"--shard {text}: write INDEX/COUNT, the first is 0/COUNT, or auto/COUNT in an array job")
        if pod and found[1] == "auto" and WORKERS in environment:
            raise ConfigError(
                f"--pod --shard {text}: {WORKERS} counts the workers of a pod, not the pods; name the shard, as "
                "deploy/gke/slices.yaml does"
            )
        index = _counted(environment) if found[1] == "auto" else int(found[1])
        if not 0 <= index < int(found[2]):
            raise ConfigError(f"--shard {text}: there is no shard {index} of {found[2]}; they count from 0")
        return cls(index, int(found[2]))

    def part(self, rows: Sequence[T]) -> Sequence[T]:
        """Its rows of an input."""
        return rows[self.index :: self.count]

    def of_process(self, index: int, count: int) -> tuple[int, int]:
        """What one of its `count` processes is among all processes of all shards, and how many those are."""
        return self.index * count + index, self.count * count


def _counted(environment: Mapping[str, str]) -> int:
    """Which job of its array this is, from 0."""
    for name, first in COUNTERS:
        if name in environment:
            try:
                return int(environment[name]) - int(environment.get(first or "", 0))
            except ValueError:
                raise ConfigError(f"--shard auto/…: {name}={environment[name]} is no number") from None
    names = " nor ".join(name for name, _ in COUNTERS)
    raise ConfigError(f"--shard auto/…: neither {names} is set; name the shard: --shard 0/…")
