"""The judge of programs: runs them on tests in boxes, and compares what they write out here, where the answers are.

What is expected never enters a program's box. docs/evaluation_judges.md lists the differences to the official judges.
"""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessy_jax.errors import UserError
from tessy_jax.evals.compare import COMPARATORS, compare
from tessy_jax.evals.judges.compiler import CompileError, Compiler, CompilerFailure, Source
from tessy_jax.evals.judges.languages import STACK_MIB, Tool, find_tool
from tessy_jax.evals.records import Verdict
from tessy_jax.evals.sandbox import BoxLimits, Job, Outcome, Sandbox
from tessy_jax.evals.targets import CodeTarget, Language, Limits, TestCase

VERSION = 1
"""Of this judge: raised where a verdict may change."""
IN_BOX = Path(__file__).with_name("in_box")
OVERHEAD_MIB = 64
"""Of address space, for what is shared: the interpreter and libraries."""
CHECKER = BoxLimits(cpu_seconds=10, wall_seconds=20, address_mib=256 + OVERHEAD_MIB, stack_mib=64, output_bytes=1 << 20)
CHECKER_RIGHT, CHECKER_WRONG = (0,), (1, 2, 4, 8)
"""Exit codes of testlib: ok; wrong answer, wrong format, more than was asked, unexpected end."""
DETAIL = 1000


class TargetError(UserError):
    """A benchmark's tests cannot be used: a file is missing, a checker unknown."""


@dataclass(frozen=True)
class CodeVerdict:
    """The judge's opinion of a program.

    Attributes:
        cases, cases_passed: tests, and how many were passed before judging stopped.
        detail: the first failed test, and why; at most 1,000 characters.
        cpu_seconds, wall_seconds: of all runs together.
        memory_mib: the most that one held.
    """

    verdict: Verdict
    cases: int = 0
    cases_passed: int = 0
    detail: str = ""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    memory_mib: float = 0.0


@dataclass(frozen=True)
class Program:
    """What is run for every test: all of a job but its input."""

    command: tuple[str, ...]
    files: Mapping[str, bytes]
    limits: BoxLimits
    result: bool = False

    def job(self, stdin: bytes) -> Job:
        return Job(self.command, self.limits, self.files, stdin, self.result)


