"""The command from end to end: what it writes, what it shows, what it leaves alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import yaml

from tessy_jax.baselines.registry import Methods
from tessy_jax.cooperate.state import Role
from tests.kit import ROOT
from tests.kit.run_synthesize import (
    QUESTIONS,
    TEMPLATE,
    call,
    pair,
    records,
    rejects,
    shared_engine,
    whole,
    write_problems,
)

OPEN, CLOSE = "<think>\n", "\n</think>\n\n"


def files(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_records():
    rows = whole()
    wanted = [(f"p{i}", sample) for i in range(len(QUESTIONS)) for sample in (0, 1)]
    assert [(row["id"], row["sample_index"]) for row in rows] == wanted
    for row in rows:
        question, answer = row["messages"]
        assert row["id"] == f"p{row['level']}"
        assert question == {"role": "user", "content": QUESTIONS[row["level"]]}
        assert answer["role"] == "assistant"
        check_spans(row, answer["content"])
    texts = [row["messages"][1]["content"] for row in rows]
    assert all(first != second for first, second in zip(texts[::2], texts[1::2], strict=True))
    assert sum(row["switches"] for row in rows) > 20


def check_spans(row, content):
    """The spans are the trace and the answer, without gaps; what lies around them is the student's form of thinking."""
    assert content.startswith(OPEN)
    assert content.count(CLOSE) == 1
    closing = content.index(CLOSE)
    kept = {"student": 0, "teacher": 0, "answer": 0}
    for phase, start, end in (("think", len(OPEN), closing), ("answer", closing + len(CLOSE), len(content))):
        at = start
        for span in (span for span in row["spans"] if span["phase"] == phase):
            assert span["start"] == at < span["end"]
            assert phase == "think" or span["by"] == "student"
            at = span["end"]
            kept[span["by"] if phase == "think" else "answer"] += span["n_tokens"]
        assert at == end
    assert kept.items() <= row["n_tokens"].items()
    assert row["finish"]["think"] in ("end", "eos", "length", "loop")
    assert row["finish"]["answer"] in ("stop", "length")


def test_run_directory_and_second_run(tmp_path, capsys):
    run = tmp_path / "run"
    assert call("--output", run, "--limit", 4, "--show") == 0
    shown, messages = capsys.readouterr()
    assert f"4 rows done, 0 rejected, 0 left; records in {run}/data" in messages
    assert records(run) == [row for row in whole() if row["sample_index"] == 0][:4]
    assert all(row["id"] in shown for row in records(run))
    before = files(run)
    assert {"manifest.json", "config.yaml", "metrics.jsonl", "run.log", "rejects.jsonl"} < before.keys()
    identity = json.loads(before["manifest.json"])["identity"]
    assert identity["seed"] == 5
    assert list(identity["input"]) == ["problems.jsonl"]
    assert yaml.safe_load(before["config.yaml"])["engine"]["batch"] == 3
    metrics = [json.loads(line) for line in before["metrics.jsonl"].splitlines()]
    assert metrics[-1]["done"] == metrics[-1]["total"] == 4
    with mock.patch.object(Methods, "open", side_effect=AssertionError("a finished run needs no tokenizer")):
        assert call("--output", run, "--limit", 4) == 0
        assert "nothing left to do\n4 rows done, 0 rejected, 0 left" in capsys.readouterr().err
        assert files(run) == before
        assert call("--output", run, "--limit", 4, "--show") == 0
    shown = capsys.readouterr().out
    for record in records(run):
        assert record["messages"][-1]["content"].split()[-1] in shown
    assert files(run) == before


def test_a_finished_run_of_other_files_or_settings_is_refused(tmp_path, capsys):
    """As one that is not finished, with every difference; the models are opened to find out."""
    folder = tmp_path / "student"
    shutil.copytree(pair().parent / "student", folder)
    arguments = "--output", tmp_path / "run", "--limit", 1, f"student.model={folder}"
    assert call(*arguments) == 0
    before = files(tmp_path / "run")
    changes = (
        ("student.thinking.after=' '", "student.template"),
        ("student.prompt.template='{{ messages[0].content }}'", "student.template"),
        ("predictors.student.threshold=0.5", "student.predictor.threshold"),
    )
    for override, key in changes:
        capsys.readouterr()
        assert call(*arguments, override) == 1
        assert f"holds a different run:\n  {key}: " in capsys.readouterr().err
    with (folder / "generation_config.json").open("a") as file:
        file.write(" ")
    assert call(*arguments) == 1
    assert "holds a different run:\n  student.model: " in capsys.readouterr().err
    assert files(tmp_path / "run") == before


