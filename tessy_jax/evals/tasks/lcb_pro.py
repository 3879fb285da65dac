"""LiveCodeBench-Pro: https://github.com/GavinZhengOI/LiveCodeBench-Pro

Rows of the data set QAQAQAQAQ/LiveCodeBench-Pro, and of OpenCompass's lcb_pro_706.jsonl; the problem is ours:

    {"problem_id": "9999Z", "problem_title": "Double it", "difficulty": "easy", "platform": "codeforces",
     "problem_statement": "Read n, and print 2n. Time limit: 1 second."}
    {"id_ddm": "9999Z", "dialogs": [{"role": "user", "content": "You are a competitive programmer. ..."}]}

Tests (QAQAQAQAQ/LiveCodeBench-Pro-Testcase) are one <problem_id>.zip a problem, with config.yaml, the checker, and
testdata/1.in, 1.ans and so on:

    {type: default, time_limit: 1s, memory_limit: 256m, checker: chk.cc, subtasks: [{score: 100, n_cases: 12}]}
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessy_jax.config.benchmarks import LcbPro
from tessy_jax.evals.extract import lcb_pro
from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import Checker, CodeTarget, Language, Limits, TestCase
from tessy_jax.evals.tasks.archives import Archives
from tessy_jax.evals.tasks.base import BaseTask, Entry, hash_names, user
from tessy_jax.evals.tasks.folders import inside, mebibytes, safe_name, seconds
from tessy_jax.evals.tasks.rows import Row, TaskError, read_rows, read_yaml

PROMPT = (
    "\n        You are a competitive programmer. You will be given a problem statement, please implement solution in "
    "C++. The execution time and memory limit are also stated in the statement so be aware of the complexity of the "
    "program. Please wrap the code in ```cpp and ``` so that it is properly formatted.\n        "
)
"""As the official runner has it, blanks included."""
OUTPUT_MIB = 128


@dataclass(frozen=True)
class Case:
    """A test of config.yaml, and its limits."""

    input: str
    output: str
    seconds: float
    memory_mib: int


class LcbProTask(BaseTask[LcbPro]):
    name = "lcb_pro"
    groups = ("difficulty", "platform", "language")

    def __init__(self, config: LcbPro):
        super().__init__(config, _read(config), label="LCB-Pro", runs=1)
        self._archives = Archives()

    def language(self, problem: Problem) -> Language:
        return "cpp17" if problem.tags["language"] == "cpp" else "python3"

    def extract(self, problem: Problem, answer: str) -> str | None:
        return lcb_pro(answer, problem.tags["language"])

    def target(self, problem: Problem) -> CodeTarget | None:
        """Unpacks the tests; None for an interactive problem where these are skipped.

        Raises:
            TaskError: there are none, or they are not what LightCPVerifier's tests are.
        """
        entry = self.entry(problem)
        if self.config.tests is None:
            raise TaskError(f"{problem.id}: LightCPVerifier has the tests")
        settings = _settings(self._archives.unpack(self._archive(entry)), problem.id)
        folder = Path(settings.place).parent
        if settings.values.get("type", "default") == "interactive":
            if self.config.interactive == "skip":
                return None
            settings.fail(
                "the problem is interactive, which only LightCPVerifier judges: give verifier, or interactive: skip"
            )
        cases = _cases(settings)
        limits = {(case.seconds, case.memory_mib) for case in cases}
        if len(limits) > 1:  # the longest and largest of all subtasks: programs that pass anywhere pass here
            limits = {(max(time for time, _ in limits), max(memory for _, memory in limits))}
        cpu, memory = limits.pop()
        data = folder / "testdata"
        tests = tuple(TestCase(inside(settings, data, one.input), inside(settings, data, one.output)) for one in cases)
        source = inside(settings, folder, settings.values.get("checker") or "chk.cc")
        checker = Checker("testlib", source=self._archives.with_testlib(source, self.config.testlib))
        return CodeTarget(self.language(problem), tests, Limits(cpu, 2 * cpu, memory, OUTPUT_MIB), checker)

    def absent_tests(self, problem: Problem) -> Path | None:
        file = None if self.config.tests is None else self._archive(self.entry(problem))
        return None if file is None or file.is_file() else file

    def identity(self) -> dict[str, str | int]:
        about = super().identity() | {
            "extract": "lcb_pro",
            "judged": "here" if self.config.tests else "LightCPVerifier",
        }
        if self.config.tests is None:
            return about
        files = [self._archive(entry) for entry in self._entries.values()]
        return about | {"tests": hash_names([file for file in files if file.is_file()])}

    def _archive(self, entry: Entry) -> Path:
        return Path(str(self.config.tests), f"{safe_name(entry.place, entry.problem.id)}.zip")


def _read(config: LcbPro) -> Iterator[Entry]:
    seen: dict[str, Row] = {}
    for row in read_rows(Path(config.path)):
        entry = _of_opencompass(row) if "dialogs" in row.values else _official(row)
        name = entry.problem.id
        if name in seen and seen[name].values == row.values:  # in another split: counts once, as officially
            continue
        seen.setdefault(name, row)
        yield entry


def _official(row: Row) -> Entry:
    tags = {"difficulty": row.text("difficulty"), "platform": row.text("platform"), "language": "cpp"}
    text = PROMPT + row.text("problem_statement")
    return Entry(Problem(row.id("problem_id"), user(text), tags), row.place)


def _of_opencompass(row: Row) -> Entry:
    dialogs = row.values["dialogs"]
    if not isinstance(dialogs, list) or not dialogs:
        row.fail("field 'dialogs' must hold a list of messages")
    text = row.inner("message 1 of 'dialogs'", dialogs[0]).text("content")
    # The prompt says which language it wants; one that does not is for C++, as all of the official ones.
    language = "python" if "```python" in text and "```cpp" not in text else "cpp"
    tags = {"language": language}
    tags |= {name: str(row.values[name]) for name in ("difficulty", "platform") if row.values.get(name)}
    return Entry(Problem(row.id("problem_id", "id_ddm"), user(text), tags), row.place)


def _settings(folder: Path, name: str) -> Row:
    """config.yaml, which stands at the top of the archive or in a folder of it: problems/<id>/."""
    found = sorted(folder.rglob("config.yaml"))
    if len(found) != 1:
        raise TaskError(f"{name}.zip holds {len(found)} files config.yaml, where one belongs")
    return read_yaml(found[0])


def _cases(settings: Row) -> list[Case]:
    values = settings.values
    subtasks = values.get("subtasks")
    if not isinstance(subtasks, list) or not subtasks:
        settings.fail("'subtasks' must hold a list of subtasks")
    prefix, suffix = values.get("input_prefix", ""), values.get("input_suffix", ".in")
    answer_prefix, answer_suffix = values.get("output_prefix", ""), values.get("output_suffix", ".ans")
    usual = _limits(settings, values, Case("", "", 1.0, 256))
    cases: list[Case] = []
    number = 1
    for place, value in enumerate(subtasks, start=1):
        subtask = settings.inner(f"subtask {place}", value)
        limits = _limits(settings, subtask.values, usual)
        count, listed = subtask.values.get("n_cases"), subtask.values.get("cases")
        if isinstance(count, int) and 0 <= count <= 10_000:
            for case in range(number, number + count):
                names = f"{prefix}{case}{suffix}", f"{answer_prefix}{case}{answer_suffix}"
                cases.append(replace(limits, input=names[0], output=names[1]))
            number += count
        elif isinstance(listed, list):
            for at, inner in enumerate(listed, start=1):
                case_row = subtask.inner(f"case {at}", inner)
                own = _limits(settings, case_row.values, limits)
                cases.append(replace(own, input=case_row.text("input"), output=case_row.text("output")))
        else:
            subtask.fail("it must say 'n_cases' or list 'cases'")
    if not cases:
        settings.fail("there are no tests")
    return cases


def _limits(settings: Row, values: Any, usual: Case) -> Case:
    time, memory = (values.get(f"{name}_limit", values.get(name)) for name in ("time", "memory"))
    return replace(
        usual,
        seconds=usual.seconds if time is None else seconds(settings, time),
        memory_mib=usual.memory_mib if memory is None else mebibytes(settings, memory),
    )
