"""What an evaluation keeps: problems, responses and judgements.

A response on disk is one JSON line, and so is a judgement:

    {"problem_id", "sample_index", "response", "finish", "n_tokens", "seed"}
    {"problem_id", "sample_index", "verdict", "extracted", "cases", "cases_passed", "detail", "cpu_seconds", ...}
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from tessy_jax.data.records import Message

Finish = Literal["stop", "length", "truncated_thinking"]
"""How a response ended: by the model's end token; in the answer, by its budget; before the thinking was over."""


class Verdict(StrEnum):
    """What the judge says of a response. The short names are those of DMOJ and Codeforces."""

    ACCEPTED = "AC"
    WRONG_ANSWER = "WA"
    TIME_LIMIT = "TLE"
    MEMORY_LIMIT = "MLE"
    RUNTIME_ERROR = "RTE"
    OUTPUT_LIMIT = "OLE"
    COMPILE_ERROR = "CE"
    NO_ANSWER = "NOANS"  # nothing that the extractor could take for an answer
    TRUNCATED = "TRUNC"  # the thinking never ended
    SKIPPED = "SKIP"  # the benchmark itself does not judge this problem: counts as not passed
    JUDGE_ERROR = "IE"  # the judge failed, not the response: never counted as wrong


@dataclass(frozen=True)
class Problem:
    """One problem of a benchmark.

    Attributes:
        id: unique within the benchmark; may hold any characters, so it is never used as a path.
        messages: the prompt, ending with a user message.
        tags: by what tables are divided: {"difficulty": "easy", "platform": "atcoder"}.
    """

    id: str
    messages: list[Message]
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """What a model wrote for a problem, once.

    Attributes:
        response: the whole text of the assistant, thinking included.
        n_tokens: of the whole text; None where the source does not say.
        answer_start: the character of `response` at which the answer begins; None: where the markers of the thinking
            say.
    """

    problem_id: str
    sample_index: int
    response: str
    finish: Finish = "stop"
    n_tokens: int | None = None
    seed: int | None = None
    answer_start: int | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What tells it apart within a benchmark."""
        return self.problem_id, self.sample_index


@dataclass(frozen=True)
class Judgement:
    """The judge's opinion of a response.

    Attributes:
        verdict: passed only where it is ACCEPTED.
        extracted: the answer that was judged: code, a letter, a formula; None where none was found.
        cases, cases_passed: tests of a program, and how many of them it passed before judging stopped.
        detail: for the reader: the first failing test and what was written, in at most 1,000 characters.
        judge: name, version and limits of what judged: judgements of different ones are never averaged.
    """

    problem_id: str
    sample_index: int
    verdict: Verdict
    extracted: str | None = None
    cases: int = 0
    cases_passed: int = 0
    detail: str = ""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    memory_mib: float = 0.0
    judge: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        """What tells it apart within a benchmark."""
        return self.problem_id, self.sample_index

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.ACCEPTED
