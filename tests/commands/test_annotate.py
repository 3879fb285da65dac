"""The command from end to end: what it writes, how it goes on, what it says."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tessy_jax import annotate
from tessy_jax.annotation import thoughts
from tessy_jax.annotation.lexicon import Lexicon
from tessy_jax.data.segments import Annotated
from tests.annotation.test_endpoint import said, serving
from tests.kit import ROOT
from tests.kit.run_synthesize import records, rejects

THOUGHTS = [
    f"Okay, so problem {i}. " + " ".join(f"Wait, {n} plus {n} is {2 * n}, so far." for n in range(i * 5))
    for i in range(5)
]


@pytest.fixture
def config(tmp_path) -> Path:
    """Five responses, the first with one segment and the last with twenty."""
    rows = [
        {"id": f"r{i}", "messages": [{"role": "assistant", "content": f"<think>\n{t}\n</think>\n\nYes."}]}
        for i, t in enumerate(THOUGHTS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "annotator": {"kind": "lexicon", "phrases": str(ROOT / "configs/style_phrases.json")},
        "segments": {"words": 8, "per_response": 10},
        "input": str(tmp_path / "rows.jsonl"),
        "output": str(tmp_path / "run"),
    }
    file = tmp_path / "annotate.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def call(config: Path, *arguments: object) -> int:
    return annotate.main([str(config), *map(str, arguments)])


def segments(run: Path) -> dict[tuple, dict]:
    rows = {(row["id"], row["sample_index"], row["segment"]): row for row in records(run)}
    assert len(rows) == len(records(run))
    return rows


def test_segments_with_spans(config, capsys):
    assert call(config, "--show") == 0
    run = config.parent / "run"
    shown, messages = capsys.readouterr()
    rows = segments(run)
    assert f"{len(rows)} segments done, 0 rejected (0.0%), 0 left; segments in {run}/data\n" in messages
    assert [sum(key[0] == f"r{i}" for key in rows) for i in range(5)] == [1, 5, 10, 10, 10]
    for row in rows.values():
        text = THOUGHTS[int(row["id"][1])]
        assert text[row["offset"] :].startswith(row["text"])
        assert row["annotator"] == "lexicon"
        assert row["spans"] == [
            {"start": s.start, "end": s.end} for s in Lexicon(["okay, so", "wait", "so"]).spans(row["text"])
        ]
    assert "⟦Okay, so⟧ problem 0." in shown
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["done"] == metrics[-1]["total"] == len(rows)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert call(config) == 0
    assert "nothing left to do" in capsys.readouterr().err
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_more_segments_later(config):
    run = config.parent / "run"
    assert call(config, "segments.per_response=2", "--limit", 3) == 0
    few = segments(run)
    assert len(few) == 1 + 2 + 2
    assert call(config) == 0
    assert segments(run).items() >= few.items()
    assert len(segments(run)) == 36


def test_another_drawing_is_another_run(config, capsys):
    assert call(config) == 0
    assert call(config, "segments.seed=1") == 1
    assert "holds a different run:\n  segments.seed: 0 there, 1 now" in capsys.readouterr().err
    assert call(config, "segments.seed=1", "--overwrite") == 0


def test_whatever_a_row_raises_it_is_rejected(config, monkeypatch, capsys):
    read = thoughts.read_record
    monkeypatch.setattr(thoughts, "read_record", lambda row: read(row) if row["id"] not in ("r0", "r3") else row["no"])
    assert call(config) == 3
    found = [(row["id"], row["file"], row["line"], row["reason"]) for row in rejects(config.parent / "run")]
    assert found == [("r0", "rows.jsonl", 1, "KeyError: 'no'"), ("r3", "rows.jsonl", 4, "KeyError: 'no'")]
    assert {key[0] for key in segments(config.parent / "run")} == {"r1", "r2", "r4"}


def test_conversations_as_json_in_strings(config):
    whole = call(config), segments(config.parent / "run")
    rows = [json.loads(line) for line in (config.parent / "rows.jsonl").read_text().splitlines()]
    strings = [row | {"messages": json.dumps(row["messages"])} for row in rows]
    (config.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in strings))
    assert (call(config, "--overwrite"), segments(config.parent / "run")) == whole


def test_rows_that_give_no_text_are_rejected(config, capsys):
    file = config.parent / "rows.jsonl"
    file.write_text(file.read_text() + '{"id": "x", "prompt": "?"}\n{"id"\n')
    assert call(config, "--dry-run") == 3
    assert "reject: rows.jsonl:6: no thinking: expected" in capsys.readouterr().out
    for _ in range(2):
        assert call(config) == 3
        assert "36 segments done, 0 rejected (0.0%), 0 left" in (messages := capsys.readouterr().err)
        assert "2 rows of the input could not be used" in messages
        assert [row["line"] for row in rejects(config.parent / "run")] == [6, 7]


def test_released_rows_are_annotated_already(config):
    file = config.parent / "released.jsonl"
    rows = [
        {"id_ddm": "e", "think_text": "so the solution", "pred_result": [{"span": "so", "start": 0, "end": 2}]},
        {"id_ddm": "e", "think_text": "so the solution", "pred_result": [{"span": "so", "start": 7, "end": 9}]},
        {"id_ddm": "e", "think_text": "a six", "pred_result": []},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert call(config, "--input", file) == 3
    run = config.parent / "run"
    assert [(row["text"], row["spans"], row["annotator"]) for row in segments(run).values()] == [
        ("so the solution", [{"start": 0, "end": 2}], "released"),
        ("a six", [], "released"),
    ]
    assert [row["reason"] for row in rejects(run)] == ["pred_result[0]: 'so' stands inside a longer word"]


def test_a_dead_endpoint_loses_nothing(config, capsys, tmp_path):
    """It dies after some answers, the command says how to go on, and goes on; nothing is asked twice."""
    alive, asked = [12], []

    def answer(body):
        text = body["messages"][0]["content"].rpartition("\n\n")[2]
        if alive[0] == 0:
            return 503, {}, "down"
        alive[0] -= 1
        asked.append(text)
        return said(json.dumps(["is"] if "problem 0" in text else [w for w in text.split() if w == "Wait,"]))

    with serving(answer) as server:
        server_config = f"annotator={{kind: endpoint, url: '{server.url}', model: m, retries: 2, backoff: 0.01}}"
        run = tmp_path / "run"
        assert call(config, server_config) == 1
        messages = capsys.readouterr().err
        assert "did not answer, asked 3 times: 503 down\nwhat is done is kept; repair this, and the same" in messages
        assert len(segments(run)) == 11
        assert "11 segments done, 1 rejected (8.3%), 24 left" in messages
        alive[0] = 1000
        assert call(config, server_config) == 3
    messages = capsys.readouterr().err
    assert "35 segments done, 1 rejected (2.8%), 0 left" in messages
    assert len(asked) == 36
    [reject] = rejects(run)
    assert reject["reason"] == "'is' is not in the text"
    assert reject["reply"] == '["is"]'


def test_interrupt_keeps_what_is_done(config, monkeypatch, capsys, interrupt):
    def slow(self, left):
        for number, segment in enumerate(left):
            if number == 3:
                interrupt()
            yield [Annotated(segment, [])]

    with monkeypatch.context() as patch:
        patch.setattr(Lexicon, "annotate", slow)
        assert call(config) == 130
    assert "32 left" in (messages := capsys.readouterr().err)
    assert "stopped; the same command goes on from here" in messages
    assert len(segments(config.parent / "run")) == 4
    assert call(config) == 0
    assert len(segments(config.parent / "run")) == 36


def test_interrupt_waits_for_the_requests_in_flight(config, capsys, interrupt):
    asked = []

    def answer(body):
        asked.append(body)
        if len(asked) == 5:
            interrupt()
        return said("[]")

    with serving(answer) as server:
        assert call(config, f"annotator={{kind: endpoint, url: '{server.url}', model: m, concurrency: 3}}") == 130
    assert "stopping after the segments in flight; once more to stop at once" in capsys.readouterr().err
    assert 5 <= len(asked) == len(segments(config.parent / "run")) < 36


def test_a_torn_line_is_done_again(config):
    run = config.parent / "run"
    assert call(config) == 0
    whole = segments(run)
    [part] = (run / "data").glob("part-*.jsonl")
    part.write_bytes(part.read_bytes()[:-20])
    assert call(config) == 0
    assert segments(run) == whole


def test_dry_run_writes_nothing(config, capsys):
    assert call(config, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "5 responses, 36 segments of 8 words for lexicon; 0 segments are annotated already" in shown
    assert "['Okay, so']" in shown
    assert call(config, "--dry-run", "annotator={kind: endpoint, url: 'http://h/v1', model: m}") == 0
    assert "POST http://h/v1/chat/completions\n{\n" in capsys.readouterr().out
    assert not (config.parent / "run").exists()


def test_compare(config, capsys):
    assert call(config) == 0
    fewer = {"phrases": {"all": ["wait", "is"]}}
    (config.parent / "few.json").write_text(json.dumps(fewer))
    other = config.parent / "other"
    assert call(config, f"annotator.phrases={config.parent / 'few.json'}", "--output", other, "--limit", 4) == 0
    capsys.readouterr()
    assert annotate.main(["--compare", str(config.parent / "run"), str(other)]) == 0
    table = capsys.readouterr().out
    for cells in (("segments", "36", "26", "26"), ("precision", "recall", "F1"), ("kappa",), ("is",), ("okay, so",)):
        assert any(all(cell in line for cell in cells) for line in table.splitlines()), cells
    shutil.rmtree(other)
    assert annotate.main(["--compare", str(config.parent / "run"), str(other)]) == 1
    assert capsys.readouterr().err == f"error: no such file or folder: {other}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["segments.word=3"],
            2,
            "unknown key 'segments.word' in override 'segments.word=3'; did you mean 'segments.words'?",
        ),
        (["annotator.phrases=/no/list"], 1, "/no/list: there is no such list of phrases"),
        (["--input", "/no/where.jsonl"], 1, "no such file or folder: /no/where.jsonl"),
        (["annotator={kind: llm, model: /no/model}"], 2, "annotator.model: there is no folder '/no/model'"),
        (["annotator={kind: endpoint, url: x, model: m}"], 2, "should be a URL such as http://localhost:8000/v1"),
        (
            ["annotator={kind: endpoint, url: 'http://h', model: m, key_env: NO_SUCH_KEY}"],
            2,
            "annotator.key_env: the environment variable NO_SUCH_KEY is not set",
        ),
        (["annotator={kind: magic}"], 2, "'annotator.kind'"),
    ],
)
def test_wrong_values(config, capsys, arguments, code, message):
    assert call(config, *arguments) == code
    assert message in capsys.readouterr().err
    assert not (config.parent / "run").exists()
