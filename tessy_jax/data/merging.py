"""Run directories of shards into one: every row of the input once, in the order of the input (`merge`).

    RUN/data/part-00002-of-00008.jsonl …   ->   OUTPUT/data/part-00000-of-00001.jsonl, OUTPUT/rejects.jsonl

Held in memory are the input and where each record stands; records are copied one by one. What comes out does not
depend on how many shards there were.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tessy_jax.config.sections import TraceRunConfig
from tessy_jax.data.inputs import Reject, read_rows
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.records import Problem
from tessy_jax.data.run_folder import RunDirError, differences, stored_manifest
from tessy_jax.data.run_rows import TRACES, RunDir
from tessy_jax.errors import UserError
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import StorePath

Key = tuple[str, int]
"""Id and sample."""

_PART = re.compile(r"part-(\d{5})-of-(\d{5})\.jsonl")
_NAMED = 3
"""Missing rows that an error names."""


class MergeError(UserError, ValueError):
    """The runs cannot be merged; the message is meant for the user."""


class Place(NamedTuple):
    """Where a record stands: its file, and its first byte there."""

    file: Path
    start: int

    def read(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.readline()


@dataclass(frozen=True)
class Merged:
    """What was merged.

    Attributes:
        records, rejects: rows of the output.
        twice: records that stood in the runs more than once, always the same.
        missing: rows of the input that no run has, sample by sample.
    """

    records: int
    rejects: int
    twice: int
    missing: int


def merge(runs: Sequence[Path], output: Path, *, partial: bool = False, overwrite: bool = False) -> Merged:
    """Writes the records and rejects of all runs into one run directory.

    Args:
        runs: directories of `synthesize` or `sample`, of one configuration; those on a store are read in a copy.
        output: the new run directory.
        partial: merge although rows are missing.
        overwrite: begin anew where the output holds a run.

    Raises:
        MergeError: a folder is no run or named twice, the runs are of different configurations, two records of one row
            differ, or rows are missing.
        RunDirError: the output cannot be written, or holds another run.
        InputError: the input that the runs name cannot be read.
    """
    _check_names(runs, output)
    runs = [local(run.expanduser()) for run in runs]
    manifest = _manifest(runs)
    input_rows, samples = _input(runs)
    places, twice = _places(runs)
    rejected = {_reject_key(row): row for run in runs for row in _rejects(run)}
    order = {
        (row.id, sample): at
        for at, row in enumerate(input_rows)
        if isinstance(row, Problem)
        for sample in range(samples)
    }
    missing = [key for key in order if key not in places and key not in rejected]
    if missing and not partial:
        raise MergeError(_explain(missing, order, runs))

    yaml_text = (runs[0] / "config.yaml").read_text("utf-8")
    with RunDir.open(output, config_yaml=yaml_text, manifest=manifest, overwrite=overwrite) as run:
        for key in sorted(places, key=lambda key: (order.get(key, len(order)), key)):
            run.append(json.loads(places[key].read()))
        bad = [row for key, row in rejected.items() if key not in places]
        for row in sorted(bad, key=lambda row: (row.get("file") or "", row.get("line") or 0, str(_reject_key(row)))):
            run.reject(row)
    return Merged(len(places), len(bad), twice, len(missing))


def _check_names(runs: Sequence[Path], output: Path) -> None:
    places = [place if isinstance(place, StorePath) else place.expanduser().resolve() for place in (*runs, output)]
    if len(set(places)) < len(places):
        raise MergeError("a run is named twice, or is the output as well: name each once, and a new --output")


def _manifest(runs: Sequence[Path]) -> dict[str, Any]:
    """The manifest of all runs: that of the first, with which the others agree."""
    first = _stored(runs[0])
    for run in runs[1:]:
        if lines := differences(_stored(run), first, f"in {runs[0]}"):
            told = "\n".join(lines)
            raise MergeError(f"{run} is a run of another configuration than {runs[0]}:\n{told}")
    return first


def _stored(run: Path) -> dict[str, Any]:
    try:
        stored = stored_manifest(run, TRACES.format)
    except RunDirError:
        stored = None
    if stored is None:
        raise MergeError(f"{run} is no run directory of synthesize or sample")
    return stored


def _input(runs: Sequence[Path]) -> tuple[list[Problem | Reject], int]:
    """The rows of the input, as far as any run reads it, and the samples of each."""
    configs = [_config(run) for run in runs]
    limits = [config.limit for config in configs]
    limit = None if None in limits else max(filter(None, limits))
    rows = read_rows(configs[0].input, configs[0].columns, limit)
    return rows, max(config.samples for config in configs)


def _config(run: Path) -> TraceRunConfig:
    """The keys that all commands which write traces have, of the configuration that the run began with."""
    try:
        values = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
        return TraceRunConfig.model_validate({key: values[key] for key in TraceRunConfig.model_fields if key in values})
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise MergeError(f"{run}/config.yaml is damaged: {error}") from error


def _places(runs: Sequence[Path]) -> tuple[dict[Key, Place], int]:
    """Where each record stands, and how many stand there more than once.

    Raises:
        MergeError: two of one row differ, or a line is no record.
    """
    places: dict[Key, Place] = {}
    twice = 0
    for file in _parts(runs):
        start = 0
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break  # of a shard that is writing, or was killed
                key, place = _key(line, f"{file}:{number}"), Place(file, start)
                start += len(line)
                if key not in places:
                    places[key] = place
                elif places[key].read() == line:
                    twice += 1
                else:
                    raise MergeError(
                        f"{file}:{number}: id {key[0]!r}, sample {key[1]} has another record in {places[key].file}"
                    )
    return places, twice


def _key(line: bytes, where: str) -> Key:
    try:
        row = json.loads(line)
        return row["id"], row["sample_index"]
    except (ValueError, LookupError, TypeError):
        raise MergeError(f"{where} is not a record: remove the line, and run its shard again") from None


def _parts(runs: Sequence[Path]) -> Iterator[Path]:
    for run in runs:
        yield from sorted(file for file in run.glob("data/*") if _PART.fullmatch(file.name))


def _rejects(run: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(run.glob("rejects*.jsonl")):
        yield from (row for _, row in read_objects(file) if row is not None)


def _reject_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Id and sample of a row of the output; file and line of one of the input."""
    key = row.get("id"), row.get("sample_index")
    return (row.get("file"), row.get("line")) if None in key else key


def _explain(missing: Sequence[Key], order: Mapping[Key, int], runs: Sequence[Path]) -> str:
    """Which rows are missing, and which shards would have written them; `order` is the row of the input."""
    first = ", ".join(repr(id_) for id_, _ in missing[:_NAMED])
    counts = {int(found[2]) for file in _parts(runs) if (found := _PART.fullmatch(file.name))}
    text = f"{len(missing)} of {len(order)} rows are in none of the runs: {first}{', …' * (len(missing) > _NAMED)}"
    if len(counts) == 1 and (count := counts.pop()) > 1:
        by_shard = Counter(order[key] % count for key in missing)
        text += "; of " + ", ".join(f"shard {shard}/{count}: {by_shard[shard]}" for shard in sorted(by_shard))
    return text + "; run what is missing, or merge what is there with --partial"
