"""A pair that writes together, served live: an answer is the trace that a run of `synthesize` would record.

Only text that is decided is told, so nothing is ever taken back. Clients learn who wrote what: offsets are characters
(Unicode code points) of `reasoning_content` for spans of the thinking, of `content` for those of the answer.
"""

import itertools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from tessy_jax.config.serve import ServePairConfig
from tessy_jax.cooperate.state import Role
from tessy_jax.data.inputs import prompt_id
from tessy_jax.data.records import Problem, Span, TokenCounts
from tessy_jax.devices import compilation_cache
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import Prompt
from tessy_jax.engine.pair import Pair
from tessy_jax.engine.queue import OpenQueue
from tessy_jax.engine.request import PairRequest, RequestOutput
from tessy_jax.engine.rows import NAMES, Job
from tessy_jax.engine.sizes import pool_of
from tessy_jax.serving.bodies import Body, ChatBody
from tessy_jax.serving.errors import ApiError
from tessy_jax.serving.model import Texts, check_model
from tessy_jax.serving.replies import Choice, Reply
from tessy_jax.serving.text import Piece, RowText

_SEED_BITS = 53
"""Of seeds that are drawn: answers name them, and JavaScript reads no larger numbers."""


class PairChatBody(ChatBody):
    """Of /v1/chat/completions, where a pair answers."""

    problem_id: str | None = Field(default=None, min_length=1)


@dataclass(frozen=True)
class ServedPair:
    """A pair with its name, and the room of a slot; as `model.Served`.

    Attributes:
        room: tokens that the student's prompt and the text may have together.
    """

    name: str
    engine: Engine
    room: int
    config: ServePairConfig

    chat_body = PairChatBody

    @property
    def about(self) -> Mapping[str, Any]:
        """What clients are told of it besides: who is who."""
        return {"tessy": {name: Path(getattr(self.config, name).model).name for name in NAMES}}

    @classmethod
    def open(cls, config: ServePairConfig) -> "ServedPair":
        """Loads the models, and builds the engine. Raises what `Pair.open` and `Pair.load` raise."""
        pair = Pair.open(config.synthesis)
        budgets, name = config.cooperation, "+".join(folder.name for folder in pair.folders)
        room = pair.rooms[Role.STUDENT].tokens + budgets.max_think_tokens + budgets.max_answer_tokens
        compilation_cache.use(config.engine)
        mesh = make_mesh(config.mesh, config.engine.batch)
        pool_of(config.engine, mesh)  # raises, before anything is loaded
        return cls(config.name or name, pair.load(mesh), room, config)

    def texts(self, body: Body, id: str) -> Texts:
        """What the engine is to do for a request. Raises ApiError."""
        check_model(body, self.name)
        if not isinstance(body, PairChatBody):
            raise ApiError("a pair answers chats only: /v1/chat/completions", code="unsupported_endpoint")
        self._check_settings(body)
        messages = [message.to_message() for message in body.messages]
        if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
            raise ApiError("the last of the messages must be the user's, and not empty", param="messages")
        prompts = self._prompts(messages)
        seed = secrets.randbits(_SEED_BITS) if body.seed is None else body.seed
        request = PairRequest(prompts, seed, body.problem_id or prompt_id(messages))
        student = self.engine.models[Role.STUDENT].chat
        return Texts(
            jobs=[Job(Problem(id=id, messages=messages), sample, request=request) for sample in range(body.n)],
            rows=[PairText(request, sample, len(student.close_text), body.stops) for sample in range(body.n)],
            asked=[None] * body.n,
            prompt_tokens=prompts[Role.STUDENT].size,
        )

    def reply(self, id: str, chat: bool, texts: Texts) -> Reply:
        """The answer to a request."""
        return PairReply(id, self.name, chat, True, texts.prompt_tokens)

    def logprobs(self, engine: Engine) -> None:
        """Nothing is told of tokens; who asks is refused."""

    def _check_settings(self, body: ChatBody) -> None:
        """The models have settings of their own, and a program that is compiled for them. Raises ApiError."""
        if body.n > self.config.limits.choices:
            raise ApiError(f"{body.n} texts in one request; at most {self.config.limits.choices}", param="n")
        for name in ("temperature", "top_p", "top_k", "min_p"):
            asked, own = getattr(body, name), [getattr(model.sampling, name) for model in self.engine.models]
            if asked is not None and own != [max(0, asked)] * 2:  # top_k -1: vLLM's way to say all
                both = f"{own[0]} for the student, {own[1]} for the teacher"
                raise ApiError(
                    f"'{name}' is configured for a pair ({both}): leave it out",
                    param=name,
                    code="unsupported_parameter",
                )
        for name, instead in (("stop_token_ids", ", or use 'stop'"), ("logprobs", "")):
            if getattr(body, name):
                raise ApiError(
                    f"'{name}' is not supported for a pair: leave it out{instead}",
                    param=name,
                    code="unsupported_parameter",
                )
        budgets = self.config.cooperation
        most = budgets.max_think_tokens + budgets.max_answer_tokens
        if body.budget is not None and body.budget < most:
            name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
            raise ApiError(
                f"'{name}' is {body.budget}: the budgets of a pair are configured, {budgets.max_think_tokens} tokens "
                f"of thinking and {budgets.max_answer_tokens} of answer; leave it out, or give at least {most}",
                param=name,
                code="unsupported_parameter",
            )

    def _prompts(self, messages: list[dict[str, Any]]) -> tuple[Prompt, ...]:
        """By role. Raises ApiError where a template refuses the messages, or where they are too long."""
        prompts, reason = self.engine.room(Job(Problem(id="", messages=messages), 0))
        if reason is not None:
            code = "context_length_exceeded" if prompts else None
            raise ApiError(f"the messages cannot be used: {reason}", param="messages", code=code)
        return tuple(prompts)

    def warm_up(self) -> None:
        """Compiles what requests will need: prompts of every length, one alone and many together."""
        for size in self.engine.config.prompt_buckets:
            ids = [0] * min(size, *(room.tokens for room in self.engine.rooms))
            request = PairRequest((Prompt(ids, b"", len(ids)),) * 2, 0, "")
            for many in (1, self.engine.config.batch):
                queue = OpenQueue()
                for sample in range(many):
                    queue.put(Job(Problem(id="warm up", messages=[]), sample, request=request))
                for dispatch in self.engine.run(queue):
                    for output in dispatch.outputs:
                        queue.cancel(output.key)


