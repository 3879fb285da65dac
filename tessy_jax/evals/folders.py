"""Where an evaluation stands on the disk, and what of it is done.

    OUTPUT/config.yaml  OUTPUT/run.log  OUTPUT/report.{md,json,html}
    OUTPUT/<benchmark>/responses/     a run directory: what the model wrote
    OUTPUT/<benchmark>/judgements/    a run directory: what the judge says of it
    OUTPUT/<benchmark>/custom_evaluator.json  eval_all.json     for LiveCodeBench's tools

Each folder has a manifest of its own, so a benchmark may be added to an evaluation, or judged anew, and all else stays.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from tessy_jax.config.evaluate import EvaluateConfig
from tessy_jax.config.schema import to_yaml
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.run_folder import DifferentRunError, RunDirError, make_manifest
from tessy_jax.data.run_rows import RunDir, RunFormat
from tessy_jax.evals.records import Judgement, Response, Verdict
from tessy_jax.storage.copies import run_files

KEY = ("problem_id", "sample_index")
RESPONSES = RunFormat("tessy_jax responses 1", KEY)
JUDGEMENTS = RunFormat("tessy_jax judgements 1", KEY)
_WITHOUT_TESTS = (Verdict.NO_ANSWER, Verdict.TRUNCATED, Verdict.SKIPPED)


def open_responses(config: EvaluateConfig, folder: str, identity: dict[str, Any], overwrite: bool) -> RunDir:
    """The responses to a benchmark, begun or resumed. Raises RunDirError, as `RunDir.open` does."""
    return _open(config, folder, "responses", RESPONSES, identity, overwrite)


def open_judgements(config: EvaluateConfig, folder: str, identity: dict[str, Any], overwrite: bool) -> RunDir:
    """The judgements of a benchmark's responses, begun or resumed.

    Where no test has decided any of them, as when the tests were not there, they are found again in no time: those of
    another identity then give way.

    Raises:
        RunDirError: as for `RunDir.open`.
    """
    path = config.output / folder / "judgements"

    def undecided() -> bool:
        return all(row.get("verdict") in _WITHOUT_TESTS for row in _rows(path))

    try:
        return _open(config, folder, "judgements", JUDGEMENTS, identity, overwrite, undecided)
    except DifferentRunError as error:
        raise RunDirError(f"{error}\n--stage judge --overwrite judges anew, and keeps the responses") from None


def read_responses(config: EvaluateConfig, folder: str) -> Iterator[Response]:
    """The responses on the disk, one at a time: each may be megabytes."""
    names = [field.name for field in fields(Response)]
    for row in _rows(config.output / folder / "responses"):
        yield Response(**{name: row[name] for name in names if name in row})


def read_refusals(config: EvaluateConfig, folder: str) -> Iterator[Judgement]:
    """Judgements of the responses that could not be written: a prompt that is too long has no answer."""
    path = run_files(config.output / folder / "responses") / "rejects.jsonl"
    for _, row in read_objects(path) if path.exists() else ():
        if row is not None:
            detail = f"no response was written: {row['reason']}"
            yield Judgement(row["problem_id"], row["sample_index"], Verdict.NO_ANSWER, detail=detail[:1000])


def read_judgements(config: EvaluateConfig, folder: str) -> Iterator[Judgement]:
    """The judgements on the disk, one at a time."""
    names = [field.name for field in fields(Judgement)]
    for row in _rows(config.output / folder / "judgements"):
        yield Judgement(**{name: row[name] for name in names if name in row} | {"verdict": Verdict(row["verdict"])})


def responses_file(output: Path, folder: str) -> Path:
    """The file of a benchmark's responses; on a store, of a copy."""
    return run_files(output / folder / "responses") / "data" / "part-00000-of-00001.jsonl"


def judgements_file(output: Path, folder: str) -> Path:
    """The file of a benchmark's judgements; on a store, of a copy."""
    return run_files(output / folder / "judgements") / "data" / "part-00000-of-00001.jsonl"


def _open(
    config: EvaluateConfig,
    folder: str,
    name: str,
    kind: RunFormat,
    identity: dict[str, Any],
    overwrite: bool,
    expendable: Callable[[], bool] = lambda: False,
) -> RunDir:
    return RunDir.open(
        config.output / folder / name,
        config_yaml=to_yaml(config),
        manifest=make_manifest(identity, []),
        overwrite=overwrite,
        kind=kind,
        expendable=expendable,
    )


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(run_files(folder).glob("data/part-*.jsonl")):
        for _, row in read_objects(path):
            if row is not None:
                yield row
