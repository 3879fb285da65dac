"""The judge of mathematical answers: whole numbers first, then math-verify in a process that can be killed.

math-verify (https://github.com/huggingface/Math-Verify) compares formulas as sympy sees them. It is called as it wants
to be, `verify(gold, answer)`; OpenCompass has the two the other way round, which matters for intervals and relations.
"""

import contextlib
import json
import logging
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessy_jax.errors import UserError
from tessy_jax.evals.records import Verdict
from tessy_jax.evals.targets import MathTarget

VERSION = 1
"""Of this judge: raised where a verdict may change."""
DEADLINE, STARTING = 10.0, 120.0
"""Seconds that an answer may take, and the start of the process."""
MEMORY_MIB = 4096
MAX_LENGTH, MAX_ANSWERS = 5_000, 32
"""Characters of an answer, and how many answers a problem may have."""
WORKER = Path(__file__).with_name("math_worker.py")

logger = logging.getLogger(__name__)


class MathJudgeError(UserError):
    """math-verify cannot be started here."""


@dataclass(frozen=True)
class MathVerdict:
    """The judge's opinion of an answer, and the reason."""

    verdict: Verdict
    detail: str = ""
    wall_seconds: float = 0.0


class MathJudge:
    """Judges answers, one at a time. Not for threads: each has a judge of its own."""

    def __init__(self, deadline: float = DEADLINE, memory_mib: int = MEMORY_MIB):
        self.deadline, self.memory_mib = deadline, memory_mib
        self._worker: _Worker | None = None

    def __enter__(self) -> "MathJudge":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def start(self) -> None:
        """Starts math-verify, or does nothing where it runs.

        Raises:
            MathJudgeError: it is not installed, or does not start.
        """
        if self._worker is None:
            self._worker = _Worker(self.memory_mib)

    def identity(self) -> dict[str, Any]:
        """What a verdict depends on besides the answers."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            package = version("math-verify")
        except PackageNotFoundError:
            raise MathJudgeError(_MISSING) from None
        return {"name": "math", "version": VERSION, "math_verify": package, "wall_seconds": self.deadline}

    def judge(self, target: MathTarget, answer: str) -> MathVerdict:
        """Whether an answer equals the expected one.

        Raises:
            MathJudgeError: math-verify is not installed, or does not start.
        """
        started = time.monotonic()
        right, detail = self._judge(target, answer, started + self.deadline)
        verdict = Verdict.ACCEPTED if right else Verdict.WRONG_ANSWER
        return MathVerdict(verdict, detail[:1000], time.monotonic() - started)

    def _judge(self, target: MathTarget, answer: str, deadline: float) -> tuple[bool, str]:
        if len(answer) > MAX_LENGTH:
            return False, f"longer than {MAX_LENGTH:,} characters"
        gold, given = [tidy(text) for text in target.answers], tidy(answer)
        if target.integer:
            return self._whole_number(gold[0], given, deadline)
        if len(gold) == 1 and _plain(gold[0]) == _plain(given):
            return True, "the same text"

        wanted, tolerance = _expected(gold, target.tolerance)
        parts = expand(given)
        if len(wanted) != len(parts):
            whole = len(gold) == 1 and self._ask(gold[0], given, tolerance[0], deadline)[0]  # a set, a system
            return whole, "" if whole else f"{len(parts)} answers for {len(wanted)}"
        if len(parts) > MAX_ANSWERS:
            return False, f"more than {MAX_ANSWERS} answers"
        reasons: list[str] = []

        def equal(row: int, column: int) -> bool:
            if _plain(wanted[row]) == _plain(parts[column]):
                return True
            for one, other in _sides(wanted[row], parts[column]):
                right, how = self._ask(one, other, tolerance[row], deadline)
                reasons.append(how)
                if right:
                    return True
            return False

        right = matched(len(wanted), equal)
        return right, "" if right else f"not equal ({reasons[-1] if reasons else 'text'})"

    def _whole_number(self, gold: str, given: str, deadline: float) -> tuple[bool, str]:
        """A number written out decides; math-verify is asked as well, and what it says otherwise is noted."""
        expected, number = whole_number(gold), whole_number(given)
        if expected is None:
            raise MathJudgeError(f"the expected answer {gold!r} is no whole number")
        right, how = self._ask(str(expected), given, None, deadline)
        if number is None:
            return right, how
        if right != (number == expected):
            logger.warning("answer %r to %s: as a whole number %s, by %s %s", given, expected, not right, how, right)
            return not right, f"{how} says otherwise"
        return right, "whole number"

    def _ask(self, gold: str, answer: str, tolerance: float | None, deadline: float) -> tuple[bool, str]:
        if not answer.strip():
            return False, "empty"
        if self._worker is None:
            begun = time.monotonic()
            self.start()
            deadline += time.monotonic() - begun
        assert self._worker
        request = {"gold": gold, "answer": answer, "tolerance": tolerance}
        reply = self._worker.ask(request, deadline - time.monotonic())
        if reply is None:
            self.close()
            late = time.monotonic() >= deadline
            return False, f"not decided within {self.deadline:g} s" if late else "math-verify died of it"
        return bool(reply["equal"]), str(reply["how"])


class _Worker:
    """The process, and a thread that reads its replies."""

    def __init__(self, memory_mib: int):
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), str(memory_mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        if self._next(STARTING) is None:
            self.kill()
            raise MathJudgeError(_MISSING)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The reply; None where there is none in time, or the process has died."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            return None
        return self._next(max(seconds, 0.0))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(OSError):  # what was not written yet has no reader any more
                self._process.stdin.close()

    def _next(self, seconds: float) -> dict[str, Any] | None:
        try:
            line = self._replies.get(timeout=seconds)
        except queue.Empty:
            return None
        return json.loads(line) if line else None

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as stream:
            for line in stream:
                self._replies.put(line)
        self._replies.put("")  # the process has ended


_MISSING = "math-verify does not start here: install it (pip install 'tessy-jax[eval]')"


# -- text --------------------------------------------------------------------------------------------------------------

_DROPPED = re.compile(r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\[!,;: ]|\\displaystyle|\\limits|~|\$|\*\*")
_REPLACED = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", "{,}": ",", "−": "-", "，": ",", "∶": ":", "、": ",", r"\%": "%"}
_UNITS = re.compile(r"\\(?:mathrm|text|textbf|mathbf)\{~?([^{}]*)\}")
_UPRIGHT_INDEX = re.compile(r"_\{\s*\\(?:mathrm|text|rm)\{\s*([A-Za-z0-9]+)\s*\}\s*\}")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_(?:\{[^{}=]*\}|\w)|\^\{?\\prime\}?|\([\w\\, ]*\)|'|\s)*")
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
_WHOLE = re.compile(r"([+-]?)0*([0-9]{1,40})(?:\.0{1,20})?")


def tidy(text: str) -> str:
    """A formula without what is only there for the eye: dollars, sizes of brackets, thin spaces, boxes around it."""
    for old, new in _REPLACED.items():
        text = text.replace(old, new)
    text = _UPRIGHT_INDEX.sub(r"_{\1}", text)
    text = _DROPPED.sub("", text).strip().strip(".。;:,").strip()
    for box in (r"\boxed{", r"\fbox{"):
        while text.startswith(box) and text.endswith("}"):
            text = text[len(box) : -1].strip()
    return text


def _plain(text: str) -> str:
    """For comparing texts: without blanks, with units as letters."""
    return "".join(_UNITS.sub(r"\1", text).split())


def whole_number(text: str) -> int | None:
    """The whole number that a text is: `033`, `1,024`, `\\text{7}`, `12.0`, `n = 5`; None where it is none."""
    text = _plain(text).rpartition("=")[2]
    text = text.replace(",", "") if _THOUSANDS.fullmatch(text.lstrip("+-")) else text
    found = _WHOLE.fullmatch(text)
    return int(found[1] + found[2]) if found else None


def split(text: str) -> list[str]:
    """The answers that commas divide, outside of brackets."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


