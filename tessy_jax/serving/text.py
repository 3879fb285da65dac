"""A row's bytes as text for the client: thinking and answer apart, whole characters, up to the first stop string."""

import bisect
from collections.abc import Sequence
from typing import Any, NamedTuple

from tessy_jax.cooperate.state import Finish
from tessy_jax.engine.request import RequestOutput

_SPACES = " \t\r\n\v\f"
"""White space that may go from the end of the thinking when it is over (`LanguageModel.close`)."""

_FINISH = {Finish.STOP: "stop", Finish.LENGTH: "length", Finish.LOOP: "length", Finish.OVERFLOW: "length"}
"""What clients are told; a row whose buffers are full has been as long as it can be."""


class Piece(NamedTuple):
    """What is new in a text.

    Attributes:
        reasoning, content: of the thinking, and of the answer.
        tokens: of the whole text so far; reasoning_tokens: those of its thinking.
        finish: "stop" or "length" where the text has ended, "error" where it had to.
        told: tokens of the answer that begin in what was given out, and the one that ended it.
        logprobs: what is asked of them, at the end (`logprobs`).
        authors: of a pair, the new thinking in pieces, each with its author.
        about: of a pair, what is told of the whole text at its end.
    """

    reasoning: str
    content: str
    tokens: int
    reasoning_tokens: int
    finish: str | None = None
    told: int = 0
    logprobs: dict[str, Any] | None = None
    authors: Sequence[tuple[str, str]] = ()
    about: dict[str, Any] | None = None


class RowText:
    """One text as it grows: gives out each character once, and none that may be of a stop string.

    Args:
        thinks: whether it begins with thinking.
        close: bytes between thinking and answer.
        stops: strings before which the answer ends; in the thinking they mean nothing.
    """

    def __init__(self, thinks: bool, close: int, stops: Sequence[str]):
        self._thinks, self._close, self._stops = thinks, close, tuple(stops)
        self._reasoned, self._said = 0, 0  # characters that were given out

    def read(self, now: RequestOutput) -> Piece:
        """What is new, now that the row is so far."""
        finish = _FINISH.get(now.finish, "error") if now.finish else None
        answer = 0 if not self._thinks else now.think_end + self._close if now.think_end >= 0 else len(now.text)
        thought = now.text[: now.think_end if now.think_end >= 0 else answer]
        reasoning, content = _characters(thought), _characters(now.text[answer:])
        tokens, of_answer = now.tokens, len(now.ends)
        told = of_answer + (now.finish == Finish.STOP)

        if self._thinks and now.think_end < 0 and finish is None:
            reasoning = reasoning.rstrip(_SPACES)
        if (stop := self._first_stop(content)) is not None:
            end = answer + len(content[: stop.end].encode())
            of_answer = min(of_answer, bisect.bisect_left(now.ends, end) + 1)
            content, finish, tokens = content[: stop.start], "stop", now.tokens - len(now.ends) + of_answer
            told = bisect.bisect_left([answer, *now.ends[:-1]], answer + len(content.encode()))
        elif finish is None:
            content = content[: len(content) - self._may_be_stop(content)]

        piece = Piece(reasoning[self._reasoned :], content[self._said :], tokens, tokens - of_answer, finish, told)
        self._reasoned, self._said = max(self._reasoned, len(reasoning)), max(self._said, len(content))
        return piece if self._thinks else piece._replace(reasoning_tokens=0)

    def _first_stop(self, content: str) -> "_Place | None":
        # What was given out before holds none, nor the beginning of one.
        found = [(content.find(stop, self._said), stop) for stop in self._stops]
        places = [_Place(at + len(stop), at) for at, stop in found if at >= 0]
        return min(places, default=None)

    def _may_be_stop(self, content: str) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(content) - self._said), 0, -1):
            if any(stop.startswith(content[-length:]) for stop in self._stops):
                return length
        return 0


class _Place(NamedTuple):
    """Of a stop string. The first is the one that is complete first: no later text may change what was told."""

    end: int
    start: int


def _characters(data: bytes) -> str:
    """The text of bytes that may end within a character."""
    return data.decode("utf-8", errors="ignore")
