"""OJBench's and LiveCodeBench-Pro's folders of tests, and archives and settings that lead elsewhere."""

import stat
import zipfile

import pytest

from tessy_jax.config.benchmarks import LcbPro, OjBench
from tessy_jax.evals.tasks.archives import unpack
from tessy_jax.evals.tasks.lcb_pro import LcbProTask
from tessy_jax.evals.tasks.ojbench import LIMITS, OjBenchTask
from tessy_jax.evals.tasks.rows import TaskError
from tests.kit.benchmarks import CHECKER, OjFolder, write_jsonl, write_zip

CONFIG = "type: default\ntime_limit: 500ms\nmemory_limit: 256m\nsubtasks: [{score: 100, n_cases: 2}]\n"
FILES = {
    "config.yaml": CONFIG,
    "chk.cc": CHECKER,
    "testdata/1.in": "1\n",
    "testdata/1.ans": "2\n",
    "testdata/2.in": "5\n",
    "testdata/2.ans": "10\n",
}
ROW = {
    "problem_id": "1Z",
    "problem_title": "Double",
    "difficulty": "easy",
    "platform": "codeforces",
    "problem_statement": "Print 2n.",
}


def ojbench(root, **options):
    return OjBenchTask(OjBench(name="ojbench", path=str(root), **options))


def lcb_pro(folder, rows=(ROW,), **options):
    path = write_jsonl(folder / "rows.jsonl", rows)
    options = {"tests": str(folder)} | options
    return LcbProTask(LcbPro(name="lcb_pro", path=str(path), **options))


def texts(target):
    return [(case.input.read_text(), case.output.read_text()) for case in target.cases]


