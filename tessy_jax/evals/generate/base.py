"""What a source of responses is: requests in, responses or refusals out."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tessy_jax.data.records import RowState
from tessy_jax.errors import UserError
from tessy_jax.evals.records import Problem, Response


class SourceError(UserError, RuntimeError):
    """The source of responses cannot go on; the message is for the user. What is done is kept."""


@dataclass(frozen=True)
class Request:
    """One response that is wanted.

    Attributes:
        benchmark: its folder, a name without a slash.
        begun: the row in flight that an earlier command left, where the source keeps such rows.
    """

    benchmark: str
    problem: Problem
    sample_index: int
    begun: RowState | None = None

    @property
    def id(self) -> str:
        """Unique among all benchmarks; the folder ends at the first slash."""
        return f"{self.benchmark}/{self.problem.id}"


@dataclass(frozen=True)
class Refused:
    """A request that got no response, and why."""

    request: Request
    reason: str


@dataclass(frozen=True)
class Written:
    """A response, and the request that it answers."""

    request: Request
    response: Response


@dataclass(frozen=True)
class Group:
    """What was done since the last group, and what is in flight: rows whose id is `Request.id`."""

    written: Sequence[Written] = ()
    refused: Sequence[Refused] = ()
    active: Sequence[RowState] = field(default=())
    in_flight: int = 0


Groups = Generator[Group, None, None]


class ResponseSource(Protocol):
    """Writes responses.

    Attributes:
        name: of the model, for people.
    """

    @property
    def name(self) -> str: ...

    def identity(self) -> dict[str, Any]:
        """What the responses depend on, for manifests."""
        ...

    def preview(self, problem: Problem) -> str:
        """What it would be asked, for a dry run."""
        ...

    def write(self, requests: Iterator[Request]) -> Groups:
        """A response or a refusal for each request, in any order, some at a time; closing the generator stops it.

        Raises:
            SourceError: after all responses that there are.
        """
        ...
