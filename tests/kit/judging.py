"""Programs to be judged, in tables: small targets, and many verdicts at a time."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tessy_jax.evals import targets
from tessy_jax.evals.judges.code import CodeJudge, CodeVerdict
from tessy_jax.evals.targets import Checker, CodeTarget, Language, Limits

LIMITS = Limits(cpu_seconds=3, wall_seconds=20, memory_mib=256, output_mib=1)
SLOW = Limits(cpu_seconds=0.5, wall_seconds=20, memory_mib=256, output_mib=1)
"""For programs that use the processor without end."""
SLEEPY = Limits(cpu_seconds=3, wall_seconds=0.7, memory_mib=256, output_mib=1)
"""For programs that wait without end."""


def stdin_target(
    *cases: tuple[str, str], language: Language = "python3", limits: Limits = LIMITS, checker: str = "lines"
) -> CodeTarget:
    """A program reads the first of each pair, and should write the second."""
    return CodeTarget(language, tuple(targets.TestCase(*case) for case in cases), limits, Checker(checker))


def function_target(
    name: str, *cases: tuple[str, str], language: Language = "python3", limits: Limits = LIMITS, checker: str = "json"
) -> CodeTarget:
    """A function is called with the values on the lines of the first of each pair, and should return the second."""
    return CodeTarget(
        language, tuple(targets.TestCase(*case) for case in cases), limits, Checker(checker), entry_point=name
    )


@dataclass(frozen=True)
class Row:
    """A program, and the verdict that it must get: one of them where it depends on the machine which."""

    name: str
    target: CodeTarget
    source: str
    verdicts: str  # "TLE MLE"

    def fault(self, verdict: CodeVerdict) -> str:
        """What is wrong with a verdict; empty where nothing is."""
        right = verdict.verdict in self.verdicts.split()
        return "" if right else f"{self.name}: {verdict.verdict}, not {self.verdicts}: {verdict.detail}"


def judge_all(judge: CodeJudge, rows: Iterable[Row]) -> dict[str, CodeVerdict]:
    """The verdict of each row; as many run at a time as the judge has slots."""
    table = list(rows)
    assert len({row.name for row in table}) == len(table), "names of rows are unique"
    with ThreadPoolExecutor(judge.sandbox.workers + 1) as pool:
        verdicts = list(pool.map(lambda row: judge.judge(row.target, row.source), table))
    return {row.name: verdict for row, verdict in zip(table, verdicts, strict=True)}


def faults(judge: CodeJudge, rows: Iterable[Row]) -> list[str]:
    """All rows whose verdict is not the one they must get."""
    table = list(rows)
    verdicts = judge_all(judge, table)
    return [fault for row in table if (fault := row.fault(verdicts[row.name]))]


def read_rows(path: Path, targets: Mapping[str, CodeTarget], **values: str) -> list[Row]:
    """Rows from a text of programs, each after a line "=== name | target | verdicts".

    Args:
        values: what stands for "$name" in the programs.
    """
    rows = []
    for section in path.read_text("utf-8").split("\n=== ")[1:]:
        heading, source = section.split("\n", 1)
        name, target, verdicts = (part.strip() for part in heading.split("|"))
        for key, value in values.items():
            source = source.replace(f"${key}", value)
        rows.append(Row(name, targets[target], source.strip("\n"), verdicts))
    return rows
