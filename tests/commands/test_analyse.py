"""`analyse` from end to end on a tiny student, what it says of wrong inputs, and `status` of runs."""

import base64
import gzip
import json
import os
import re
import socket
from pathlib import Path

import pytest

from tessy_jax import analyse, status
from tessy_jax.analysis import own
from tessy_jax.analysis.status import read_status
from tessy_jax.config.sample import SampleConfig
from tessy_jax.config.schema import load_as
from tessy_jax.engine.sizes import prompt_room
from tessy_jax.errors import INTERRUPTED
from tessy_jax.text.chat import Chat
from tessy_jax.text.tokenizer import ContentTokenizer
from tests.kit import traces as kit

FOREIGN = (
    {"id": "m", "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So it is."}]},
    {"id": "d", "dialogs": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>a</think>b"}]},
    {"id": "s", "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "It is 4."}]},
    {"id": "bad", "messages": [{"role": "user", "content": "no answer"}]},
)
WILD = (
    "</script><script>document.title='hurt'</script><!--",
    "left \u202eright\u202c \u2067isolate\u2069 \u200f \u2028 \x00",
    "👩‍👩‍👧 👍🏽 and 𝔘𝔫𝔦",
    "漢字 ab cd " * 6500,  # more than the model has positions for: it is shown whole, and read up to there
)
"""Texts that a page could stumble over."""


def test_runs_and_foreign_files(tmp_path, capsys):
    root, output = kit.student(), tmp_path / "report"
    foreign = kit.write_lines(tmp_path / "foreign.jsonl", FOREIGN)
    benchmark = kit.write_lines(
        tmp_path / "benchmark.jsonl", [{"id": "b", "question": "nobody has ever asked for this"}]
    )
    verdicts = tmp_path / "judged/easy/judgements/data"
    verdicts.mkdir(parents=True)
    kit.write_lines(verdicts / "part.jsonl", [{"problem_id": "p3", "sample_index": 0, "verdict": "AC"}])
    arguments = [
        *(str(root / "traces"), str(foreign), "--student", str(root / "student"), "--output", str(output)),
        *("--reference", str(root / "traces"), "--benchmark", str(benchmark), "--judged", str(tmp_path / "judged")),
        *("--teacher", str(root / "student"), "--limit", "20", "--batch-tokens", "2048"),
    ]
    assert analyse.main(arguments) == 3  # a row was rejected
    found = json.loads((output / "report.json").read_text())
    ours, theirs, own = found["sets"]
    assert (ours["traces"], theirs["traces"], theirs["rejected"], own["is_reference"]) == (20, 3, 1, True)
    assert ours["correct"] == {"judged": 1, "share": 1.0}
    assert abs(ours["verdict"]["excess"]) < 1e-6
    assert ours["verdict"]["verdict"] == "suits"
    assert theirs["tokens"]["assistant"] > 0
    assert set(ours["loss"]["by_part"]) == {"style", "capability", "answer"}
    assert found["similarity"][0][2]["same_problem"] is not None
    [reject] = [json.loads(line) for line in (output / "rejects.jsonl").read_text().splitlines()]
    assert (reject["id"], reject["line"]) == ("bad", 4)
    said = capsys.readouterr().out
    assert "suits" not in said
    assert "Reads like the student's own text" in said
    assert (output / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.jsonl", "--student", "STUDENT"], 2, "there is no file or folder 'nowhere.jsonl'"),
        (["good.jsonl", "--student", "STUDENT", "--config", "none.yaml"], 2, "none.yaml"),
        (["some.json", "--student", "STUDENT"], 1, "jq -c '.[]' some.json > some.jsonl"),
        (["bad.jsonl"], 2, "--student: name the model that is to learn the data"),
        (["bad.jsonl", "--student", "nowhere"], 2, "--student: there is no folder 'nowhere'"),
        (["bad.jsonl", "--student", "STUDENT"], 1, "nothing to look at in bad.jsonl: no row can be learned; the first"),
        (
            ["good.jsonl", "--student", "STUDENT", "--length", "3"],
            1,
            "its prompt alone has more than 3 tokens",
        ),
        (["bad.jsonl", "--student", "STUDENT", "--limit", "0"], 2, "--limit: must be 1 or more, not 0"),
        (["bad.jsonl", "--student", "STUDENT", "--draw", "0"], 2, "--draw: must be 1 or more, not 0"),
        (
            ["bad.jsonl", "--student", "STUDENT", "--draw", "2", "--reference", "bad.jsonl"],
            2,
            "--draw: the student's own text is given already (--reference)",
        ),
        (
            ["good.jsonl", "--student", "STUDENT", "--draw", "2", "--length", "50"],
            2,
            "--draw: a text needs",
        ),
        (["bad.jsonl", "--student", "STUDENT", "--judged", "empty"], 2, "--judged: empty holds no judgements"),
    ],
)
def test_wrong_inputs(arguments, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    kit.write_lines(tmp_path / "bad.jsonl", [FOREIGN[-1]])
    kit.write_lines(tmp_path / "good.jsonl", FOREIGN[:1])
    kit.write_lines(tmp_path / "some.json", [list(FOREIGN)])
    student = str(kit.student() / "student")
    assert analyse.main([student if word == "STUDENT" else word for word in arguments]) == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_short_prompts_have_room_for_what_opens_the_thinking(tmp_path, monkeypatch):
    """Which stands in what the student is asked, and not in data that do not think."""
    asked: list[SampleConfig] = []
    monkeypatch.setattr(own, "write_traces", lambda config, *_: asked.append(config) or INTERRUPTED)
    folder = kit.student() / "student"
    foreign = kit.write_lines(tmp_path / "foreign.jsonl", FOREIGN[:1])
    assert analyse.main([str(foreign), "--student", str(folder), "--output", str(tmp_path / "report"), "--draw", "1"])
    [config] = asked
    prompt = Chat.load(folder).prompt_ids(FOREIGN[0]["messages"][:-1])
    [room, _] = prompt_room(config.budgets, config.engine, config.budgets.k)
    assert room.tokens == len(prompt) + 1


def test_the_student_writes_its_own_text(tmp_path, capsys):
    """As `sample` does, for the data's prompts; what is there stays, and text of another kind is not mixed in."""
    root, output = kit.student(), tmp_path / "report"
    rows = [FOREIGN[0], FOREIGN[2], FOREIGN[0], {**FOREIGN[0], "messages": long_prompt(FOREIGN[0]["messages"])}]
    foreign = kit.write_lines(tmp_path / "foreign.jsonl", rows)
    arguments = [str(foreign), "--student", str(root / "student"), "--output", str(output), "--length", "400"]

    assert analyse.main([*arguments, "--draw", "2"]) == 0
    data, own = json.loads((output / "report.json").read_text())["sets"]
    assert (data["traces"], own["traces"], own["is_reference"]) == (4, 2, True)
    assert data["verdict"]["excess"] == pytest.approx(data["loss"]["all"]["nats"] - own["loss"]["all"]["nats"])
    config = load_as(SampleConfig, output / "own/config.yaml")
    assert Path(config.model) == root / "student"
    assert config.budgets.max_answer_tokens == max(len(encoded(root, "So it is.")), len(encoded(root, "It is 4.")))
    [first] = (output / "own/data").iterdir()
    texts = first.read_text().splitlines()
    asked = [json.loads(line)["messages"][:-1] for line in texts]
    assert sorted(asked, key=str) == sorted([FOREIGN[0]["messages"][:-1], [user("2+2?")]], key=str)

    # More of them: the first are not written again, and a prompt that does not fit is told.
    capsys.readouterr()
    assert analyse.main([*arguments, "--draw", "6"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "the student writes 6 texts of its own, for 3 prompts of the data" in said
    assert "4 rows done, 2 rejected, 0 left" in said
    assert f"see {output}/own/rejects.jsonl for the rejected rows and why" in said
    assert set(texts) < set(first.read_text().splitlines())
    rejects = [json.loads(line) for line in (output / "own/rejects.jsonl").read_text().splitlines()]
    assert all("the prompt has" in row["reason"] for row in rejects)

    kit.write_lines(foreign, rows[-1:])
    assert analyse.main([*arguments, "--draw", "6"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"--draw: {output}/own holds text that was drawn otherwise:" in said
    assert "input.own-prompts.jsonl:" in said
    assert "remove that folder, or give another --output" in said
    assert analyse.main([*arguments[:-3], str(tmp_path / "other"), "--length", "400", "--draw", "6"]) == 2
    assert "--draw: the student can answer none of the prompts; the first: the prompt has" in capsys.readouterr().err


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def long_prompt(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [user("think about the sum " * 33), messages[-1]]


def encoded(root: Path, text: str) -> list[int]:
    return ContentTokenizer.load(root / "student").encode(text.encode())[0]


def test_any_text_of_a_file_is_in_the_page_as_it_is(tmp_path):
    """From the file to what the page unpacks; `tests/analysis` looks at the page itself in a browser."""
    output, say = tmp_path / "report", {"from": "gpt"}
    rows = [
        {"id": text[:20], "conversations": [{"from": "human", "value": f"{n}: {text[:60]}"}, say | {"value": text}]}
        for n, text in enumerate(WILD)
    ]
    foreign = kit.write_lines(tmp_path / "wild.jsonl", rows)
    assert analyse.main([str(foreign), "--student", str(kit.student() / "student"), "--output", str(output)]) == 0
    page = (output / "report.html").read_text("utf-8")
    packed = re.findall(r'<script type="text/plain" class="block">([A-Za-z0-9+/=]+)</script>', page)
    found = [trace for block in packed for trace in json.loads(gzip.decompress(base64.b64decode(block)))]
    assert [trace["t"] for trace in found] == list(WILD)
    assert len(WILD[-1]) > 50_000
    assert [trace["m"] for trace in found] == [[["user", row["conversations"][0]["value"]]] for row in rows]
    shown = page[: page.index('<script type="text/plain"')]  # the report, with examples of tokens and phrases
    assert "<script>document" not in shown
    assert json.loads((output / "report.json").read_text())["sets"][0]["cut_off"] == 1


def test_status_of_a_run(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "manifest.json").write_text('{"format": "tessy_jax run 1"}')
    (run / ".lock-00000-of-00002").write_text(f"process {os.getpid()} on {socket.gethostname()}")
    line = {
        **{"seconds": 10.0, "total": 20, "done": 3, "rejected": 1, "active": 2, "rolled_back": 10, "eta_seconds": 90.0},
        **{"tokens": {"student": 10, "teacher": 30}, "tokens_per_second": {"student": 1.0, "teacher": 3.0}},
        **{"evicted": 0, "waste": 0.2, "switches_per_1k_tokens": 100.0},
    }
    passes = ({"passes": 10, "rows_wrote": 0.5, "rows_read": 0.1}, {"passes": 30, "rows_wrote": 0.9, "rows_read": 0.1})
    visits = ({"host_visits": 2, "rows_per_visit": 1.0}, {"host_visits": 6, "rows_per_visit": 5.0})
    for shard in (0, 1):
        now = line | passes[shard] | visits[shard]
        kit.write_lines(run / f"metrics-0000{shard}-of-00002.jsonl", [{**now, "done": 0}, now])
    kit.write_lines(run / "metrics-00000-of-00003.jsonl", [line])  # of a start with three, whose rows the two took over
    os.utime(run / "metrics-00000-of-00003.jsonl", (0, 0))
    rejects = [{"reason": f"the prompt has {n} tokens"} for n in (5, 7)] + [{"reason": "empty"}]
    kit.write_lines(run / "rejects-00000-of-00002.jsonl", rejects)
    (run / "run-00000-of-00002.log").write_text("2026-01-01 10:00:00,000 ERROR tessy_jax.console: disk full\n")
    newest = max(file.stat().st_mtime for file in run.iterdir())
    [part] = read_status(run, newest + 30)
    assert part.running is True
    assert part.cells == {
        "state": "running; last written 0:00:30 ago",
        "done": "6/40",
        "active": "4",
        "rejected": "2",
        "tok/s": "student 2.0, teacher 6.0",
        "kept": "80 tokens, 20 rolled back (20% waste)",
        "switches/1k": "100.0",
        "passes": "40, of their rows 80% wrote, 10% read",
        "host": "8 visits for 4.0 rows each",
        "elapsed": "0:00:40",
        "eta": "0:01:00",
        "rejects": "2 x the prompt has 5 tokens; 1 x empty",
        "last error": "2026-01-01 10:00:00,000: disk full",
    }
    kit.write_lines(run / "metrics-00000-of-00002.jsonl", [line])  # of an earlier version
    assert "passes" not in read_status(run)[0].cells
    (run / ".lock-00000-of-00002").write_text("process 1 on another-machine")
    assert read_status(run)[0].running is None
    assert status.main([str(run)]) == 0
    assert "6/40" in capsys.readouterr().out
    assert status.main([str(tmp_path)]) == 1
    assert "holds no run" in " ".join(capsys.readouterr().err.split())


def test_status_of_stages_and_watching_one_that_has_ended(tmp_path, capsys):
    run = tmp_path / "experiment"
    inner: Path = run / "arm/sft"
    inner.mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    stages = [{"stage": "arm/sft", "code": 1}, {"stage": "arm/sft", "code": 0}, {"stage": "arm/evaluate", "code": 1}]
    kit.write_lines(run / "stages.jsonl", stages)
    (inner / "manifest.json").write_text('{"format": "tessy_jax sft 1"}')
    (inner / ".lock-00000-of-00001").write_text(f"process 4194305 on {socket.gethostname()}")  # above any process id
    kit.write_lines(inner / "metrics.jsonl", [{"step": 7, "epoch": 2, "loss": 0.5, "eta_seconds": 60}])
    whole, part = read_status(run)
    assert (whole.cells["stages"], whole.cells["failed"]) == ("1 done", "arm/evaluate")
    assert (part.name, part.running, part.cells["step"], part.cells["loss"]) == ("arm/sft", False, "7", "0.500")
    assert status.main([str(inner), "--watch", "0.01"]) == 0
    assert "step 7" in capsys.readouterr().err