def test_pytorch_is_not_imported(tmp_path):
    code = f"""
import runpy, sys
sys.argv = ["synthesize", {str(pair())!r}, "--dry-run"]
try:
    runpy.run_module("tessy_jax.synthesize", run_name="__main__", alter_sys=True)
finally:
    print("transformers" in sys.modules, "torch" in sys.modules)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (process.returncode, process.stdout.splitlines()[-1]) == (0, "True False"), process.stderr


def test_a_higher_limit_goes_on_and_overwrite_starts_anew(tmp_path):
    run = tmp_path / "run"
    assert call("--output", run, "--limit", 1) == 0
    assert call("--output", run, "--limit", 2, "samples=2") == 0
    assert records(run) == whole()[:4]
    (run / "mine.txt").write_text("not the run's")
    assert call("--output", run, "--limit", 1, "--overwrite") == 0
    assert records(run) == whole()[:1]
    assert (run / "mine.txt").exists()


def test_dry_run_writes_nothing(tmp_path, capsys):
    before = files(pair().parent)
    assert call("--dry-run", "--output", tmp_path / "run") == 0
    shown = capsys.readouterr().out
    assert "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n<think>\n" in shown
    assert "<bos>What is 2 + 3?\nThoughts:<think>\n" in shown
    assert "28 ids: [322, " in shown
    assert "24 ids: [2, " in shown
    assert "9 problems x 1 samples, 3 slots" in shown
    for name in (
        "student weights",
        "student cache",
        "teacher weights",
        "teacher cache",
        "teacher's predictor weights",
        "sum",
    ):
        assert f"\n{name}" in shown
    assert not list(tmp_path.iterdir())
    assert files(pair().parent) == before


def test_bad_rows_are_rejected_and_the_others_done(tmp_path, capsys):
    problems, run = tmp_path / "bad.jsonl", tmp_path / "run"
    lines = (
        '{"id": "p0", "question": "What is 2 + 3?", "level": 0}',
        '{"id": "b", "question"',
        '{"id": "c", "level": 1}',
        '{"id": "d", "question": " \\n"}',
        json.dumps({"id": "e", "question": "many words " * 60}),
        '{"id": "p0", "question": "Hi"}',
        '{"id": "g", "question": "\udcff"}',
        '["Hi"]',
        '{"id": "p4", "question": "Hi", "level": 4}',
    )
    problems.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    assert call("--dry-run", "--output", run, "--input", problems) == 3
    assert capsys.readouterr().out.startswith("reject: bad.jsonl:2: malformed JSON at column 23")
    assert not run.exists()
    for _ in range(2):
        assert call("--output", run, "--input", problems) == 3
        messages = capsys.readouterr().err
        assert f"2 rows done, 7 rejected, 0 left; records in {run}/data\nsee {run}/rejects.jsonl" in messages
        assert records(run) == [row for row in whole() if row["sample_index"] == 0 and row["level"] in (0, 4)]
        reasons = {row["line"]: row["reason"] for row in rejects(run)}
        assert len(reasons) == len(rejects(run))
        assert {row["file"] for row in rejects(run)} == {"bad.jsonl"}
        assert reasons == {
            2: "malformed JSON at column 23: Expecting ':' delimiter",
            3: "no prompt: expected a field messages, prompt, dialogs, question, conversations; the row has id, level",
            4: "empty prompt in 'question'",
            5: "the prompt has 618 tokens for the student; "
            "engine.context 384 leaves room for 209 beside the token budgets",
            6: "duplicate id 'p0': first at line 1",
            7: "invalid UTF-8 at byte 26 of the line",
            8: "not a JSON object but a list",
        }


def test_rows_that_the_teachers_template_refuses(tmp_path, monkeypatch, capsys):
    """The first, a middle and the last one, because of a system message, which the student takes."""
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + TEMPLATE
    monkeypatch.setattr(shared_engine().models[Role.TEACHER].chat, "template", refusing)
    system, source, run = {"role": "system", "content": "Be brief."}, tmp_path / "in.jsonl", tmp_path / "run"
    rows = (
        {"id": name, "messages": [*([system] if name in "ace" else []), {"role": "user", "content": question}]}
        for name, question in zip("abcde", QUESTIONS, strict=False)
    )
    write_problems(source, list(rows))
    command = ("--output", run, "--input", source, f"teacher.prompt.template={json.dumps(refusing)}")
    assert call(*command, "--dry-run") == 3
    assert capsys.readouterr().out.startswith("reject: in.jsonl:1: the chat template of ")
    reason = f"the chat template of {pair().parent}/teacher refuses the messages: No system role"
    for _ in range(2):
        assert call(*command) == 3
        assert [row["id"] for row in records(run)] == ["b", "d"]
        found = sorted((row["line"], row["file"], row["id"], row["reason"]) for row in rejects(run))
        assert found == [(line, "in.jsonl", name, reason) for line, name in ((1, "a"), (3, "c"), (5, "e"))]
