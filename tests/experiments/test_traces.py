"""Tokens by author, counted from records: turns that kept nothing, and methods in several steps."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tessy_jax.experiments.traces import count_traces


def span(by: str, phase: str, kept: int, dropped: int) -> dict[str, Any]:
    return {"by": by, "phase": phase, "start": 0, "end": 10 * kept, "n_tokens": kept, "dropped_tokens": dropped}


def write(folder: Path, rows: list[dict[str, Any]], name: str = "data/part-00000-of-00001.jsonl") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def record(name: str, sample: int, text: str, spans: list[dict[str, Any]], rolled_back: int) -> dict[str, Any]:
    def kept(phase: str, *authors: str) -> int:
        return sum(one["n_tokens"] for one in spans if one["phase"] == phase and one["by"] in authors)

    return {
        "id": name,
        "sample_index": sample,
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}],
        "spans": spans,
        "n_tokens": {
            "student": kept("think", "student"),
            "teacher": kept("think", "teacher"),
            "answer": kept("answer", "student", "teacher"),
            "rolled_back": rolled_back,
        },
        "switches": 1,
        "finish": {"think": "end", "answer": "stop"},
        "seed": 0,
    }


def test_two_authors(tmp_path: Path) -> None:
    spans = [span("student", "think", 3, 1), span("teacher", "think", 5, 2), span("student", "answer", 4, 1)]
    alone = [span("teacher", "think", 6, 2), span("student", "answer", 2, 0)]
    write(tmp_path, [record("a", 0, "x", spans, 3 + 9), record("b", 0, "y", alone, 2 + 4)])
    write(tmp_path, [{"file": "f", "line": 1}], "rejects.jsonl")
    found = count_traces(tmp_path)
    assert (found.records, found.rejected, found.switches) == (2, 1, 2)
    assert found.thinking == Counter({"student": 3, "teacher": 11})
    assert found.answers == Counter({"student": 6})
    assert found.thinking_characters == Counter({"student": 30, "teacher": 110})
    assert found.kept == Counter({"student": 9, "teacher": 11})
    assert found.rolled_back == Counter({"student": 2, "teacher": 2 + 2})
    assert found.generated == Counter({"student": 9 + 2, "teacher": 11 + 4})
    assert found.unattributed == 9 + 4  # where both think in one record, either may have had a turn that kept nothing


def test_turns_that_kept_nothing_of_a_single_author(tmp_path: Path) -> None:
    """In a mixture each record has one; a text without any thinking has that of the run, where there is one."""
    student = record("a", 0, "x", [span("student", "think", 3, 1)], 1 + 5)
    teacher = record("b", 0, "y", [span("teacher", "think", 4, 1)], 1 + 6)
    nobody = record("c", 0, "z", [span("teacher", "answer", 2, 0)], 7)
    write(tmp_path / "mix", [student, teacher])
    found = count_traces(tmp_path / "mix")
    assert (found.rolled_back, found.unattributed) == (Counter({"student": 6, "teacher": 7}), 0)
    write(tmp_path / "one", [teacher, nobody])
    found = count_traces(tmp_path / "one")
    assert (found.rolled_back, found.unattributed) == (Counter({"teacher": 7 + 7}), 0)
    write(tmp_path / "three", [student, teacher, nobody])
    assert count_traces(tmp_path / "three").unattributed == 7


def test_a_method_in_several_steps(tmp_path: Path) -> None:
    """A record that was chosen of candidates was written once; what was not chosen was generated all the same."""
    texts = [
        record(
            "a",
            sample,
            f"text {sample}",
            [span("student", "think", 10 + sample, 1), span("student", "answer", 2, 0)],
            1,
        )
        for sample in range(3)
    ]
    write(tmp_path / "candidates", texts)
    reply = [span("teacher", "think", 20, 0), span("teacher", "answer", 1, 0)]
    write(tmp_path / "scores", [record(f"a#{n}", 0, f"Score: {n}", reply, 0) for n in range(3)])
    write(tmp_path, [texts[1] | {"sample_index": 0, "score": 7.0}])
    found = count_traces(tmp_path)
    assert found.records == 1
    assert found.kept == Counter({"student": 11 + 2})
    assert found.generated == Counter({"student": 10 + 11 + 12 + 3 * (2 + 1), "teacher": 3 * 21})
    assert found.rolled_back == Counter({"student": 3})
