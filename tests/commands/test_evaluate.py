"""`evaluate` from end to end: hand-computed tables, kills in every stage, and what may be wrong with its inputs."""

import http.server
import json
import os
import signal
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pytest
import yaml

from tessy_jax import evaluate
from tessy_jax.cooperate.sampling import Sampling
from tests.commands.test_sample import SIZES, oracle
from tests.kit import process
from tests.kit.run_synthesize import pair

PROBLEMS = [
    {"id": "sum", "prompt": "What is 2 + 3?", "answer": "5", "tags": {"level": "easy"}},
    {"id": "../../x", "prompt": "Which letter?", "choices": ["red", "blue"], "answer": "B", "tags": {"level": "easy"}},
    {
        "id": "double",
        "prompt": "Read n, print 2n.",
        "tests": [{"input": "2\n", "output": "4\n"}, {"input": "5\n", "output": "10\n"}],
        "tags": {"level": "hard"},
    },
    {
        "id": "plus",
        "prompt": "Write plus(a, b).",
        "entry_point": "plus",
        "tests": [{"input": "1\n2", "output": "3"}],
        "tags": {"level": "hard"},
    },
]
GOOD = {
    "sum": "Two and three are \\boxed{5}.",
    "../../x": "ANSWER: B",
    "double": "```python\nprint(2 * int(input()))\n```",
    "plus": "```python\ndef plus(a, b):\n    return a + b\n```",
}
BAD = {
    "sum": "\\boxed{6}",
    "../../x": "I cannot say.",
    "double": "```python\nprint(4)\n```",
    "plus": "```python\ndef plus(a, b):\n    return a / 0\n```",
}


def response(problem: str, run: int, text: str, **others: Any) -> dict[str, Any]:
    return {"problem_id": problem, "sample_index": run, "response": f"<think>\nhm\n</think>\n\n{text}"} | others


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def configure(root: Path, model: dict[str, Any], **others: Any) -> Path:
    """Writes the configuration of an evaluation of `PROBLEMS`, or others; returns its file."""
    problems = write(root / "mine.jsonl", others.pop("problems", PROBLEMS))
    benchmarks = [{"name": "jsonl", "path": str(problems), "runs": others.pop("runs", 1), "cpu_seconds": 2}]
    values = {"model": model, "benchmarks": benchmarks, "output": str(root / "run"), "judge": {"workers": 2}} | others
    file = root / "evaluate.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def from_file(root: Path, rows: list[dict[str, Any]], **others: Any) -> Path:
    path = write(root / "responses.jsonl", rows)
    return configure(root, {"kind": "responses", "path": str(path), "model": "someone"}, **others)


def judgements(root: Path) -> dict[tuple[str, int], str]:
    rows = map(json.loads, (root / "run/mine/judgements/data/part-00000-of-00001.jsonl").read_text().splitlines())
    return {(row["problem_id"], row["sample_index"]): row["verdict"] for row in rows}


def report(root: Path) -> dict[str, Any]:
    return json.loads((root / "run/report.json").read_text())["results"][0]["scores"]


# -- scores ------------------------------------------------------------------------------------------------------------

TWO_RUNS = [response(name, 0, text) for name, text in GOOD.items()] + [
    response("sum", 1, GOOD["sum"]),
    response("../../x", 1, BAD["../../x"]),
    response("double", 1, BAD["double"]),
    response("plus", 1, "", response="<think>\nfor ever", finish="length"),
]
VERDICTS = dict.fromkeys([(name, 0) for name in GOOD], "AC") | {
    ("sum", 1): "AC", ("../../x", 1): "NOANS", ("double", 1): "WA", ("plus", 1): "TRUNC",
}  # fmt: skip


def test_a_table_computed_by_hand(tmp_path):
    """Four problems, two runs: means 1, 1/2, 1/2, 1/2; then a second time, when nothing is left to do."""
    config = from_file(tmp_path, TWO_RUNS, runs=2)
    assert evaluate.main([str(config)]) == 0
    assert judgements(tmp_path) == VERDICTS
    found = report(tmp_path)
    assert found["score"]["value"] == 62.5
    assert found["score"]["error"] == pytest.approx(12.5)  # standard deviation 25 of the problems' means, of four
    assert found["runs"] == [100.0, 25.0]
    assert found["groups"]["level"]["easy"]["value"] == 75
    assert found["groups"]["level"]["hard"]["value"] == 50
    assert found["verdicts"] == {"AC": 5, "NOANS": 1, "WA": 1, "TRUNC": 1}
    assert "62.50 ± 12.50" in (tmp_path / "run/report.md").read_text()
    page = (tmp_path / "run/report.html").read_text()
    assert "62.50" in page
    assert "http://" not in page
    assert "<script" not in page

    before = (tmp_path / "run/report.json").read_bytes()
    assert evaluate.main([str(config)]) == 0
    assert (tmp_path / "run/report.json").read_bytes() == before