def test_ojbench(tmp_path):
    task = ojbench(OjFolder(tmp_path).write())
    problems = {problem.id: problem for problem in task.problems()}
    assert list(problems) == [f"{one}/{two}" for one in ("loj-1", "own_A", "nwerc2023_H") for two in ("cpp", "python")]
    archived = task.target(problems["loj-1/cpp"])
    assert texts(archived) == [("2\n", "4\n"), ("5\n", "10\n")]  # a batch is judged test by test
    assert (archived.language, archived.checker.name, archived.limits) == ("cpp17", "standard", LIMITS)
    assert not archived.stop_at_first_failure
    plain = task.target(problems["own_A/python"])
    assert (plain.language, plain.checker.name, dict(plain.checker.args)) == ("pypy3", "floats", {"precision": 3})
    assert task.target(problems["nwerc2023_H/cpp"]) is None  # which the official judge skips
    declared = ojbench(tmp_path, python="cpython", languages=("python",))
    assert [declared.target(one).language for one in list(declared.problems())[:2]] == ["python3"] * 2
    assert declared.identity()["python"] == "cpython"
    before = task.identity()
    (tmp_path / "ICPC/own_A/a.in").write_text("longer\n")
    assert task.identity() != before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("test_cases: [{in: ../../prompts/full.jsonl, out: a.out}]", "leads out of the problem's folder"),
        ("test_cases: [{in: /etc/passwd, out: a.out}]", "leads out of the problem's folder"),
        ("test_cases: [{in: a.in, out: b.out}]", "there is no file 'b.out'"),
        ("archive: ../own.zip\ntest_cases: [{in: a.in, out: a.out}]", "leads out"),
        ("test_cases: !!python/object/apply:os.system [touch ran]", "could not determine a constructor"),
        ("test_cases: []", "'test_cases' must hold a list of tests"),
        ("a: [", "cannot read .*init.yml"),
        ("test_cases: &x [{batched: *x}]", "there is no field 'in'"),
        ("generator: gen.py", "'generator' is not judged here"),
        ("test_cases: [{in: a.in, out: a.out}]\nchecker: {name: floats, args: {digits: 3}}", "takes no 'digits'"),
        ("test_cases: [{in: a.in, out: a.out}]\nchecker: {name: floats, args: {precision: x}}", "as int, not 'x'"),
        ("checker: check.py\ntest_cases: [{in: a.in, out: a.out}]", "the checker 'check.py' is not known here"),
        ("checker: {name: bridged, args: {files: a.in}}\ntest_cases: [{in: a.in, out: a.out}]", "needs testlib.h"),
    ],
)
def test_settings_of_ojbench_that_are_refused(tmp_path, settings, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = OjFolder(tmp_path / "data")
    task = ojbench(OjFolder(folder.root, folder.settings | {"ICPC/own_A": settings}).write())
    with pytest.raises(TaskError, match=words):
        task.target(list(task.problems())[2])
    assert not (tmp_path / "ran").exists()


def test_a_checker_gets_testlib_without_a_change_of_the_data(tmp_path):
    settings = "checker: {name: bridged, args: {files: chk.cpp, type: testlib}}\ntest_cases: [{in: a.in, out: a.out}]"
    root = OjFolder(tmp_path / "data", OjFolder(tmp_path).settings | {"ICPC/own_A": settings}).write()
    (root / "ICPC/own_A/chk.cpp").write_text(CHECKER)
    (tmp_path / "testlib.h").write_text("// testlib")
    task = ojbench(root, testlib=str(tmp_path / "testlib.h"))
    checker = task.target(list(task.problems())[2]).checker
    assert checker.name == "testlib"
    assert sorted(file.name for file in checker.source.parent.iterdir()) == ["chk.cpp", "testlib.h"]
    assert not (root / "ICPC/own_A/testlib.h").exists()


def test_ids_of_ojbench_that_lead_elsewhere(tmp_path):
    row = {"id": "../../x", "prompt": "p", "dataset": "ICPC", "language": "cpp", "difficulty": "easy"}
    write_jsonl(tmp_path / "prompts/full.jsonl", [row])
    with pytest.raises(TaskError, match=r"full.jsonl:1: the id '../../x' cannot be the name of a file"):
        ojbench(tmp_path)


def test_lcb_pro(tmp_path):
    write_zip(tmp_path / "1Z.zip", {f"problems/1Z/{name}": text for name, text in FILES.items()})
    (tmp_path / "testlib.h").write_text("// testlib")
    task = lcb_pro(tmp_path, (ROW, ROW), testlib=str(tmp_path / "testlib.h"))  # in two splits: one problem
    (problem,) = task.problems()
    assert problem.messages[0]["content"].endswith("formatted.\n        Print 2n.")
    target = task.target(problem)
    assert texts(target) == [("1\n", "2\n"), ("5\n", "10\n")]
    assert (target.language, target.limits.cpu_seconds, target.limits.wall_seconds) == ("cpp17", 0.5, 1.0)
    assert (target.limits.memory_mib, target.limits.output_mib) == (256, 128)
    assert target.checker.source.with_name("testlib.h").is_file()


def test_lcb_pro_of_opencompass(tmp_path):
    rows = [
        {"id_ddm": "a", "dialogs": [{"role": "user", "content": "C++, in ```cpp please."}]},
        {"id_ddm": "b", "dialogs": [{"role": "user", "content": "In ```python please."}]},
    ]
    task = lcb_pro(tmp_path, rows, tests=None, verifier="http://127.0.0.1:8081")
    assert [task.language(problem) for problem in task.problems()] == ["cpp17", "python3"]
    assert task.extract(list(task.problems())[1], "```python\nx\n```") == "x"
    with pytest.raises(TaskError, match="LightCPVerifier has the tests"):
        task.target(next(task.problems()))


def test_subtasks_and_listed_cases(tmp_path):
    config = (
        "time_limit: 1s\nsubtasks:\n- {score: 10, n_cases: 1}\n"
        "- {score: 90, time: 2s, memory: 1g, cases: [{input: 2.in, output: 2.ans}]}\n"
    )
    write_zip(tmp_path / "1Z.zip", FILES | {"config.yaml": config, "testlib.h": ""})
    task = lcb_pro(tmp_path)
    target = task.target(next(task.problems()))
    assert len(target.cases) == 2
    assert (target.limits.cpu_seconds, target.limits.memory_mib) == (2, 1024)  # the longest of all subtasks


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.yaml": "type: interactive\nsubtasks: []"}, "the problem is interactive"),
        ({"config.yaml": "subtasks: [{n_cases: 3}]", "testlib.h": ""}, "there is no file '3.in'"),
        ({"config.yaml": "subtasks: [{score: 1}]"}, "subtask 1: it must say 'n_cases' or list 'cases'"),
        ({"config.yaml": "time_limit: soon\nsubtasks: [{n_cases: 1}]"}, "a time limit must be like 1s or 500ms"),
        ({"config.yaml": "checker: ../../chk\nsubtasks: [{n_cases: 1}]"}, "leads out of"),
        ({"config.yaml": "!!python/name:os.system"}, "could not determine a constructor"),
        ({"b/config.yaml": CONFIG}, "holds 2 files config.yaml"),
    ],
)
def test_tests_of_lcb_pro_that_are_refused(tmp_path, files, words):
    write_zip(tmp_path / "1Z.zip", FILES | files)
    task = lcb_pro(tmp_path)
    with pytest.raises(TaskError, match=words):
        task.target(next(task.problems()))
    skipping = lcb_pro(tmp_path, interactive="skip")
    if "interactive" in words:
        assert skipping.target(next(skipping.problems())) is None


def test_absent_tests_and_ids_that_lead_elsewhere(tmp_path):
    task = lcb_pro(tmp_path, [ROW, ROW | {"problem_id": "../../x"}])
    good, bad = task.problems()
    with pytest.raises(TaskError, match=r"cannot unpack .*1Z.zip: No such file"):
        task.target(good)
    with pytest.raises(TaskError, match=r"the id '../../x' cannot be the name of a file"):
        task.target(bad)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "a\\..\\x", "C:/x"])
def test_names_that_lead_out_of_an_archive(tmp_path, name):
    write_zip(tmp_path / "x.zip", {"good": "1", name: "2"})
    with pytest.raises(TaskError, match="leads out of its folder: it is not unpacked"):
        unpack(tmp_path / "x.zip", tmp_path / "deep" / "inside")
    assert {file.name for file in tmp_path.rglob("*")} == {"x.zip"}


def test_links_doubles_bombs_and_what_is_no_archive(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with zipfile.ZipFile(tmp_path / "double.zip", "w") as packed:
        packed.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            packed.writestr("a", "2")
    write_zip(tmp_path / "bomb.zip", {"zeros": b"0" * 10_000})
    (tmp_path / "none.zip").write_text("text")
    monkeypatch.setattr("tessy_jax.evals.tasks.archives.MAX_BYTES", 5_000)
    for name, words in (("link", "no plain file"), ("double", "twice"), ("bomb", "more than"), ("none", "not a zip")):
        with pytest.raises(TaskError, match=words):
            unpack(tmp_path / f"{name}.zip", tmp_path / "out")
