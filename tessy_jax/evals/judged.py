"""Responses with their judgements, read from files a problem at a time: there may be more than memory holds."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tessy_jax.evals.records import Judgement, Problem, Response
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
    problems: Iterable[Problem], responses: Path, judgements: Iterable[Judgement]
) -> Iterator[JudgedProblem]:
    """Problems in their order, with what a file of responses has for each.

    Raises:
        TaskError: a line of the file is no response.
    """
    judged = {(one.problem_id, one.sample_index): one for one in judgements}
    places: dict[str, list[tuple[int, int, int]]] = {}  # by problem: run, line, offset
    offset = 0
    with responses.open("rb") as file:
        for line, data in enumerate(file, start=1):
            one = _response(responses, line, data)
            places.setdefault(one.problem_id, []).append((one.sample_index, line, offset))
            offset += len(data)
        for problem in problems:
            found = []
            for run, line, place in sorted(places.get(problem.id, [])):
                file.seek(place)
                found.append(Judged(_response(responses, line, file.readline()), judged.get((problem.id, run))))
            yield JudgedProblem(problem, found)


def _response(path: Path, line: int, data: bytes) -> Response:
    try:
        row: dict[str, Any] = json.loads(data)
        return Response(**row)
    except (ValueError, TypeError) as error:
        raise TaskError(f"{path}:{line}: no response: {error}") from None
