"""Commands whose outputs are folders on a store: the same files as on a disk, whatever kills them."""

import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import yaml

from tessy_jax import analyse, annotate, evaluate, models, select, status
from tessy_jax.analysis.status import read_status
from tessy_jax.config.schema import load_as
from tessy_jax.config.serve import ServeConfig
from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.data.run_rows import RunDir
from tessy_jax.errors import ConfigError
from tessy_jax.serving.run import read_key
from tessy_jax.storage import spool
from tessy_jax.storage.copies import local
from tessy_jax.storage.followed import followed
from tessy_jax.storage.paths import as_path
from tessy_jax.storage.spool import Spool
from tessy_jax.storage.store import Store
from tests.baselines import test_methods as methods
from tests.commands.test_analyse import FOREIGN, long_prompt
from tests.commands.test_annotate import THOUGHTS
from tests.commands.test_evaluate import BAD, GOOD, PROBLEMS, response, write
from tests.data.test_run_rows import launch, record
from tests.evals.tasks.test_answers import OLYMPIAD
from tests.evals.test_select import ROWS
from tests.kit import ROOT, run_methods
from tests.kit import traces as kit
from tests.kit.run_synthesize import pair, records
from tests.kit.stores import BUCKET, kills, upload


@pytest.fixture(params=["memory", "s3"])
def place(request, server):
    """A folder of a store of its own."""
    return f"{request.param}://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def s3(server):
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def rows(run, *without):
    """The records and rejects of a run directory, sorted, without these fields."""
    files = sorted((*run.glob("data/*.jsonl"), *run.glob("rejects.jsonl")))
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted(({key: row[key] for key in row.keys() - set(without)} for row in found), key=str)


def objects(place):
    return Store.open(as_path(place)).list()


def configure(folder, name, values):
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


# -- the same as on a disk ---------------------------------------------------------------------------------------------


def test_annotate(place, tmp_path, capsys):
    """With its configuration on the store, whose relative names are of its own folder."""
    messages = [[{"role": "assistant", "content": f"<think>\n{t}\n</think>\n\nYes."}] for t in THOUGHTS]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/rows.jsonl", [{"id": f"r{i}", "messages": m} for i, m in enumerate(messages)] + [{"id": "x"}])
    (tmp_path / "phrases.json").write_text((ROOT / "configs/style_phrases.json").read_text())
    values = {"annotator": {"kind": "lexicon", "phrases": "phrases.json"}, "segments": {"words": 8}}
    configure(tmp_path, "annotate", values | {"input": "in/rows.jsonl", "output": "elsewhere"})
    upload(tmp_path, place)
    for root in (str(tmp_path), place):
        for limit in ("1", "9"):
            code = annotate.main([f"{root}/annotate.yaml", "--output", f"{root}/run", "--limit", limit])
            assert code == (0 if limit == "1" else 3)
            assert f"segments in {root}/run/data" in capsys.readouterr().err
    assert rows(local(f"{place}/run")) == rows(tmp_path / "run") != []
    assert annotate.main(["--compare", f"{place}/run", str(tmp_path / "run")]) == 0
    assert annotate.main([f"{place}/absent.yaml"]) == 2
    assert f"no configuration file {place}/absent.yaml" in said(capsys)


def test_select(place, tmp_path):
    write(tmp_path / "in.jsonl", [*ROWS, {"id": "x", "question": "Hi"}])
    write(tmp_path / "problems.jsonl", [{"id": name, "prompt": "6 * 7?", "answer": "42"} for name in ("a", "b")])
    configure(tmp_path, "select", {"output": "kept", "correct": {"name": "jsonl", "path": "problems.jsonl"}})
    upload(tmp_path, place)
    for root in (str(tmp_path), place):
        for _ in range(2):
            assert select.main([f"{root}/in.jsonl", f"{root}/select.yaml", "--output", f"{root}/kept"]) == 3
    found = json.dumps(rows(local(f"{place}/kept"))).replace(place, str(tmp_path))
    assert json.loads(found) == rows(tmp_path / "kept")
    assert len(rows(local(f"{place}/kept/judged/problems/judgements"))) == 5