_BETWEEN = re.compile(r"\\text\{\s*(?:and|or|和|或)\s*\}|\b(?:and|or)\b|\\quad|\\qquad|;|；|和|或")


def expand(text: str) -> list[str]:
    """All answers of a text; `2\\pm\\sqrt3` is two."""
    parts = split(_BETWEEN.sub(",", text))
    return [part.replace(r"\pm", sign) for part in parts for sign in ("+-" if r"\pm" in part else "+")]


def _sides(gold: str, answer: str) -> Iterator[tuple[str, str]]:
    """The formulas, and what they say a quantity is equal to, where at least the expected one names it:

    I_{\\max}=q/2, q/2  ->  also q/2, q/2
    """
    yield gold, answer
    name, equals, value = gold.partition("=")
    if equals and "=" not in value and _NAME.fullmatch(name.strip()):
        other, equals, right = answer.partition("=")
        if not equals or _plain(other) == _plain(name):
            yield value, right if equals else answer


def _expected(gold: Sequence[str], tolerance: Sequence[float | None]) -> tuple[list[str], list[float | None]]:
    """All expected answers, and what each may differ by."""
    parts = [(number, part) for number, text in enumerate(gold) for part in expand(text)]
    answers = [part for _, part in parts]
    if len(tolerance) == len(gold):
        return answers, [tolerance[number] for number, _ in parts]
    if len(tolerance) == len(answers):
        return answers, list(tolerance)
    return answers, [tolerance[0]] * len(answers)


def matched(size: int, equal: Callable[[int, int], bool]) -> bool:
    """Whether answers can be paired so that all are equal: a greedy choice may use up the only partner of another.

    Kuhn's algorithm; each pair is compared once at most.
    """
    known: dict[tuple[int, int], bool] = {}
    partner: dict[int, int] = {}  # column -> row

    def place(row: int, seen: set[int]) -> bool:
        for column in range(size):
            if column in seen:
                continue
            if (row, column) not in known:
                known[row, column] = equal(row, column)
            if known[row, column]:
                seen.add(column)
                if column not in partner or place(partner[column], seen):
                    partner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(size))
