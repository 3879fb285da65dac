"""OJBench: https://github.com/He-Ren/OJBench (AGPL-3.0; none of its code or data is here, only what it does)

OJBench_testdata/prompts/full.jsonl has a row for each problem and language; the problem is ours:

    {"id": 9999, "prompt": "Read n, and print 2n. Write Python. ...", "dataset": "NOI", "language": "python",
     "difficulty": "easy"}

Tests are folders in DMOJ's format, NOI/loj-<id>/ and ICPC/<id>/, each with init.yml beside its files or an archive:

    {archive: tests.zip, test_cases: [{in: 1.in, out: 1.out, points: 1}], checker: {name: floats, args: {precision: 6}}}

Every problem has 10 s and 1 GiB, whatever its own limits are; all tests are run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tessy_jax.config.benchmarks import OjBench
from tessy_jax.data.hashing import hash_file, hash_text
from tessy_jax.evals.extract import CODE
from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import Checker, CodeTarget, Language, Limits, TestCase
from tessy_jax.evals.tasks.archives import Archives
from tessy_jax.evals.tasks.base import BaseTask, Entry, user
from tessy_jax.evals.tasks.checkers import named_checker
from tessy_jax.evals.tasks.folders import inside, safe_name
from tessy_jax.evals.tasks.rows import Row, read_rows, read_yaml

DATASETS, LANGUAGES, DIFFICULTIES = ("NOI", "ICPC"), ("cpp", "python"), ("easy", "medium", "hard")
LIMITS = Limits(cpu_seconds=10, wall_seconds=30, memory_mib=1024, output_mib=24)
"""DMOJ's wall time is three times the CPU time."""
SKIPPED = frozenset({"nwerc2023_H", "swerc2023_L", "loj-3897"})
"""Folders that the official judge never judges: their problems count as not passed."""


class OjBenchTask(BaseTask[OjBench]):
    name = "ojbench"
    groups = ("dataset", "language", "difficulty")

    def __init__(self, config: OjBench):
        root = Path(config.path)
        self._prompts = root / "prompts" / "full.jsonl" if root.is_dir() else root
        self._root = root if root.is_dir() else root.parent.parent
        super().__init__(config, self._read(config), label="OJBench", runs=2)
        self._archives = Archives()

    def _read(self, config: OjBench) -> Iterator[Entry]:
        for row in read_rows(self._prompts):
            dataset, language = row.one_of("dataset", DATASETS), row.one_of("language", LANGUAGES)
            name = row.id("id")
            name = f"loj-{name.removeprefix('loj-')}" if dataset == "NOI" else name
            if language in config.languages:
                tags = {"dataset": dataset, "language": language, "difficulty": row.one_of("difficulty", DIFFICULTIES)}
                folder = f"{dataset}/{safe_name(row.place, name)}"
                yield Entry(Problem(f"{name}/{language}", user(row.text("prompt")), tags), row.place, folder)

    def language(self, problem: Problem) -> Language:
        if problem.tags["language"] == "cpp":
            return "cpp17"
        return "pypy3" if self.config.python == "pypy3" else "python3"

    def extract(self, problem: Problem, answer: str) -> str | None:
        return CODE[self.config.extract](answer, problem.tags["language"])

    def target(self, problem: Problem) -> CodeTarget | None:
        """Reads the tests; None for the three problems that the official judge skips.

        Raises:
            TaskError: they are absent, or of a kind that is not judged here.
        """
        folder = self._root / self.entry(problem).material
        if folder.name in SKIPPED:
            return None
        settings = read_yaml(folder / "init.yml")
        for key in ("generator", "interactive", "signature_grader", "grader", "custom_judge"):
            if settings.values.get(key):
                settings.fail(f"'{key}' is not judged here: it runs programs of the benchmark")
        archive = settings.values.get("archive")
        files = self._archives.unpack(inside(settings, folder, archive)) if archive else folder
        cases = tuple(
            TestCase(inside(settings, files, case.text("in")), inside(settings, files, case.text("out")))
            for case in _cases(settings, settings.values.get("test_cases"), settings.values.get("checker"))
        )
        checker = self._checker(settings, folder, files)
        return CodeTarget(self.language(problem), cases, LIMITS, checker, stop_at_first_failure=False)

    def absent_tests(self, problem: Problem) -> Path | None:
        folder = self._root / self.entry(problem).material
        return None if folder.name in SKIPPED or (folder / "init.yml").is_file() else folder

    def _checker(self, settings: Row, folder: Path, files: Path) -> Checker:
        value = settings.values.get("checker", "standard")
        name, args = (value, {}) if isinstance(value, str) else _named(settings, value)
        if name == "bridged":
            source = args.get("files")
            source = source[0] if isinstance(source, list) and len(source) == 1 else source
            if args.get("type", "testlib") != "testlib":
                settings.fail(f"the checker is of type {args['type']!r}; only testlib's are run here")
            path = inside(settings, folder if (folder / str(source)).is_file() else files, source)
            return Checker("testlib", source=self._archives.with_testlib(path, self.config.testlib))
        return named_checker(settings, name, args)

    def identity(self) -> dict[str, str | int]:
        """Of the tests, the settings count and how long each file is: they are too many to be read."""
        folders = sorted({self._root / entry.material for entry in self._entries.values()})
        files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if file.is_file()]
        lines = [f"{file.relative_to(self._root)} {file.stat().st_size}" for file in files]
        lines += [hash_file(file) for file in files if file.name == "init.yml"]
        return super().identity() | {"tests": hash_text("\n".join(lines))[:16]}


def _named(settings: Row, value: Any) -> tuple[str, dict[str, Any]]:
    row = settings.inner("'checker'", value)
    args = row.values.get("args") or {}
    return row.text("name"), dict(row.inner("'args'", args).values)


def _cases(settings: Row, value: Any, checker: Any, batch: bool = False) -> Iterator[Row]:
    """The tests, those of batches one after the other. A batch holds none itself: YAML could let it hold itself."""
    if not isinstance(value, list) or not value:
        settings.fail("'test_cases' must hold a list of tests")
    for number, one in enumerate(value, start=1):
        case = settings.inner(f"test {number}", one)
        if "batched" in case.values and not batch:
            yield from _cases(case, case.values["batched"], checker, batch=True)
        elif case.values.get("checker", checker) != checker:
            case.fail("a checker of its own is not judged here")
        else:
            yield case