@dataclass
class Tally:
    """What the runs of a program have used so far, and whether a slow one has had its second try."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    memory_mib: float = 0.0
    retried: bool = False

    def add(self, outcome: Outcome) -> Outcome:
        self.cpu_seconds += outcome.cpu_seconds
        self.wall_seconds += outcome.wall_seconds
        self.memory_mib = max(self.memory_mib, outcome.memory_mib)
        return outcome


class CodeJudge:
    """Judges programs. For threads: as many run at a time as the sandbox has slots.

    Args:
        tools: what runs programs of each language.
        substitutes: languages whose programs another one's tool runs; part of the judge's identity.
    """

    def __init__(self, sandbox: Sandbox, tools: Mapping[Language, Tool], substitutes: Mapping[Language, Language]):
        self.sandbox, self.tools, self.substitutes = sandbox, dict(tools), dict(substitutes)
        self._compiler = Compiler(tools["cpp17"], sandbox) if "cpp17" in tools else None

    @classmethod
    def open(
        cls,
        languages: Collection[Language],
        *,
        workers: int | None = None,
        interpreters: Mapping[Language, Path] | None = None,
        substitutes: Mapping[Language, Language] | None = None,
    ) -> "CodeJudge":
        """Finds interpreters and compilers, and opens a sandbox that shows them.

        Args:
            workers: programs that run side by side; None: one per core.
            interpreters: folders of interpreters that are not the system's: {"python3": Path("/opt/python3.12")}.
            substitutes: {"pypy3": "python3"} declares that CPython runs what was written for PyPy.

        Raises:
            SandboxError: one is missing, or programs cannot be run safely here.
        """
        others, folders = substitutes or {}, interpreters or {}
        tools = {name: find_tool(others.get(name, name), folders.get(others.get(name, name))) for name in languages}
        python = tools.get("python3") or find_tool("python3", folders.get("python3"))
        roots = list(dict.fromkeys(root for tool in (python, *tools.values()) for root in tool.roots))
        return cls(Sandbox.open(workers, python=python.path, roots=roots), tools, others)

    def close(self) -> None:
        self.sandbox.close()

    def __enter__(self) -> "CodeJudge":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def identity(self, target: CodeTarget) -> dict[str, Any]:
        """What a verdict depends on besides the program and the tests."""
        limits = target.limits
        return {
            "name": "code",
            "version": VERSION,
            "language": target.language,
            "tool": self._tool(target.language).version,
            "checker": target.checker.name,
            "checker_args": dict(target.checker.args),
            "cpu_seconds": limits.cpu_seconds,
            "wall_seconds": limits.wall_seconds,
            "memory_mib": limits.memory_mib,
            "output_mib": limits.output_mib,
        }

    def judge(self, target: CodeTarget, source: str) -> CodeVerdict:
        """Runs a program on its tests, in their order.

        Raises:
            TargetError: the tests cannot be used.
        """
        _check_target(target)
        count = len(target.cases)
        try:
            program = self._program(target, source)
            checker = self._checker(target)
        except CompileError as error:
            return CodeVerdict(Verdict.COMPILE_ERROR, count, detail=str(error)[:DETAIL])
        except CompilerFailure as error:
            return CodeVerdict(Verdict.JUDGE_ERROR, count, detail=str(error)[:DETAIL])

        tally, passed, failed = Tally(), 0, CodeVerdict(Verdict.ACCEPTED)
        for number, case in enumerate(target.cases, start=1):
            verdict, why = self._case(target, program, checker, case, tally)
            if verdict is Verdict.ACCEPTED:
                passed += 1
                continue
            if failed.verdict in (Verdict.ACCEPTED, Verdict.JUDGE_ERROR):  # what is known to be wrong stays wrong
                failed = CodeVerdict(verdict, detail=f"test {number} of {count}: {why}"[:DETAIL])
            if target.stop_at_first_failure:
                break
        return replace(
            failed,
            cases=count,
            cases_passed=passed,
            cpu_seconds=tally.cpu_seconds,
            wall_seconds=tally.wall_seconds,
            memory_mib=tally.memory_mib,
        )

    def _tool(self, language: Language) -> Tool:
        if language not in self.tools:
            raise TargetError(f"the judge was opened for {', '.join(self.tools)}, and a problem asks for {language}")
        return self.tools[language]

    def _program(self, target: CodeTarget, source: str) -> Program:
        whole = f"{source}\n\n{target.epilogue}" if target.epilogue else source
        text, tool = whole.encode(errors="replace"), self._tool(target.language)
        if target.language == "cpp17":
            assert self._compiler
            stack = target.limits.memory_mib
            limits = _limits(target.limits, stack)
            return Program(("/box/program",), {"/box/program": self._compiler.compile(Source(text, {}))}, limits)

        limits = _limits(target.limits, STACK_MIB)
        python, files = (str(tool.path), "-s", "-B"), {"/box/main.py": text}
        if target.entry_point is None and not target.prelude:
            return Program((*python, "/box/main.py"), files, limits)
        files["/box/prelude.py"] = target.prelude.encode()
        if target.entry_point is None:
            files["/box/run.py"] = (IN_BOX / "run_program.py").read_bytes()
            return Program((*python, "/box/run.py"), files, limits)
        files["/box/run.py"] = (IN_BOX / "call_function.py").read_bytes()
        return Program((*python, "/box/run.py", target.entry_point), files, limits, result=True)

    def _checker(self, target: CodeTarget) -> Program | None:
        """The testlib checker, if the target has one. That it does not compile is not the program's fault."""
        path = target.checker.source
        if path is None:
            return None
        if self._compiler is None:
            raise TargetError(f"{path}: a checker needs a C++ compiler: open the judge with cpp17 among its languages")
        headers = {file.name: file.read_bytes() for file in sorted(path.parent.glob("*.h"))}
        try:
            binary = self._compiler.compile(Source(_read(path), headers))
        except CompileError as error:
            raise TargetError(f"{path}: the checker does not compile (testlib.h belongs beside it): {error}") from None
        return Program(("/box/checker", "/box/in", "/box/out", "/box/ans"), {"/box/checker": binary}, CHECKER)

    def _case(
        self, target: CodeTarget, program: Program, checker: Program | None, case: TestCase, tally: Tally
    ) -> tuple[Verdict, str]:
        """The verdict of a test, and why."""
        stdin, expected = _read(case.input), _read(case.output)
        outcome = tally.add(self._run(program.job(stdin)))
        verdict, why = _ending(outcome, target.limits)
        if verdict is Verdict.TIME_LIMIT and not tally.retried:
            tally.retried = True  # once: the second slow test of a program is slow
            outcome = tally.add(self._run(program.job(stdin), alone=True))
            verdict, why = _ending(outcome, target.limits)
        if verdict is not Verdict.ACCEPTED:
            return verdict, why

        written = outcome.result if program.result else outcome.stdout
        if checker:
            return self._ask(checker, stdin, written, expected)
        try:
            right = compare(target.checker.name, expected, written, target.checker.args)
        except ValueError as error:
            return Verdict.JUDGE_ERROR, f"what is expected cannot be read: {error}"
        said = outcome.stderr.decode(errors="replace").strip() if program.result and not written else ""
        return (Verdict.ACCEPTED, "") if right else (Verdict.WRONG_ANSWER, said or f"it gave {_excerpt(written)}")

    def _ask(self, checker: Program, stdin: bytes, written: bytes, expected: bytes) -> tuple[Verdict, str]:
        """What a checker says. The answer is in its box, and never was in the program's."""
        texts = {"/box/in": stdin, "/box/out": written, "/box/ans": expected}
        outcome = self._run(replace(checker, files={**checker.files, **texts}).job(b""))
        verdict, why = _ending(outcome, Limits(CHECKER.cpu_seconds, CHECKER.wall_seconds, 256))
        if verdict is Verdict.ACCEPTED or (verdict is Verdict.RUNTIME_ERROR and outcome.exit_code in CHECKER_WRONG):
            said = outcome.stderr.decode(errors="replace").strip() or f"the checker refused {_excerpt(written)}"
            return (Verdict.ACCEPTED, "") if outcome.exit_code in CHECKER_RIGHT else (Verdict.WRONG_ANSWER, said)
        return Verdict.JUDGE_ERROR, f"the checker failed: {why}"

    def _run(self, job: Job, alone: bool = False) -> Outcome:
        outcome = self.sandbox.run(job, alone=alone)
        return self.sandbox.run(job, alone=alone) if outcome.failure else outcome


