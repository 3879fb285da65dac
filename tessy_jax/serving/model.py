"""The model that is served: how requests become jobs of the engine."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tessy_jax.config.serve import ServeConfig, ServerConfig
from tessy_jax.data.messages import why
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.engine.request import GenerationRequest
from tessy_jax.engine.rows import Job
from tessy_jax.engine.solo import request_job
from tessy_jax.serving.bodies import Body, ChatBody, CompletionBody
from tessy_jax.serving.errors import ApiError
from tessy_jax.serving.logprobs import Asked, Echo, EchoingText, Logprobs, Spelling
from tessy_jax.serving.replies import Reply
from tessy_jax.serving.text import RowText


@dataclass(frozen=True)
class Texts:
    """The texts that a request asks for, prompt by prompt, each `n` times.

    Attributes:
        jobs: of the engine. rows: what becomes of their bytes. asked: of their tokens.
        prompt_tokens: of all prompts together.
    """

    jobs: list[Job]
    rows: list[RowText]
    asked: list[Asked | None]
    prompt_tokens: int


def check_model(body: Body, name: str) -> None:
    """Raises ApiError where a request is for another model."""
    if body.model != name:
        raise ApiError(
            f"there is no model '{body.model}' here: ask for '{name}'",
            status=404,
            param="model",
            code="model_not_found",
        )


class Servable(Protocol):
    """What is served: one model, or a pair. See `Served`."""

    @property
    def name(self) -> str: ...
    @property
    def room(self) -> int: ...
    @property
    def config(self) -> ServerConfig: ...
    @property
    def chat_body(self) -> type[ChatBody]: ...
    @property
    def about(self) -> Mapping[str, Any]: ...
    def texts(self, body: Body, id: str) -> Texts: ...
    def reply(self, id: str, chat: bool, texts: Texts) -> Reply: ...
    def logprobs(self, engine: Engine) -> Logprobs | None: ...


@dataclass(frozen=True)
class Served:
    """A model with its name, and the room of a slot.

    Attributes:
        thinks: whether chat answers begin with thinking.
        room: tokens that prompt and text may have together.
    """

    name: str
    model: LanguageModel
    thinks: bool
    room: int
    config: ServeConfig

    chat_body = ChatBody

    @property
    def about(self) -> Mapping[str, Any]:
        """What clients are told of it besides: nothing."""
        return {}

    def texts(self, body: Body, id: str) -> Texts:
        """What the engine is to do for a request. Raises ApiError."""
        check_model(body, self.name)
        thinks = self.thinks and isinstance(body, ChatBody)
        prompts = [self._chat(body)] if isinstance(body, ChatBody) else self._prompts(body)
        most = self.config.limits.choices
        if len(prompts) * body.n > most:
            raise ApiError(f"{len(prompts) * body.n} texts in one request; at most {most}", param="n")
        seed = secrets.randbits(63) if body.seed is None else body.seed
        requests = [self._request(body, prompt, seed) for prompt in prompts]
        echoes = self._echoes(body, prompts)
        jobs = [
            request_job(request, f"{id}-{number}", sample, thinks)
            for number, request in enumerate(requests)
            for sample in range(body.n)
        ]
        rows = [self._row(body, thinks, echo) for echo in echoes for _ in range(body.n)]
        top, chat = body.top, isinstance(body, ChatBody)
        asked = [None if top is None else Asked(top, chat, echo) for echo in echoes for _ in range(body.n)]
        return Texts(jobs, rows, asked, sum(map(len, prompts)))

    def reply(self, id: str, chat: bool, texts: Texts) -> Reply:
        """The answer to a request."""
        return Reply(id, self.name, chat, chat and self.thinks, texts.prompt_tokens)

    def logprobs(self, engine: Engine) -> Logprobs:
        """Tells what is asked of tokens."""
        return Logprobs(self.model, engine.mesh)

    def _chat(self, body: ChatBody) -> list[int]:
        try:
            return self.model.prompt_ids([message.to_message() for message in body.messages])
        except Exception as error:  # templates are programs: whatever one raises, others are served
            raise ApiError(f"the messages cannot be used: {why(error)}", param="messages") from None

    def _prompts(self, body: Body) -> list[list[int]]:
        assert isinstance(body, CompletionBody)
        prompts = [self._encode(each) if isinstance(each, str) else each for each in body.prompts]
        rows = self.model.config.vocab_size
        for prompt in prompts:
            if not prompt:
                raise ApiError("'prompt' is empty: this model needs at least one token to read", param="prompt")
            if wrong := [i for i in prompt if not 0 <= i < rows]:
                raise ApiError(f"'prompt' holds {wrong[0]}: token ids are 0 to {rows - 1}", param="prompt")
        return prompts

    def _encode(self, text: str) -> list[int]:
        """As the checkpoint's tokenizer does: control strings are control tokens here, and a first token is added."""
        return list(self.model.chat.reference(text)["input_ids"])

    def _echoes(self, body: Body, prompts: Sequence[list[int]]) -> list[Echo | None]:
        """The prompts that clients get back."""
        if not isinstance(body, CompletionBody) or not body.echo:
            return [None for _ in prompts]
        spelling = Spelling(self.model)
        return [spelling.echo(text, ids) for text, ids in zip(body.prompts, prompts, strict=True)]

    def _row(self, body: Body, thinks: bool, echo: Echo | None) -> RowText:
        if echo is None:
            return RowText(thinks, len(self.model.chat.close_text), body.stops)
        return EchoingText(echo.text, body.budget == 0, body.stops)

    def _request(self, body: Body, prompt: Sequence[int], seed: int) -> GenerationRequest:
        left = self.room - len(prompt)
        if left < 1:
            raise ApiError(
                f"the prompt has {len(prompt)} tokens; a slot holds {self.room}, prompt and text together",
                param="messages" if isinstance(body, ChatBody) else "prompt",
                code="context_length_exceeded",
            )
        if body.budget is not None and body.budget > left:
            raise ApiError(
                f"the prompt has {len(prompt)} tokens and max_tokens is {body.budget}; a slot holds {self.room} in all",
                param="max_tokens",
                code="context_length_exceeded",
            )
        own = {name: getattr(body, name) for name in ("temperature", "top_k", "top_p", "min_p")}
        asked = {name: value for name, value in own.items() if value is not None}
        if asked.get("top_k") == -1:  # vLLM's way to say all
            asked["top_k"] = 0
        return GenerationRequest(
            prompt=tuple(prompt),
            seed=seed,
            max_tokens=left if body.budget is None else max(1, body.budget),  # of a prompt alone as well
            stop_ids=tuple(self._stop_id(i) for i in body.stop_token_ids or ()),
            **self.config.sampling.model_dump() | asked,
        )

    def _stop_id(self, token: int) -> int:
        """A token that may be written in an answer."""
        spelled = self.model.token_bytes
        if token not in self.model.chat.eos_ids and not (0 <= token < len(spelled) and spelled[token]):
            raise ApiError(
                f"'stop_token_ids' holds {token}, which the model never writes in an answer", param="stop_token_ids"
            )
        return token