def evaluation(folder, runs=1):
    """Files and configuration of an evaluation of two benchmarks, a file and a folder, without programs."""
    names = [row["id"] for row in PROBLEMS[:2]]
    texts = [response(name, run, (GOOD, BAD)[run % 3 > 0][name]) for name in names for run in range(runs)]
    texts += [response("maths_en_COMP/1", run, f"\\boxed{{{run}}}" + " so" * 60) for run in range(runs)]
    write(folder / "responses.jsonl", texts)
    write(folder / "mine.jsonl", PROBLEMS[:2])
    (folder / "olympiad").mkdir()
    (folder / "olympiad/OE_TO_maths_en_COMP.json").write_text(json.dumps([OLYMPIAD]))
    values = {
        "model": {"kind": "responses", "path": "responses.jsonl", "model": "someone"},
        "benchmarks": [
            {"name": "jsonl", "path": "mine.jsonl", "runs": runs},
            {"name": "olympiadbench", "path": "olympiad", "subsets": ["maths_en_COMP"], "runs": runs},
        ],
        "judge": {"workers": 1},
        "output": "elsewhere",
    }
    configure(folder, "evaluate", values)
    return folder


PARTS = [f"{name}/{part}" for name in ("mine", "OlympiadBench") for part in ("responses", "judgements")]


def same_evaluation(place, folder):
    here = local(place)
    for name in ("report.json", "report.md", "report.html"):
        assert (here / name).read_text() == (folder / name).read_text(), name
    pages = [{file.name: file.read_text() for file in (one / "responses").iterdir()} for one in (here, folder)]
    assert pages[0] == pages[1] != {}
    for part in PARTS:
        ours, theirs = (rows(one / part, "cpu_seconds", "wall_seconds", "memory_mib") for one in (here, folder))
        assert ours == theirs != [], part