def test_truncated_thinking_may_be_kept(tmp_path):
    """OpenCompass judges the draft in a thinking that never ended; nothing else of the table changes."""
    rows = [*TWO_RUNS[:-1], response("plus", 1, "", response=f"<think>\n{GOOD['plus']}", finish="length")]
    config = from_file(tmp_path, rows, runs=2, judge={"on_truncated": "keep", "workers": 1})
    assert evaluate.main([str(config)]) == 0
    assert judgements(tmp_path) == VERDICTS | {("plus", 1): "AC"}


def test_a_failure_of_the_judge_is_no_wrong_answer(tmp_path, capsys):
    """What a function should return cannot be read: no score, or one of the other problems."""
    config = from_file(tmp_path, [response(name, 0, text) for name, text in GOOD.items()])
    damaged = [row | ({"tests": [{"input": "1\n2", "output": "{"}]} if row["id"] == "plus" else {}) for row in PROBLEMS]
    write(tmp_path / "mine.jsonl", damaged)
    assert evaluate.main([str(config)]) == 1
    assert "1 responses could not be judged" in capsys.readouterr().err
    assert evaluate.main([str(config), "judge.allow_judge_errors=true"]) == 0
    found = report(tmp_path)
    assert (found["score"]["value"], found["score"]["problems"], found["judge_errors"]) == (100.0, 3, 1)


def test_two_evaluations_are_compared(tmp_path, capsys):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, texts in zip(folders, (BAD, GOOD), strict=True):
        folder.mkdir()
        config = from_file(folder, [response(name, 0, text) for name, text in texts.items()])
        assert evaluate.main([str(config)]) == 0
    assert judgements(folders[0]) == {
        ("sum", 0): "WA", ("../../x", 0): "NOANS", ("double", 0): "WA", ("plus", 0): "RTE",
    }  # fmt: skip
    assert evaluate.main(["--compare", *(str(folder / "run") for folder in folders)]) == 0
    assert "+100.00" in capsys.readouterr().out


# -- the sources agree -------------------------------------------------------------------------------------------------


@contextmanager
def serving(answer: Any) -> Iterator[str]:
    """A server with OpenAI's chat API: `answer(body)` is the text."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = {"message": {"role": "assistant", "content": answer(body)}, "finish_reason": "stop"}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [reply], "usage": {"completion_tokens": 3}}).encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def own_model(**others: Any) -> dict[str, Any]:
    return {
        "kind": "checkpoint",
        "model": str(pair().parent / "student"),
        "thinking": None,
        "sampling": {"temperature": 0},
        "budgets": {"max_answer_tokens": 12},
        "engine": SIZES,
    } | others


def responses(root: Path) -> dict[tuple[str, int], str]:
    rows = map(json.loads, (root / "run/mine/responses/data/part-00000-of-00001.jsonl").read_text().splitlines())
    return {(row["problem_id"], row["sample_index"]): row["response"] for row in rows}


def test_our_engine_a_server_and_torch_agree(tmp_path):
    """The same model, greedy: the server answers with what torch generates from the template's prompt."""
    alone = oracle(Sampling(temperature=0.0), think=1, answer=12)
    reference = alone.authors[0].chat.reference

    def answer(body: dict[str, Any]) -> str:
        prompt = reference.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        ids = reference(prompt, add_special_tokens=False)["input_ids"]
        return alone._answer(ids, b"", jax.random.key(0))[0].decode(errors="ignore")

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    assert evaluate.main([str(configure(ours, own_model(), runs=2))]) == 0
    with serving(answer) as url:
        model = {"kind": "server", "url": url, "model": "tiny", "temperature": 0.0, "thoughts": None}
        assert evaluate.main([str(configure(theirs, model, runs=2))]) == 0
    assert responses(ours) == responses(theirs)
    assert len(responses(ours)) == 8
    assert judgements(ours) == judgements(theirs)
    assert report(ours)["score"] == report(theirs)["score"]


