"""`synthesize` with input, models and output on a store of this machine, killed at its requests.

`python -m tests.kit.kill_on_store --kills 20` kills runs at random requests and compares what they wrote.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import StorageError, as_path
from tessy_jax.storage.store import Store
from tests.kit.run_synthesize import kill_often, records, write_pair
from tests.kit.stores import BUCKET, Server, served, upload
from tests.kit.warm import Warm

REQUESTS = 250
"""A run is killed before it has made so many; a whole one makes more."""


def arguments(config: Path, place: str) -> list[object]:
    """The command with all of its files there."""
    for name in ("student", "teacher", "predictor"):
        upload(config.parent / name, f"{place}/{name}")
    Store.open(as_path(place)).write("problems.jsonl", (config.parent / "problems.jsonl").read_bytes())
    models = [f"{name}.model={place}/{name}" for name in ("student", "teacher")]
    return [config, f"input={place}/problems.jsonl", *models, f"predictors.teacher.model={place}/predictor"]


class Killed:
    """Runs, each killed some times and then left alone until its end.

    Attributes:
        runs: where they are.
        seen: how many records of each were there after each kill, and at its end.
    """

    def __init__(self, server: Server, command: list[object], rng: random.Random):
        self.runs: list[str] = []
        self.seen: list[list[int]] = []
        self._server, self._command, self._rng = server, command, rng

    def kill(self, kills: int) -> None:
        """Kills so many, half of them as a request comes in, half when it is done and not heard of yet."""
        warm = Warm()
        try:
            self._begin()
            done = 0
            while done < kills:
                code = self._once(warm, late=done % 2 == 1)
                assert code in (0, -signal.SIGKILL), code
                self.seen[-1].append(self._written())
                done += code != 0
                if code == 0:
                    self._begin()
            code = self._once(warm, never=True)
            assert code == 0, code
            self.seen[-1].append(self._written())
        finally:
            warm.close()

    def _begin(self) -> None:
        self.runs.append(f"s3://{BUCKET}/{uuid.uuid4().hex}")
        self.seen.append([])

    def _written(self) -> int:
        """Records of the last run."""
        try:
            return len(records(local(self.runs[-1])))
        except StorageError:  # there is nothing yet
            return 0

    def _once(self, warm: Warm, *, late: bool = False, never: bool = False) -> int:
        """One run of the command; returns its exit code."""
        fuse = self._server.requests + self._rng.randrange(1, REQUESTS)
        child = warm.start(*self._command, "--output", self.runs[-1])
        with self._server.killing(child, at=lambda number, _: number == fuse and not never, late=late):
            return warm.wait()


def twice(rows: list[dict[str, Any]]) -> int:
    """How many records are there more than once."""
    return len(rows) - len({(row["id"], row["sample_index"]) for row in rows})


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills runs on a store and compares what they wrote.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with served() as server, tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/caches"
        config = write_pair(Path(folder))
        begun = time.monotonic()
        kill_often(config, Path(folder) / "whole", 0, random.Random())
        whole = records(Path(folder) / "whole")
        print(f"undisturbed, on a disk: {len(whole)} records in {time.monotonic() - begun:.0f} s", flush=True)
        begun = time.monotonic()
        killed = Killed(server, arguments(config, f"s3://{BUCKET}/in"), random.Random(options.seed))
        killed.kill(options.kills)
        different = 0
        for run, seen in zip(killed.runs, killed.seen, strict=True):
            rows = records(local(run))
            different += rows != whole
            print(f"records after each kill {seen}: {'equal' if rows == whole else 'DIFFERENT'}, {twice(rows)} twice")
        print(f"{options.kills} kills in {len(killed.runs)} runs, {different} different")
        print(f"{time.monotonic() - begun:.0f} s", flush=True)
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
