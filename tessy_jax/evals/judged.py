"""Responses with their judgements, read from files a problem at a time: there may be more than memory holds."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

from tessy_jax.evals.records import Judgement, Problem, Response, Verdict
from tessy_jax.evals.tasks.rows import TaskError


class Judged(NamedTuple):
    """A response, and what the judge says of it; None where it was not judged yet."""

    response: Response
    judgement: Judgement | None


@dataclass(frozen=True)
class JudgedProblem:
    """A problem and all that was written for it, in the order of the runs."""

    problem: Problem
    responses: Sequence[Judged]


def read_judged(
    problems: Iterable[Problem], responses: Path, judgements: Path, *, runs: int, failed: bool = False
) -> Iterator[JudgedProblem]:
    """Problems in their order, with what files have for each. Memory holds the places of the lines, not their texts.

    Args:
        responses, judgements: JSON lines.
        runs: responses to each problem; a file may have more.
        failed: whether the judge failed on the responses without a judgement; else they were not judged yet.

    Raises:
        TaskError: a line is no response, or no judgement.
    """
    with responses.open("rb") as texts, judgements.open("rb") as verdicts:
        written = _Lines(responses, texts, _response)
        judged = _Lines(judgements, verdicts, _judgement)
        for problem in problems:
            found = []
            for run in range(runs):
                if response := written.get((problem.id, run)):
                    judgement = judged.get((problem.id, run))
                    if judgement is None and failed:
                        judgement = judge_failed(response)
                    found.append(Judged(response, judgement))
            yield JudgedProblem(problem, found)


def judge_failed(response: Response) -> Judgement:
    """What stands in place of the judgement that the judge did not give."""
    return Judgement(*response.key, Verdict.JUDGE_ERROR, detail="the judge failed, see run.log")


LineT = TypeVar("LineT", Response, Judgement)


class _Lines(Generic[LineT]):
    """The lines of a file by their keys: where they are is read once, and what they hold when it is asked for."""

    def __init__(self, path: Path, file: BinaryIO, read: Callable[[dict[str, Any]], LineT]):
        self._path, self._file = path, file
        self._read: Callable[[dict[str, Any]], LineT] = read
        self._places: dict[tuple[str, int], tuple[int, int]] = {}
        offset = 0
        for line, data in enumerate(file, start=1):
            self._places[self._line(line, data).key] = line, offset
            offset += len(data)

    def get(self, key: tuple[str, int]) -> LineT | None:
        if key not in self._places:
            return None
        line, offset = self._places[key]
        self._file.seek(offset)
        return self._line(line, self._file.readline())

    def _line(self, line: int, data: bytes) -> LineT:
        try:
            return self._read(json.loads(data))
        except (ValueError, TypeError, KeyError) as error:
            raise TaskError(f"{self._path}:{line}: cannot be read: {error}") from None


def _response(row: dict[str, Any]) -> Response:
    return Response(**row)


def _judgement(row: dict[str, Any]) -> Judgement:
    return Judgement(**row | {"verdict": Verdict(row["verdict"])})
