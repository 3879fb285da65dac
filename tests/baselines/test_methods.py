"""The methods of the paper's Table 1: what they write, what they load, how they go on, what they refuse."""

import dataclasses
import json
import shutil
from functools import cache
from pathlib import Path

import pytest

from tessy_jax import synthesize
from tessy_jax.baselines.mix import author_of
from tessy_jax.baselines.registry import OPEN
from tessy_jax.baselines.seated import Seated
from tessy_jax.baselines.staged import parse_score
from tessy_jax.config.methods import METHODS
from tessy_jax.data.records import Record, Span
from tessy_jax.data.run_rows import RunDir
from tessy_jax.data.sources import RawRow
from tessy_jax.text.chat import Chat
from tessy_jax.train.data.examples import PARTS, Example, examples
from tests.kit import ROOT
from tests.kit.run_methods import BUDGETS, call, methods_file, plain
from tests.kit.run_synthesize import pair, records, rejects

REFERENCE = "reference_template='{problem} {reference} ?'"
SCORE = "score_template='{response}'"

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
    warm = "student.sampling.temperature=0.9"  # or all candidates of teacher_score would be the same text
    assert call(method, "--dry-run", warm, "--output", tmp_path / "run") == 0
    shown, messages = capsys.readouterr()
    assert f"method {method}: " in shown
    for name in ("student", "teacher"):
        loaded = method == f"{name}_only" or not method.endswith("_only")
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
        (["method=teacher_score"], "student.sampling.temperature: at 0 all candidates of method teacher_score"),
        (["method=teacher_score", "score_template=Rate it."], "must say where {response} stands"),
        (["method=teacher_reference", "reference_template='{problem}'"], "must say where {reference} stands"),
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
    documented = (ROOT / "docs/methods.md").read_text("utf-8")
    assert all(f"| `{method}` |" in documented for method in OPEN)
    with pytest.raises(SystemExit):
        synthesize.main(["--help"])
    shown = capsys.readouterr().out
    assert "teacher_system (method: teacher_only)" in shown
    assert "predictors.student.table (kind: unigram)" in shown


# -- methods in several steps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 7", 7.0),
        ("I gave it a score of 3. Final score: 8.5/10", 8.5),
        ("**Score:** 9", 9.0),
        (" -2 ", -2.0),
        ("Score: high", None),
        ("7 of 10 steps are right", None),
        ("", None),
    ],
)
def test_numbers_of_replies(reply, score):
    assert parse_score(reply) == score


def interrupted_once(monkeypatch, interrupt, folder: str):
    """Stops the run whose directory has this name after its first journal."""
    write, done = RunDir.write_journal, []

    def stopping(self, rows):
        write(self, rows)
        if self.path.name == folder and not done:
            done.append(True)
            interrupt()

    monkeypatch.setattr(RunDir, "write_journal", stopping)


def test_the_student_is_given_the_teachers_answer(tmp_path, monkeypatch, interrupt):
    run = tmp_path / "run"
    for folder in ("reference", "run"):
        with monkeypatch.context() as patch:
            interrupted_once(patch, interrupt, folder)
            assert call("teacher_reference", REFERENCE, "--output", run, "--limit", 4) == 130
    assert call("teacher_reference", REFERENCE, "--output", run, "--limit", 4) == 0
    rows = records(run)
    assert len(rows) == 4
    for row in rows:
        question = row["messages"][0]
        text, _ = plain("teacher", "teacher", [question], row["id"])
        answer = text[text.index("\n</think>\n\n") + len("\n</think>\n\n") :]
        helped = [question | {"content": f"{question['content']} {answer} ?"}]
        text, _ = plain("student", "student", helped, row["id"])
        assert row["messages"][1]["content"] == text
        assert {span["by"] for span in row["spans"]} <= {"student"}
    first = {name: (run / name).stat().st_mtime_ns for name in ("manifest.json", "reference/manifest.json")}
    assert call("teacher_reference", REFERENCE, "--output", run, "--limit", 4) == 0
    assert first == {name: (run / name).stat().st_mtime_ns for name in first}


def test_the_best_candidate_is_kept(tmp_path, monkeypatch, capsys, interrupt):
    """The tiny teacher writes no numbers, so what is replied is replaced; a file of the input has a field too many."""
    run, problems = tmp_path / "run", tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "question": f"What is {i} + 1?"} for i in range(3)] + [
        {"id": "p3", "question": "?", "score": 1}
    ]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("candidates=2", SCORE, "student.sampling.temperature=0.9", f"input={problems}", "--output", run)
    replies = {"p0#0": "Score: 3", "p0#1": "Score: 4", "p1#0": "Score: 5", "p1#1": "5", "p2#0": "?", "p2#1": "no"}
    append = RunDir.append

    def replying(self, row):
        if self.path.name == "scores":
            record = Record.from_row(row)
            reply, spans = replies[row["id"]], [span for span in record.spans if span.phase == "think"]
            head = record.content[: spans[-1].end] if spans else ""
            spans.append(Span("teacher", "answer", len(head), len(head + reply), 1, 0))
            row = dataclasses.replace(record, content=head + reply, spans=tuple(spans)).to_row()
        append(self, row)

    monkeypatch.setattr(RunDir, "append", replying)
    for folder in ("candidates", "scores"):
        with monkeypatch.context() as patch:
            interrupted_once(patch, interrupt, folder)
            assert call("teacher_score", *arguments) == 130
    assert call("teacher_score", *arguments) == 3

    texts = {(row["id"], row["sample_index"]): row["messages"] for row in records(run / "candidates")}
    assert len(texts) == 6
    assert texts["p0", 0] != texts["p0", 1]
    kept = {row["id"]: row for row in records(run)}
    assert kept["p0"]["messages"] == texts["p0", 1]
    assert kept["p1"]["messages"] == texts["p1", 0]
    found = [(row["sample_index"], row["score"], row["scores"]) for row in kept.values()]
    assert found == [(0, 4.0, [3.0, 4.0]), (0, 5.0, [5.0, 5.0])]
    asked = {row["id"]: row["messages"][0]["content"] for row in records(run / "scores")}
    assert asked == {f"{name}#{sample}": messages[1]["content"] for (name, sample), messages in texts.items()}
    reasons = {(row["id"], row["line"]): row["reason"] for row in rejects(run)}
    assert reasons == {
        ("p2", 3): "none of 2 candidates has a score; the first: the teacher's reply is no number: '?'",
        ("p3", 4): "the row has a field 'score', which method teacher_score writes: rename it",
    }
    with monkeypatch.context() as patch:
        patch.setattr(Seated, "load", None)  # a finished run loads nothing
        assert call("teacher_score", *arguments) == 3
    capsys.readouterr()
    assert call("teacher_score", "candidates=3", *arguments[1:]) == 1
    assert "candidates: 2 there, 3 now" in capsys.readouterr().err
