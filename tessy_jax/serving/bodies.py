"""What a request may say, field by field. What would change the text and is not there is refused by name."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tessy_jax.config.schema import nearest
from tessy_jax.data.messages import checked_text
from tessy_jax.data.sources import BadRow
from tessy_jax.serving.errors import ApiError
from tessy_jax.serving.scorer import MOST

BodyT = TypeVar("BodyT", bound="Body")

STOP_IDS = 8
"""Stop ids that a request may name."""

_NO_EFFECT = frozenset(
    ["metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"]
)
"""Fields that change no text here, whatever they say."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "functions": ([],),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Fields of OpenAI and vLLM that are not there, with the values by which they ask for nothing."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Section):
    include_usage: bool = False


class Body(_Section):
    """Fields of both kinds of requests; None: as the configuration says."""

    model: str
    n: int = Field(default=1, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    min_p: float | None = Field(default=None, ge=0, lt=1)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = Field(default=None, max_length=STOP_IDS)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if "" in stops:
            raise ApiError("'stop' holds an empty string, which would end every text: leave it out", param="stop")
        return stops

    @property
    def budget(self) -> int | None:
        """Tokens that a text may have at most."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """The likeliest tokens that are told of each place; None: nothing is asked of tokens."""
        return None


class TextPart(_Section):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message. Fields beside these are refused, unless they are null, as clients send back what they got."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    reasoning_content: str | None = None

    def to_message(self) -> dict[str, Any]:
        """As templates read it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        role = "system" if self.role == "developer" else self.role
        more = {} if self.reasoning_content is None else {"reasoning_content": self.reasoning_content}
        return {"role": role, "content": content} | more


class ChatBody(Body):
    """Of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST)

    @property
    def budget(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise ApiError("'top_logprobs' needs 'logprobs': true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(Body):
    """Of /v1/completions. Prompts are texts, or token ids."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=MOST)

    @property
    def budget(self) -> int | None:
        if self.max_tokens == 0 and not self.echo:
            raise ApiError("'max_tokens' is 0, which asks for nothing without 'echo'", param="max_tokens")
        return self.max_tokens

    @property
    def top(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One after the other."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if not prompt:
            raise ApiError("'prompt' is an empty list: give a text or token ids", param="prompt")
        return [prompt] if isinstance(prompt[0], int) else prompt  # type: ignore[list-item, return-value]


def read_body(kind: type[BodyT], data: bytes) -> BodyT:
    """The body of a request. Raises ApiError, which names the field."""
    values = _read_json(data)
    known = {name: value for name, value in values.items() if value is not None and name not in _NO_EFFECT}
    for name, neutral in _NEUTRAL.items():
        if name in known and name not in kind.model_fields and not _asks_nothing(known.pop(name), neutral):
            raise ApiError(f"'{name}' is not supported: leave it out", param=name, code="unsupported_parameter")
    if isinstance(known.get("messages"), list):
        known["messages"] = [_as_asked(message) for message in known["messages"]]
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        raise _explain(kind, error) from None


def _asks_nothing(value: Any, neutral: Sequence[Any]) -> bool:
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


def _as_asked(message: Any) -> Any:
    """A message without what clients send back that got it from here: nulls, and the authors in a pair."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value is not None and name != "tessy"}


def _read_json(data: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ApiError(f"the body is not JSON: {constant} is no number there", code="invalid_json")

    try:
        values = json.loads(data.decode("utf-8"), parse_constant=refuse)
        checked_text(json.dumps(values, ensure_ascii=False), "body")
    except UnicodeDecodeError as error:
        raise ApiError(f"the body is not UTF-8 (byte {error.start})", code="invalid_json") from None
    except json.JSONDecodeError as error:
        raise ApiError(f"the body is not JSON: {error.msg} at character {error.pos + 1}", code="invalid_json") from None
    except BadRow as error:
        raise ApiError(str(error), code="invalid_json") from None
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        raise ApiError("the body is JSON that cannot be read", code="invalid_json") from None
    if not isinstance(values, dict):
        raise ApiError("the body must be a JSON object", code="invalid_json")
    return values


_SHAPES = {
    "prompt": "should be a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": "should be a string or a list of strings",
}
"""What fields should be that may be of several types."""


_SECTIONS: dict[int | str, type[BaseModel]] = {
    "messages": ChatMessage,
    "content": TextPart,
    "stream_options": StreamOptions,
}
"""The types of fields that have fields of their own."""


def _explain(kind: type[Body], error: ValidationError) -> ApiError:
    """What is wrong first, in words."""
    first = min(error.errors(), key=lambda each: (each["type"] != "extra_forbidden", -len(each["loc"])))
    path = [part for part in first["loc"] if isinstance(part, int) or not _names_type(part)]
    path = path[:1] if path[0] in _SHAPES else path
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    if first["type"] == "extra_forbidden":
        within = [_SECTIONS[part] for part in path[:-1] if part in _SECTIONS]
        section = within[-1] if within else kind
        hint = nearest(str(path[-1]), section.model_fields)
        return ApiError(f"unknown field '{field}'; {hint}", param=field, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(f"the field '{field}' is missing", param=field, code="missing_required_parameter")
    problem = _SHAPES.get(str(path[0]), first["msg"].removeprefix("Input ").replace("List should", "should"))
    return ApiError(f"'{field}' {problem}", param=field, code="invalid_value")


def _names_type(part: str) -> bool:
    """Whether a part of pydantic's path is no field but one of the types that it may have."""
    return part == "str" or part.startswith("list[")