def test_evaluate(place, tmp_path, capsys):
    """Benchmarks, responses and configuration are on the store as well. Pages of problems that are left out go."""
    upload(evaluation(tmp_path), place)
    for more in ([], ["limit=1"], ["--stage", "judge", "--overwrite"], []):
        for root in (str(tmp_path), place):
            assert evaluate.main([f"{root}/evaluate.yaml", "--output", f"{root}/run", *more]) == 0
        if "--stage" not in more:
            same_evaluation(f"{place}/run", tmp_path / "run")
    assert "ERROR" not in (local(f"{place}/run") / "run.log").read_text()
    assert evaluate.main(["--compare", f"{place}/run", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert status.main([f"{place}/run"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{part}\n  state        not running; last written" in shown for part in PARTS)


def test_verdicts_that_no_test_has_decided_give_way(place, tmp_path):
    """As on a disk: judgements of other settings, which are found again in no time, and none of the old ones stays."""
    folder = evaluation(tmp_path)
    write(folder / "responses.jsonl", [response(row["id"], 0, "I cannot say.") for row in PROBLEMS[:2]])
    upload(folder, place)
    for root in (str(folder), place):
        arguments = [f"{root}/evaluate.yaml", "--output", f"{root}/run", "benchmarks=[{name: jsonl, path: mine.jsonl}]"]
        arguments[-1] = arguments[-1].replace("mine", f"{root}/mine")
        assert evaluate.main(arguments) == 0
        assert evaluate.main([*arguments, "judge.on_truncated=keep"]) == 0
    ours, theirs = (local(f"{root}/run") / "mine/judgements" for root in (place, str(folder)))
    assert rows(ours) == rows(theirs)
    assert len(rows(ours)) == 2


def test_analyse(s3, tmp_path):
    """Data, student, problems and verdicts from the store, and what the student writes of its own."""
    root = kit.student()
    upload(root / "student", f"{s3}/student")
    longer = FOREIGN[0] | {"messages": long_prompt(FOREIGN[0]["messages"])}
    write(tmp_path / "foreign.jsonl", [FOREIGN[0], FOREIGN[2], longer, FOREIGN[3]])
    write(tmp_path / "problems.jsonl", [{"id": "b", "question": "nobody has ever asked for this"}])
    verdicts = tmp_path / "judged/easy/judgements/data"
    verdicts.mkdir(parents=True)
    write(verdicts / "part.jsonl", [{"problem_id": "m", "sample_index": 0, "verdict": "AC"}])
    (tmp_path / "student").symlink_to(root / "student")
    upload(tmp_path, s3)
    found = []
    for place in (str(tmp_path), s3):
        named = [f"{place}/foreign.jsonl", "--student", f"{place}/student", "--benchmark", f"{place}/problems.jsonl"]
        named += ["--judged", f"{place}/judged", "--output", f"{place}/report"]
        assert analyse.main([*named, "--draw", "2", "--length", "400"]) == 3
        found.append({name: local(f"{place}/report/{name}").read_text() for name in ("report.json", "rejects.jsonl")})
    reports = [json.loads(one["report.json"].replace(s3, str(tmp_path))) for one in found]
    assert [Path(one.pop("student")).name for one in reports] == ["student", "student"]  # of the store's it is a copy
    assert reports[0] == reports[1]
    assert found[1]["rejects.jsonl"] == found[0]["rejects.jsonl"]
    assert records(local(f"{s3}/report/own")) == records(tmp_path / "report/own") != []
    pages = [local(f"{place}/report/report.html").read_text() for place in (str(tmp_path), s3)]
    assert all(page.endswith("</html>\n") and "foreign.jsonl" in page for page in pages)
    assert {name for name in objects(f"{s3}/report") if "/" not in name} == {
        *("report.html", "report.json", "rejects.jsonl", "own-prompts.jsonl")
    }


class Killed(BaseException):
    """As if the process were gone: nothing more is stored."""


@pytest.mark.parametrize(
    ("method", "place"), [("teacher_reference", "memory"), ("teacher_score", "s3")], indirect=["place"]
)
def test_methods_in_several_steps(method, place, tmp_path, monkeypatch, capsys):
    """Killed in two steps, and then as on a disk."""
    more = [methods.REFERENCE] if method == "teacher_reference" else ["candidates=2", methods.SCORE]
    more = [*more, "student.sampling.temperature=0.9", "--limit", "3"]
    assert run_methods.call(method, *more, "--output", tmp_path / "run") in (0, 3)
    write_journal = RunDir.write_journal
    steps = ("reference", "run") if method == "teacher_reference" else ("candidates", "scores")
    for step in steps:

        def dying(self, rows, step=step):
            write_journal(self, rows)
            if as_path(self.name).name == step:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(RunDir, "write_journal", dying)
            patch.setattr(Spool, "end", lambda self, error: self.close())
            with pytest.raises(Killed):
                run_methods.call(method, *more, "--output", f"{place}/run")
    capsys.readouterr()
    assert run_methods.call(method, *more, "--output", f"{place}/run") in (0, 3)
    for inner in ("", "reference", "candidates", "scores"):
        assert rows(local(f"{place}/run") / inner) == rows(tmp_path / "run" / inner)
    assert len(records(local(f"{place}/run") / steps[0])) == {"reference": 3, "candidates": 6}[steps[0]]
    capsys.readouterr()
    assert run_methods.call(method, *more, "--output", f"{place}/run") in (0, 3)
    assert "nothing left to do" in said(capsys)


# -- what may go wrong -------------------------------------------------------------------------------------------------


def test_evaluate_killed_at_any_request(server, s3, tmp_path):
    """Commands are killed as a request comes in, or when it is done and they have not heard of it yet."""
    upload(evaluation(tmp_path, runs=8), s3)
    assert evaluate.main([str(tmp_path / "evaluate.yaml"), "--output", str(tmp_path / "run")]) == 0
    often = (
        "import sys; from tessy_jax import evaluate; from tessy_jax.storage import spool; "
        "spool.PIECE, spool._PAUSE, spool._SHARE = 1500, 0, 0; sys.exit(evaluate.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", often, f"{s3}/evaluate.yaml", "--output"]
    rng, killed, run = random.Random(0), 0, f"{s3}/run"
    while killed < kills(7):
        fuse = server.requests + rng.randrange(1, 160)
        process = subprocess.Popen([*command, run], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
        with server.killing(process.pid, at=lambda number, _, fuse=fuse: number == fuse, late=killed % 2 == 0):
            _, told = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), told
        if process.returncode == 0:  # all of it is there: once more, elsewhere
            same_evaluation(run, tmp_path / "run")
            run = f"{s3}/{uuid.uuid4().hex}"
        killed += process.returncode != 0
    subprocess.run([*command, run], check=True, cwd=ROOT, capture_output=True)
    same_evaluation(run, tmp_path / "run")


def test_failures_that_pass(server, s3, tmp_path):
    upload(evaluation(tmp_path), s3)
    assert evaluate.main([str(tmp_path / "evaluate.yaml"), "--output", str(tmp_path / "run")]) == 0
    server.failures = [*[""] * 9, "503 Slow Down", *[""] * 9, "slow", *[""] * 40, "500 Internal Server Error"]
    assert evaluate.main([f"{s3}/evaluate.yaml", "--output", f"{s3}/run"]) == 0
    assert not server.failures
    same_evaluation(f"{s3}/run", tmp_path / "run")


def test_rows_go_before_their_manifest(place, monkeypatch):
    """Killed while an old run is overwritten: its rows are never taken for those of the new one."""
    path = as_path(place)
    with launch(path) as run:
        run.append(record(0))
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "publish", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            launch(path, identity={"seed": 1}, overwrite=True)
    with launch(path) as run:
        assert run.done == set()


def test_a_store_that_refuses_is_said_first(s3, tmp_path, capsys, monkeypatch):
    folder = evaluation(tmp_path)
    absent = s3.replace(BUCKET, "absent")
    monkeypatch.setattr("tessy_jax.evals.run.generate", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded"))
    data = str(write(tmp_path / "foreign.jsonl", [FOREIGN[0]]))
    student = str(kit.student() / "student")
    for main, arguments in (
        (evaluate.main, [str(folder / "evaluate.yaml")]),
        (analyse.main, [data, "--student", student]),
    ):
        assert main([*arguments, "--output", f"{absent}/run"]) == 1
        assert "there is no bucket 'absent'" in said(capsys)
    assert evaluate.main([f"{absent}/evaluate.yaml"]) == 1
    assert "there is no bucket 'absent'" in said(capsys)


# -- configurations, and looking ---------------------------------------------------------------------------------------


def test_names_in_a_configuration_on_a_store(place, tmp_path, monkeypatch):
    """The current directory first, then the configuration's folder, then its parent: as on a disk."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    values = yaml.safe_load(pair().read_text())
    values["student"]["model"], values["teacher"]["model"] = "student", "teacher"
    values["input"] = "../data/problems.jsonl"
    values["predictors"]["teacher"]["model"] = "owner/name"
    store = Store.open(as_path(place))
    for name, text in (
        ("conf/pair.yaml", yaml.safe_dump(values, allow_unicode=True)),
        *(("student/config.json", "{}"), ("conf/teacher/config.json", "{}"), ("data/problems.jsonl", "{}")),
        *(("conf/serve.yaml", "model: student\nkey_file: key\n"), ("conf/key", "x")),
    ):
        store.write(name, text.encode())
    config = load_as(SynthesisConfig, f"{place}/conf/pair.yaml")
    assert config.student.model == f"{place}/student"
    assert config.teacher.model == "teacher"
    assert config.input == f"{place}/data/problems.jsonl"
    assert config.predictors.teacher.model == "owner/name"
    serve = load_as(ServeConfig, f"{place}/conf/serve.yaml")
    assert serve.key_file == f"{place}/conf/key"
    assert read_key(serve) == "x"
    store.write("conf/key", b"\n")
    with pytest.raises(ConfigError, match=f"key_file: {place}/conf/key is empty"):
        read_key(serve)


def test_status_follows_a_run(place, monkeypatch, capsys):
    """Each look reads the pieces that are new, and `--watch` ends with the run."""
    monkeypatch.setattr(spool, "PIECE", 400)
    read, read_all = [], Store.read_all
    monkeypatch.setattr(Store, "read_all", lambda self, names: (read.extend(names), read_all(self, names))[1])
    with followed(as_path(place)) as look:
        with launch(as_path(place)) as run:
            for number in range(12):
                run.append(record(number))
                run.metrics({"step": number})
                run.write_journal([])
                [part] = read_status(look())
                assert (part.running, part.cells["records"]) == (True, str(number + 1))
                assert part.cells["step"] == str(number)
        [part] = read_status(look())
        assert (part.running, part.cells["records"]) == (False, "12")
        assert len(read) == len(set(read)) > 3
        assert not list(local(place).glob(".lock*"))

    def go_on():
        with launch(as_path(place)) as run:
            began.set()
            time.sleep(0.3)
            run.append(record(12))

    began = threading.Event()
    writer = threading.Thread(target=go_on)
    writer.start()
    began.wait()
    assert status.main([place, "--watch", "0.05"]) == 0
    writer.join()
    assert re.findall(r"records (\d+)", capsys.readouterr().err)[-1] == "13"


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (evaluate.main, ["configs/evaluate.yaml", "--output", "ftp://b/run"]),
        (status.main, ["ftp://b/run"]),
        (analyse.main, ["ftp://b/run"]),
    ],
)
def test_urls_of_other_kinds(main, arguments, capsys):
    assert main(arguments) in (1, 2)
    assert "there is no storage of this kind; known: s3://, gs://, memory://" in said(capsys)


def test_a_place_within_a_bucket():
    from tessy_jax.storage.paths import within

    folder = as_path("s3://b/conf")
    assert str(within(folder, "../data/x.jsonl")) == "s3://b/data/x.jsonl"
    assert str(within(folder, "./x")) == "s3://b/conf/x"
    for outside in ("../../x", "/x", "~/x", "..", "../.."):
        assert within(folder, outside) is None
    assert isinstance(within(folder, "x"), Path)