def _check_target(target: CodeTarget) -> None:
    name = target.checker.name
    if (name == "testlib") != (target.checker.source is not None):
        raise TargetError(f"checker {name}: a checker has a source if, and only if, it is testlib's")
    if name != "testlib" and name not in COMPARATORS:
        raise TargetError(f"checker {name!r} is not known; known are testlib, {', '.join(COMPARATORS)}")
    if name in COMPARATORS:
        try:
            inspect.signature(COMPARATORS[name]).bind(b"", b"", **target.checker.args)
        except TypeError as error:
            raise TargetError(f"checker {name}: {error}") from None
    if not target.cases:
        raise TargetError("a problem has no tests: any program would pass them")
    if target.language == "cpp17" and (target.entry_point or target.prelude or target.epilogue):
        raise TargetError("functions, preludes and epilogues are for Python: a C++ program reads standard input")


def _limits(limits: Limits, stack_mib: int) -> BoxLimits:
    address = limits.memory_mib + stack_mib + OVERHEAD_MIB
    return BoxLimits(limits.cpu_seconds, limits.wall_seconds, address, stack_mib, limits.output_mib << 20)


def _ending(outcome: Outcome, limits: Limits) -> tuple[Verdict, str]:
    """What the way in which a run ended says: ACCEPTED where it says nothing against the program."""
    said = outcome.stderr.decode(errors="replace").strip()
    last = said.splitlines()[-1] if said else ""
    if outcome.failure:
        return Verdict.JUDGE_ERROR, outcome.failure
    if outcome.stopped == "output":
        return Verdict.OUTPUT_LIMIT, f"it wrote more than {limits.output_mib} MiB"
    if outcome.stopped == "wall" or outcome.cpu_seconds > limits.cpu_seconds:
        return Verdict.TIME_LIMIT, f"it took {outcome.cpu_seconds:.2f} s of CPU, {outcome.wall_seconds:.2f} s in all"
    if outcome.memory_mib > limits.memory_mib:
        return Verdict.MEMORY_LIMIT, f"it held {outcome.memory_mib:.0f} MiB"
    if outcome.exit_code == 0:
        return Verdict.ACCEPTED, ""
    why = f"exit code {outcome.exit_code}{f': {said[-800:]}' if said else ''}"
    if last.startswith("MemoryError") or "std::bad_alloc" in said:  # a guess, and no more: both verdicts are failures
        return Verdict.MEMORY_LIMIT, why
    if last.startswith(("SyntaxError", "IndentationError", "TabError")):
        return Verdict.COMPILE_ERROR, why
    return Verdict.RUNTIME_ERROR, why


def _read(text: str | Path) -> bytes:
    if isinstance(text, str):
        return text.encode(errors="replace")
    try:
        return text.read_bytes()
    except OSError as error:
        raise TargetError(f"{text}: {error.strerror}") from None


def _excerpt(text: bytes) -> str:
    shown = repr(text[:200].decode(errors="replace"))
    return f"{shown} and {len(text) - 200} bytes more" if len(text) > 200 else shown