class PairText(RowText):
    """One trace as it grows: what `RowText` gives out, and who wrote it."""

    def __init__(self, request: PairRequest, sample: int, close: int, stops: Sequence[str]):
        super().__init__(True, close, stops)
        self._request, self._sample, self._close_bytes = request, sample, close
        self._told = 0  # bytes of the thinking that were given out

    def read(self, now: RequestOutput) -> Piece:
        """What is new, now that the row is so far."""
        piece = super().read(now)
        authors = list(_by_author(piece.reasoning, self._told, now.spans))
        self._told += len(piece.reasoning.encode())
        return piece._replace(authors=authors, about=self._about(now, piece) if piece.finish else None)

    def _about(self, now: RequestOutput, piece: Piece) -> dict[str, Any]:
        """What is told of the whole trace when it is over."""
        answer = now.think_end + self._close_bytes if now.think_end >= 0 else len(now.text)
        parts = {
            "think": _Part(now.text[: now.think_end if now.think_end >= 0 else answer], 0, None),
            "answer": _Part(now.text[answer:], answer, self._said),
        }
        spans = [asdict(placed) for placed in (parts[span.phase].place(span) for span in now.spans) if placed]
        answered = piece.tokens - piece.reasoning_tokens  # fewer where a stop string ended it
        for span in spans:
            span.pop("dropped_tokens")
            if span["phase"] == "answer":
                span["n_tokens"] = answered
        counts = replace(TokenCounts.of(now.spans), answer=answered)
        return {
            "spans": spans,
            "n_tokens": asdict(counts),
            "finish": {"think": now.finish_think.name.lower(), "answer": piece.finish if now.think_end >= 0 else None},
            "problem_id": self._request.id,
            "sample_index": self._sample,
            "seed": self._request.seed,
        }


@dataclass(frozen=True)
class _Part:
    """The thinking or the answer: its bytes, where they begin in the row's, and how many characters clients have."""

    data: bytes
    start: int
    length: int | None

    def place(self, span: Span) -> Span | None:
        """The span in characters of this part; None where nothing of it is there."""
        start, end = (self._characters(at) for at in (span.start, span.end))
        return replace(span, start=start, end=end) if start < end else None

    def _characters(self, at: int) -> int:
        count = len(self.data[: max(0, at - self.start)].decode("utf-8", errors="ignore"))
        return count if self.length is None else min(count, self.length)


def _by_author(text: str, start: int, spans: Sequence[Span]) -> Iterator[tuple[str, str]]:
    """Pieces of a text that stands at byte `start`, each by one author."""
    data, at, pieces = text.encode(), 0, list[tuple[str, str]]()
    new = itertools.takewhile(lambda span: span.end > start, reversed(spans))
    for span in reversed([span for span in new if span.phase == "think"]):
        end = len(data[: span.end - start].decode("utf-8", errors="ignore"))
        pieces.append((span.by, text[at:end]))
        at = max(at, end)
    for by, same in itertools.groupby(pieces, key=lambda piece: piece[0]):
        if said := "".join(part for _, part in same):
            yield by, said


@dataclass(frozen=True)
class PairReply(Reply):
    """The answer of a pair: as a model's, with the authors as `tessy`."""

    def pieces(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What a stream tells of a piece: each chunk is by one author, and the last has it all."""
        deltas: list[dict[str, Any]] = [
            {"reasoning_content": text, "tessy": {"by": author}} for author, text in piece.authors
        ]
        if piece.content:
            deltas.append({"content": piece.content, "tessy": {"by": "student"}})
        last = [self._chunk(index, {"tessy": piece.about}, piece)] if piece.finish else []
        return [self._chunk(index, delta) for delta in deltas] + last

    def _said(self, choice: Choice) -> Mapping[str, Any]:
        said = super()._said(choice)
        return {"message": said["message"] | {"tessy": choice.about}}
