"""The methods of the paper's Table 1: what they write, what they load, how they go on, what they refuse."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest

from tessy_jax import synthesize
from tessy_jax.baselines.mix import author_of
from tessy_jax.baselines.registry import OPEN
from tessy_jax.config.methods import METHODS
from tessy_jax.data.run_rows import RunDir
from tessy_jax.data.sources import RawRow
from tessy_jax.text.chat import Chat
from tessy_jax.train.data.examples import PARTS, Example, examples
from tests.kit.run_methods import BUDGETS, call, methods_file, plain
from tests.kit.run_synthesize import pair, records

WHO = {
    "teacher_think": ("teacher", "student"),
    "teacher_answer": ("student", "teacher"),
    "student_only": ("student", "student"),
    "teacher_only": ("teacher", "teacher"),
}


@cache
def run(method: str) -> Path:
    """The directory of an undisturbed run."""
    folder = pair().parent / f"whole-{method}"
    assert call(method, "--output", folder) == 0
    return folder


def who(method: str, record: dict) -> tuple[str, str]:
    """Who thinks and who answers."""
    return WHO.get(method) or (author_of(record["id"], record["sample_index"]),) * 2


@pytest.mark.parametrize("method", [*WHO, "teacher_mix"])
def test_records_are_those_of_plain_python(method):
    """Texts, and the author of every character, against torch; then the records as `sft` reads them."""
    student = Chat.load(pair().parent / "student")
    rows = records(run(method))
    assert len(rows) == 9
    for row in rows:
        thinks, answers = who(method, row)
        text, trace = plain(thinks, answers, row["messages"][:1], row["id"])
        assert row["messages"][1]["content"] == text
        assert row["finish"] == {"think": trace.finish[0], "answer": trace.finish[1]}

        closing = text.index("\n</think>\n\n")
        spans = [(span["by"], span["phase"], text[span["start"] : span["end"]]) for span in row["spans"]]
        thought, answer = text[len("<think>\n") : closing], text[closing + len("\n</think>\n\n") :]
        wanted = [(thinks, "think", thought), (answers, "answer", answer)]
        assert spans == [span for span in wanted if span[2]]
        other = "teacher" if thinks == "student" else "student"
        assert row["n_tokens"][other] == row["switches"] == 0
        assert not thought or row["n_tokens"][thinks] > 0

        [example] = examples(RawRow(Path("part.jsonl"), 1, row, json.dumps(row)), student)
        assert isinstance(example, Example)
        part = "style" if thinks == "student" else "capability"
        assert {PARTS[code] for code in example.parts} <= {"context", part, "answer"}
    assert sum(len(row["messages"][1]["content"]) > 40 for row in rows) > 4


def test_a_mixture_is_half_and_half():
    authors = [who("teacher_mix", row)[0] for row in records(run("teacher_mix"))]
    assert {"student", "teacher"} == set(authors)
    for name in ("p1", "größe", "\udcff"):
        assert {author_of(name, 0), author_of(name, 1)} == {"student", "teacher"}
    shares = [author_of(f"p{i}", 0) == "teacher" for i in range(1000)]
    assert 450 < sum(shares) < 550
    alone = {name: {row["id"]: row for row in records(run(f"{name}_only"))} for name in ("student", "teacher")}
    for row, author in zip(records(run("teacher_mix")), authors, strict=True):
        assert row == alone[author][row["id"]]


def test_stopped_in_either_half_and_resumed(tmp_path, monkeypatch, interrupt):
    """The second command stops while the teacher writes; rows of the teacher wait in the journal for their half."""
    folder, write, seen = tmp_path / "run", RunDir.write_journal, []

    def stop_when(role: str):
        asked = []

        def interrupted(self, rows):
            seen.append([row.role for row in rows])
            write(self, rows)
            if not asked and any(row.role == role and row.text for row in rows):
                asked.append(True)
                interrupt()

        return interrupted

    for role in ("student", "teacher"):
        with monkeypatch.context() as patch:
            patch.setattr(RunDir, "write_journal", stop_when(role))
            assert call("teacher_mix", "--output", folder) == 130
        assert role in seen[-1]
        assert len(records(folder)) < 9
    assert call("teacher_mix", "--output", folder) == 0
    assert records(folder) == records(run("teacher_mix"))
    assert call("student_only", "--output", folder) == 1


def test_identity_says_the_method_and_k_is_no_part_of_it(tmp_path, capsys):
    folder = tmp_path / "run"
    assert call("student_only", "--output", folder, "--limit", 1) == 0
    identity = json.loads((folder / "manifest.json").read_text())["identity"]
    assert identity["method"] == "student_only"
    assert "teacher" not in identity
    assert call("student_only", "--output", folder, "--limit", 1, "cooperation.k=9") == 0
    assert "nothing left to do" in capsys.readouterr().err
    assert call("teacher_think", "--output", folder, "--limit", 1) == 1
    assert '\n  method: "student_only" there, "teacher_think" now\n' in capsys.readouterr().err


@pytest.mark.parametrize("method", list(OPEN)[1:])
def test_dry_run_says_who_writes_and_what_is_loaded(method, tmp_path, capsys):
    assert call(method, "--dry-run", "--output", tmp_path / "run") == 0
    shown, messages = capsys.readouterr()
    assert f"method {method}: " in shown
    for name in ("student", "teacher"):
        loaded = method in ("teacher_think", "teacher_answer", "teacher_mix", f"{name}_only")
        assert (f"\n{name} weights" in shown) == (f"\n{name} cache" in shown) == loaded
    assert ("has no use for teacher" in messages) == (method == "student_only")
    assert not (tmp_path / "run").exists()


def test_the_teacher_alone_may_have_a_system_message_of_its_own(tmp_path, capsys):
    arguments = ("--dry-run", "--output", tmp_path / "run", "teacher_system=Think like the student.")
    assert call("teacher_only", *arguments) == 0
    assert "<bos>Think like the student.\nWhat is 2 + 3?\nThoughts:" in capsys.readouterr().out
    assert call("teacher_think", *arguments) == 2
    wanted = "unknown key 'teacher_system' in override 'teacher_system=Think like the student.'; it belongs to another"
    assert f"{wanted} variant (method: teacher_only), (method: teacher_mix)" in capsys.readouterr().err


def test_a_model_that_is_not_needed_may_be_absent(tmp_path, capsys):
    """Of the student only the form of thinking is needed where the teacher writes alone: no weights."""
    student = shutil.copytree(pair().parent / "student", tmp_path / "student")
    (student / "model.safetensors").unlink()
    output = ("--output", tmp_path / "run")
    assert call("teacher_only", "--dry-run", f"student.model={student}", *output) == 0
    assert call("student_only", "--dry-run", "teacher.model=/no/teacher", *output) == 0
    capsys.readouterr()
    assert call("student_only", "--dry-run", f"student.model={student}", *output) == 1
    assert f"{student}: has neither model.safetensors nor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=teacher_onyl"], "names no method: 'teacher_onyl'; did you mean 'teacher_only'?"),
        (["method=7"], f"names no method: 7; it should be one of {', '.join(METHODS.schemas)}"),
        (["method=teacher_think", "teacher=null"], "'teacher' in override 'teacher=null' should be a section"),
        (["method=tessy"], "missing key 'predictors' in "),
        (
            ["method=teacher_only", "teacher.thinking={}"],
            "teacher.thinking: method teacher_only lets the teacher answer, and ",
        ),
        (["method=teacher_mix", "teacher.thinking={}"], "teacher.thinking: method teacher_mix lets the teacher answer"),
        (["method=student_only", "cooperation={preset: released_code}"], "'cooperation.preset' in override "),
    ],
)
def test_wrong_values(overrides, message, tmp_path, capsys):
    code = synthesize.main([str(methods_file()), *BUDGETS, *overrides, "--output", str(tmp_path / "run")])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_every_method_has_a_configuration_and_is_documented(capsys):
    assert list(OPEN) == list(METHODS.schemas)
    with pytest.raises(SystemExit):
        synthesize.main(["--help"])
    shown = capsys.readouterr().out
    assert "teacher_system (method: teacher_only)" in shown
    assert "predictors.student.table (kind: unigram)" in shown
