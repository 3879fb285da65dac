"""OpenAI's chat API, which vLLM, SGLang, llama.cpp and many others have: requests with bounded retries, several at a
time, and no key in any file.
"""

import http.client
import itertools
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tessy_jax.config.sections import ChatApiConfig
from tessy_jax.errors import ConfigError, UserError

Asked = TypeVar("Asked")

_BUSY = (408, 425, 429)
"""Status codes after which the same request may succeed later."""
_UNUSABLE = (400, 413, 422)
"""Status codes that blame the request, not the server."""
_MANY = 8
"""The server has failed where it calls so many requests unusable before it took one: it is not the requests then."""
_LONGEST_WAIT = 60.0
"""Seconds before another attempt, at most."""
_TICK = 0.5
"""Seconds without an answer after which the caller is asked whether to go on."""
_MAX_ANSWER, _MAX_SAID = 1 << 26, 500
"""Bytes that are read of an answer, and of an error."""


class ChatApiError(UserError, RuntimeError):
    """The server cannot be used; the message names it and what it said."""


@dataclass(frozen=True)
class Reply:
    """What the server wrote: the text, and why it stopped ("stop", "length", ...). `reasoning` is text of the thinking
    that the server keeps apart; `n_tokens` is of both, where the server says.
    """

    text: str
    finish: str | None = None
    reasoning: str | None = None
    n_tokens: int | None = None


@dataclass(frozen=True)
class NoReply:
    """Why there is no text: the server does not take this request, or its answer (`said`) holds none."""

    reason: str
    said: str | None = None


@dataclass(frozen=True)
class Answer(Generic[Asked]):
    """What came of one question."""

    asked: Asked
    reply: Reply | NoReply


class ChatApi:
    """A server. One that is busy, fails or does not answer is asked again, `retries` times, with growing pauses."""

    def __init__(self, config: ChatApiConfig, section: str):
        """Raises ConfigError where the variable that should hold the key is not set. `section` is the configuration's
        name for `config`.
        """
        self.url = config.url + "/chat/completions"
        self._config = config
        self._key = None
        if config.key_env is not None:
            self._key = os.environ.get(config.key_env)
            if not self._key:
                raise ConfigError(f"{section}.key_env: the environment variable {config.key_env} is not set")

    def ask(
        self, questions: Iterator[Asked], body: Callable[[Asked], dict[str, Any]]
    ) -> Generator[list[Answer[Asked]], None, None]:
        """The answers to `questions`, in any order, a few at a time; an empty list says that the server is at work.

        Args:
            questions: read as there is room, `concurrency` at a time.
            body: of the request for a question.

        Raises:
            ChatApiError: the server has failed; after all answers that there are.
        """
        closing, running = threading.Event(), set[Future[tuple[Answer[Asked], bool]]]()
        held: list[Answer[Asked]] = []  # called unusable while no request has been taken yet
        taken, failure = False, None
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            try:
                while True:
                    room = 0 if failure else self._config.concurrency - len(running)
                    running |= {pool.submit(self._ask, one, body, closing) for one in itertools.islice(questions, room)}
                    if not running:
                        break
                    done, running = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
                    for future in done:
                        try:
                            answer, usable = future.result()
                        except ChatApiError as error:
                            failure = failure or error
                        else:
                            taken |= usable
                            held.append(answer)
                    if not taken and len(held) >= _MANY:
                        reason = held[0].reply.reason if isinstance(held[0].reply, NoReply) else ""
                        failure = failure or ChatApiError(f"{self.url} took none of {len(held)} requests: {reason}")
                    if failure:
                        closing.set()
                    yield held if taken else []
                    held = [] if taken else held
            finally:
                closing.set()
        if failure:
            raise failure
        if held:
            yield held

    def _ask(
        self, asked: Asked, body: Callable[[Asked], dict[str, Any]], closing: threading.Event
    ) -> tuple[Answer[Asked], bool]:
        """The answer, and whether the server took the request."""
        try:
            answer = self._post(body(asked), closing)
        except _UnusableError as error:
            return Answer(asked, NoReply(str(error))), False
        reply = _read_reply(answer)
        if reply is None:
            reason = "the server's answer holds no text (choices[0].message.content)"
            return Answer(asked, NoReply(reason, self._clean(json.dumps(answer)))), True
        return Answer(asked, reply), True

    def _post(self, body: dict[str, Any], closing: threading.Event) -> Any:
        """The server's answer. ChatApiError after the last attempt, or where another cannot help."""
        data, pause = json.dumps(body).encode(), self._config.backoff
        attempts = self._config.retries + 1
        for attempt in range(attempts):
            try:
                return self._send(data)
            except _FailedError as error:
                problem, asked = str(error), error.wait
            if attempt + 1 < attempts and closing.wait(min(max(pause, asked), _LONGEST_WAIT)):
                raise ChatApiError(f"{self.url}: stopped while waiting to ask again: {problem}")
            pause *= 2
        raise ChatApiError(f"{self.url} did not answer, asked {attempts} times: {problem}")

    def _send(self, data: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, data, headers)
        try:
            with _OPENER.open(request, timeout=self._config.timeout) as response:
                return json.loads(response.read(_MAX_ANSWER))
        except urllib.error.HTTPError as error:
            said = self._clean(_read(error)) or error.reason
            problem = f"{error.code} {said}"
            if error.code in _BUSY or error.code >= 500:
                raise _FailedError(problem, _seconds(error.headers.get("Retry-After"))) from None
            if error.code in _UNUSABLE:
                raise _UnusableError(f"the server refused the request: {problem}") from None
            raise ChatApiError(f"{self.url} answered {problem}") from None
        except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
            raise _FailedError(str(getattr(error, "reason", "") or error or type(error).__name__)) from None
        except ValueError:
            raise _FailedError("its answer was not JSON") from None

    def _clean(self, text: str) -> str:
        """Text of the server on one line, without the key, which some servers repeat."""
        text = " ".join(text.split())
        return text if self._key is None else text.replace(self._key, "***")


def _read_reply(answer: Any) -> Reply | None:
    """The first choice of an answer; None where it holds no text."""
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text = message["content"]
    except (KeyError, IndexError, TypeError):
        return None
    # vLLM and SGLang call thinking that they keep apart reasoning_content, and newer ones reasoning.
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if text is None and isinstance(reasoning, str):
        text = ""  # the budget ended within the thinking
    if not isinstance(text, str):
        return None
    usage = answer.get("usage") or {}
    n_tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(
        text,
        finish=str(choice["finish_reason"]) if choice.get("finish_reason") is not None else None,
        reasoning=reasoning if isinstance(reasoning, str) else None,
        n_tokens=n_tokens if isinstance(n_tokens, int) else None,
    )


class _FailedError(Exception):
    """An attempt failed; another may help, after `wait` seconds."""

    def __init__(self, problem: str, wait: float = 0.0):
        super().__init__(problem)
        self.wait = wait


class _UnusableError(Exception):
    """The server does not take this request."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key must not follow a redirect to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _read(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(_MAX_SAID).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _seconds(value: str | None) -> float:
    """Of a Retry-After header; dates are not read."""
    return float(value) if value is not None and value.isdecimal() else 0.0
