"""The JSON of answers, whole and in pieces, as OpenAI's API has it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessy_jax.serving.text import Piece


@dataclass
class Choice:
    """A text as it grows."""

    reasoning: str = ""
    content: str = ""
    tokens: int = 0
    reasoning_tokens: int = 0
    finish: str | None = None
    logprobs: Mapping[str, Any] | None = None
    about: dict[str, Any] | None = None

    def add(self, piece: Piece) -> None:
        self.reasoning += piece.reasoning
        self.content += piece.content
        self.tokens, self.reasoning_tokens, self.finish = piece.tokens, piece.reasoning_tokens, piece.finish
        self.logprobs = piece.logprobs
        self.about = piece.about


@dataclass(frozen=True)
class Reply:
    """The answer to one request.

    Attributes:
        chat: whether it is of /v1/chat/completions.
        thinks: whether its texts begin with thinking.
    """

    id: str
    model: str
    chat: bool
    thinks: bool
    prompt_tokens: int
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Of texts that are done."""
        texts = [
            {"index": index, "logprobs": choice.logprobs, "finish_reason": choice.finish, **self._said(choice)}
            for index, choice in enumerate(choices)
        ]
        return self._frame(texts, chunk=False) | {"usage": self.usage(choices)}

    def first(self, index: int) -> dict[str, Any] | None:
        """What a stream of a chat begins with."""
        return self._chunk(index, {"role": "assistant", "content": ""}) if self.chat else None

    def pieces(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What a stream tells of a piece."""
        if not self.chat:
            said = piece.content or piece.finish
            return [self._chunk(index, piece.content, piece)] if said else []
        deltas = [("reasoning_content", piece.reasoning), ("content", piece.content)]
        chunks = [self._chunk(index, {name: text}) for name, text in deltas if text]
        return chunks + ([self._chunk(index, {}, piece)] if piece.finish else [])

    def last(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The counts at the end of a stream, where they were asked for."""
        return self._frame([], chunk=True) | {"usage": self.usage(choices)}

    def usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Tokens of the prompts and of all texts."""
        written = sum(choice.tokens for choice in choices)
        counts: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }
        if self.thinks:
            thought = sum(choice.reasoning_tokens for choice in choices)
            counts["completion_tokens_details"] = {"reasoning_tokens": thought}
        return counts

    def _said(self, choice: Choice) -> Mapping[str, Any]:
        if not self.chat:
            return {"text": choice.content}
        reasoning = {"reasoning_content": choice.reasoning} if self.thinks else {}
        return {"message": {"role": "assistant", "content": choice.content} | reasoning}

    def _chunk(self, index: int, said: Any, end: Piece | None = None) -> dict[str, Any]:
        logprobs, finish = (end.logprobs, end.finish) if end else (None, None)
        choice = {"index": index, "logprobs": logprobs, "finish_reason": finish, "delta" if self.chat else "text": said}
        return self._frame([choice], chunk=True)

    def _frame(self, choices: list[dict[str, Any]], chunk: bool) -> dict[str, Any]:
        kind = "chat.completion" + ".chunk" * chunk if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
