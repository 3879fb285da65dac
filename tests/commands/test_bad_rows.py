"""A row that a template refuses never ends a run: it is rejected with its place, and the others go on."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from tessy_jax import sample
from tessy_jax.config.sample import SampleConfig
from tessy_jax.config.schema import load_as
from tessy_jax.data.run_rows import RunDir
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.rows import Rows
from tessy_jax.engine.solo import Solo
from tests.kit import templates
from tests.kit.run_synthesize import pair, records, rejects, write_problems

GOOD = ("What is 2 + 3?", "Sum of odd numbers.", "Is 91 prime?", "Hi", "n squared?")
ROWS = [
    {"id": name, "question": question}
    for name, question in zip("abcdefgh", ("REFUSED", *GOOD[:2], "DIVIDED", *GOOD[2:], "ADDED"), strict=True)
]
REASONS = {
    ("a", 1): "refuses the messages: No such thing here",
    ("d", 4): "fails on the messages: ZeroDivisionError: integer division or modulo by zero",
    ("h", 8): 'fails on the messages: TypeError: can only concatenate str (not "int") to str',
}


@cache
def config() -> Path:
    root = pair().parent
    values = {
        "model": str(root / "student"),
        "prompt": {"template": templates.REFUSING},
        "sampling": {"temperature": 0.8, "top_k": 20},
        "budgets": {"k": 7, "max_think_tokens": 30, "max_answer_tokens": 3},
        "engine": {
            "batch": 4, "context": 192, "prompt_buckets": [32], "chunk": 8, "turns_per_dispatch": 2, "dtype": "float32"
        },
        "input": str(write_problems(root / "refused.jsonl", ROWS)),
        "output": str(root / "refused"),
        "seed": 5,
    }  # fmt: skip
    file = root / "refused.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@cache
def engine(batch: int) -> Engine:
    return Solo.open(load_as(SampleConfig, config(), [f"engine.batch={batch}"])).load(None)


class Killed(BaseException):
    """The run is gone, as by SIGKILL: nothing is written after it."""


@pytest.fixture
def call(monkeypatch):
    """call(batch, run, killed_after=n) runs the command, and ends it in the middle of its n-th dispatch's storing."""

    def at(batch: int, run: Path, killed_after: int | None = None) -> int | None:
        shared = engine(batch)
        shared.slots, shared.host = [None] * shared.local, shared.rows.empty(shared.local)
        shared.carry = shared.carry.replace(state=shared._put(shared.host))
        left = iter(range(killed_after)) if killed_after is not None else None
        write = RunDir.write_journal

        def journal(self: RunDir, rows: list) -> None:
            if left is not None and next(left, None) is None:
                raise Killed
            write(self, rows)

        with monkeypatch.context() as patch:
            patch.setattr(Solo, "load", lambda self, mesh: shared)
            patch.setattr(RunDir, "write_journal", journal)
            try:
                return sample.main([str(config()), f"engine.batch={batch}", "--output", str(run)])
            except Killed:
                return None

    return at


def placed(run: Path) -> dict[tuple[str, int], str]:
    found = rejects(run)
    assert all(reject["file"] == "refused.jsonl" and reject["sample_index"] == 0 for reject in found)
    assert len(found) == len(REASONS)
    return {(reject["id"], reject["line"]): reject["reason"].split("student ")[1] for reject in found}


@pytest.mark.parametrize("batch", [1, 4])
def test_the_first_a_middle_and_the_last_row_are_refused(call, tmp_path, batch):
    """Undisturbed, and killed after each of its dispatches: the same rejects, and all other rows done."""
    assert call(batch, tmp_path / "whole") == 3
    assert placed(tmp_path / "whole") == REASONS
    whole = records(tmp_path / "whole")
    assert [row["id"] for row in whole] == ["b", "c", "e", "f", "g"]
    kills = 0
    while call(batch, tmp_path / "killed", killed_after=1) is None:
        kills += 1
        assert kills < 100
    assert kills > 1
    assert placed(tmp_path / "killed") == REASONS
    assert records(tmp_path / "killed") == whole
    assert call(batch, tmp_path / "killed") == 3  # nothing is left, and the rejects are still there
    assert placed(tmp_path / "killed") == REASONS


def test_a_dry_run_says_the_same(capsys, tmp_path):
    assert sample.main([str(config()), "--dry-run", "--output", str(tmp_path / "run")]) == 3
    shown = capsys.readouterr().out.splitlines()
    for (_, line), why in REASONS.items():
        assert any(row.startswith(f"reject: refused.jsonl:{line}: ") and row.endswith(why) for row in shown)
    assert [row for row in shown if row.endswith(":") and len(row) == 2] == ["b:", "c:", "e:"]
    long = write_problems(tmp_path / "long.jsonl", [{"id": "x", "question": "many words " * 60}])
    assert sample.main([str(config()), "--dry-run", "--input", str(long), "--output", str(tmp_path / "run")]) == 3
    shown = capsys.readouterr().out
    assert (
        "reject: long.jsonl:1: the prompt has 618 tokens for the student; engine.context 192 leaves room for" in shown
    )


def test_a_row_that_cannot_be_taken_up_again_is_rejected(call, tmp_path, monkeypatch):
    """Its tokenizer fails on its text; the rows in flight beside it go on."""
    run = tmp_path / "run"
    assert call(4, run, killed_after=1) is None
    flying = [json.loads(line)["id"] for line in journal(run)]
    assert len(flying) > 2
    fill = Rows.fill

    def failing(self: Rows, batch: object, slot: int, job: object, prompts: object) -> None:
        fill(self, batch, slot, job, prompts)
        if job.problem.id == flying[1] and job.state is not None:
            raise IndexError("no such token")

    monkeypatch.setattr(Rows, "fill", failing)
    assert call(4, run) == 3
    mine = [reject for reject in rejects(run) if reject["id"] == flying[1]]
    assert [(one["file"], one["reason"]) for one in mine] == [("refused.jsonl", "IndexError: no such token")]
    assert sorted(row["id"] for row in records(run)) == sorted({"b", "c", "e", "f", "g"} - {flying[1]})


def journal(run: Path) -> Iterator[str]:
    return (line for file in (run / "journal").glob("rows-*.jsonl") for line in file.read_text().splitlines())
