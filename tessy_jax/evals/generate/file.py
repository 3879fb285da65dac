"""Responses that were written elsewhere, in a file."""

from collections.abc import Iterator
from typing import Any

from tessy_jax.config.evaluate import ResponsesConfig
from tessy_jax.data.hashing import hash_file
from tessy_jax.errors import ConfigError
from tessy_jax.evals.generate.base import Group, Groups, Request, SourceError, Written
from tessy_jax.evals.interchange import read_lcb_outputs, read_ojbench
from tessy_jax.evals.records import Problem, Response
from tessy_jax.evals.tasks.rows import Row, TaskError, read_rows
from tessy_jax.storage.copies import local

_NAMED = 3
"""Missing responses that a message names."""
_GROUP = 10
"""Responses that are stored together."""


class File:
    """A file of responses, in one of three forms; the fields of its first row say in which:

    {"problem_id", "response"} and perhaps "sample_index", "finish", "n_tokens"     of ours
    {"id", "content", "dataset", "language"}                                        OJBench's rows
    [{"question_id", "code_list"}]                                                  for LiveCodeBench's runner
    """

    def __init__(self, config: ResponsesConfig):
        """Raises ConfigError where there is no such file."""
        self.name = config.model
        self._path, self._thoughts = local(config.path).expanduser(), config.thoughts
        if not self._path.is_file():
            raise ConfigError(f"model.path: there is no file {config.path}")

    def identity(self) -> dict[str, Any]:
        thoughts = None if self._thoughts is None else self._thoughts.model_dump(mode="json")
        return {"responses": hash_file(self._path), "model": self.name, "thoughts": thoughts}

    def preview(self, problem: Problem) -> str:
        return "\n".join(f"{message['role']}: {message['content']}" for message in problem.messages)

    def write(self, requests: Iterator[Request]) -> Groups:
        """In the order of the file, of which memory never holds more than a few responses."""
        wanted = {(request.problem.id, request.sample_index): request for request in requests}
        seen: set[tuple[str, int]] = set()
        written: list[Written] = []
        for response in self._read():
            if response.key in seen:
                name, run = response.key
                raise SourceError(f"{self._path} holds two responses to problem {name!r}, sample {run}: remove one")
            seen.add(response.key)
            if response.key in wanted:
                written.append(Written(wanted[response.key], response))
            if len(written) == _GROUP:
                yield Group(written)
                written = []
        yield Group(written)
        if missing := [request for key, request in wanted.items() if key not in seen]:
            some = "; ".join(f"{one.id}, sample {one.sample_index}" for one in missing[:_NAMED])
            raise SourceError(
                f"{self._path} lacks {len(missing)} responses ({some}{'; ...' if len(missing) > _NAMED else ''}): add "
                "them, or ask for fewer with the benchmark's runs or limit"
            )

    def _read(self) -> Iterator[Response]:
        try:
            first = next(read_rows(self._path), None)
            if first is None:
                raise SourceError(f"{self._path} is empty")
            if "code_list" in first.values:
                yield from read_lcb_outputs(self._path)
            elif "content" in first.values and "problem_id" not in first.values:
                yield from read_ojbench(self._path)
            else:
                yield from map(_response, read_rows(self._path))
        except TaskError as error:
            raise SourceError(str(error)) from None


def _response(row: Row) -> Response:
    finish = row.one_of("finish", ("stop", "length", "truncated_thinking")) if "finish" in row.values else "stop"
    return Response(
        problem_id=row.id("problem_id", "id"),
        sample_index=_whole(row, "sample_index") or 0,
        response=row.text("response", empty=True),
        finish=finish,  # type: ignore[arg-type]
        n_tokens=_whole(row, "n_tokens"),
        seed=_whole(row, "seed"),
        answer_start=_whole(row, "answer_start"),
    )


def _whole(row: Row, name: str) -> int | None:
    value = row.values.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        row.fail(f"field '{name}' must be a whole number, not {value!r}")
    return value