def test_killed_in_every_stage(tmp_path):
    """kill -9 while it generates, judges and writes the report: everything is the same as undisturbed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    model = own_model(
        thinking={}, sampling={"temperature": 0.8}, budgets={"max_think_tokens": 40, "max_answer_tokens": 8}
    )
    assert evaluate.main([str(configure(whole, model, runs=2))]) == 0

    config = configure(killed, model, runs=2)
    for stage, function, call in (
        ("responses", process.DISPATCH, 2),
        ("judgements", "tessy_jax.evals.judging:_store", 3),
        ("", "tessy_jax.evals.report_html:_write_responses", 1),
    ):
        command = process.start(*process.signalled(signal.SIGKILL, function, call, 0, "tessy_jax.evaluate", config))
        _, told = command.communicate()
        assert command.returncode == -signal.SIGKILL, told
        if stage:
            rows = (killed / f"run/mine/{stage}/data/part-00000-of-00001.jsonl").read_bytes().count(b"\n")
            assert rows < len(responses(whole))
    assert not (killed / "run/report.html").exists()
    assert evaluate.main([str(config)]) == 0
    assert responses(killed) == responses(whole)
    assert judgements(killed) == judgements(whole)
    names = [sorted(each.name for each in (folder / "run").iterdir()) for folder in (whole, killed)]
    assert names[0] == names[1]  # nothing of the killed report is left
    for name in ("report.json", "report.md", "report.html"):
        assert (killed / "run" / name).read_bytes() == (whole / "run" / name).read_bytes()


# -- what may be wrong -------------------------------------------------------------------------------------------------

ONE = [response(name, 0, text) for name, text in GOOD.items()]
FAULTS = {
    "missing": (ONE[:2], [], "lacks 2 responses (mine/double, sample 0; mine/plus, sample 0)"),
    "twice": ([*ONE, ONE[0]], [], "two responses to problem 'sum', sample 0"),
    "no text": ([{"problem_id": "sum", "response": 5}], [], "responses.jsonl:1: field 'response'"),
    "a run": ([response("sum", -1, "x")], [], "field 'sample_index' must be a whole number, not -1"),
    "empty": ([], [], "responses.jsonl"),
    "no stage before": (ONE, ["--stage", "score"], "judgements are missing"),
    "an unknown benchmark": (ONE, ["benchmarks=[{name: mmlu}]"], "should be one of"),
    "a folder of tests": (ONE, ["benchmarks=[{name: ojbench, path: /nowhere}]"], "/nowhere"),
    "no such file": (ONE, ["model.path=/nowhere.jsonl"], "there is no file /nowhere.jsonl"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(tmp_path, capsys, fault):
    rows, arguments, message = FAULTS[fault]
    assert evaluate.main([str(from_file(tmp_path, rows)), *arguments]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_two_problems_of_one_id(tmp_path, capsys):
    config = from_file(tmp_path, ONE, problems=[*PROBLEMS, PROBLEMS[0]])
    assert evaluate.main([str(config)]) == 1
    assert "mine.jsonl:5: the id 'sum' has stood at" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_memory_holds_a_few_responses(tmp_path):
    """Of 30 MB of responses, each with a program of 20 kB that is judged."""
    text = f"{'x ' * 140_000}```python\n#{'x' * 20_000}\nint('a')\n```"
    problems = [{**PROBLEMS[2], "id": f"p{number}"} for number in range(25)]
    peaks = []
    for count in (2, len(problems)):
        root = tmp_path / str(count)
        root.mkdir()
        some = problems[:count]
        rows = [response(problem["id"], run, text) for problem in some for run in range(4)]
        config = from_file(root, rows, problems=some, runs=4)
        del rows
        tracemalloc.start()
        assert evaluate.main([str(config)]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(judgements(root)) == 4 * count
    assert peaks[1] < 10e6, peaks  # the first run has imported everything


def test_what_is_there_is_kept_where_some_is_missing(tmp_path):
    config = from_file(tmp_path, ONE[:3])
    assert evaluate.main([str(config)]) == 1
    assert len(responses(tmp_path)) == 3
    write(tmp_path / "responses.jsonl", ONE)
    assert evaluate.main([str(config)]) == 1  # another file: --overwrite, or another --output
    assert evaluate.main([str(config), "--overwrite"]) == 0
    assert set(judgements(tmp_path).values()) == {"AC"}


def test_a_dead_server_loses_nothing(tmp_path, capsys):
    model = {"kind": "server", "url": "http://127.0.0.1:9/v1", "model": "x", "retries": 1, "backoff": 0.01}
    assert evaluate.main([str(configure(tmp_path, model))]) == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9/v1/chat/completions did not answer, asked 2 times" in said
    assert "the same command goes on" in said


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    assert evaluate.main([str(configure(tmp_path, own_model())), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "mine: 4 problems, 1 responses each" in said
    assert "What is 2 + 3?" in said
    assert "python3: Python 3." in said
    assert sorted(os.listdir(tmp_path)) == ["evaluate.yaml", "mine.jsonl"]


def test_a_response_of_ten_megabytes_is_judged(tmp_path):
    rows = [response("sum", 0, "x " * 5_000_000 + GOOD["sum"]), *ONE[1:]]
    assert evaluate.main([str(from_file(tmp_path, rows))]) == 0
    assert set(judgements(tmp_path).values()) == {"AC"}
