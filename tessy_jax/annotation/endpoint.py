"""A language model behind OpenAI's chat API as an annotator: bounded retries, and no key in any file."""

import http.client
import itertools
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from tessy_jax.annotation.annotator import AnnotatorError, Outcome, Outcomes, Refused, judge_reply
from tessy_jax.annotation.prompt import TASK_HASH, task
from tessy_jax.config.annotate import EndpointConfig
from tessy_jax.data.segments import Segment
from tessy_jax.errors import ConfigError

_BUSY = (408, 425, 429)
"""Status codes after which the same request may succeed later."""
_UNUSABLE = (400, 413, 422)
"""Status codes that blame the request, not the server."""
_MANY = 8
"""The run ends where the server calls so many requests unusable before it took one: it is not the segments then."""
_LONGEST_WAIT = 60.0
"""Seconds before another attempt, at most."""
_TICK = 0.5
"""Seconds without an answer after which the caller is asked whether to go on."""
_MAX_ANSWER, _MAX_SAID = 1 << 24, 500
"""Bytes that are read of an answer, and of an error."""


class Endpoint:
    """Asks a server, several segments at a time.

    A server that is busy, fails or does not answer is asked again, `retries` times, with growing pauses; then the
    annotation ends with an error. A segment that the server calls unusable is refused.
    """

    def __init__(self, config: EndpointConfig):
        """Raises ConfigError where the variable that should hold the key is not set."""
        self.name = f"endpoint:{config.model}"
        self._config = config
        self._key = None
        if config.key_env is not None:
            self._key = os.environ.get(config.key_env)
            if not self._key:
                raise ConfigError(f"annotator.key_env: the environment variable {config.key_env} is not set")

    def request(self, segment: Segment) -> dict[str, Any]:
        """The body of the request for a segment."""
        config = self._config
        body = {"model": config.model, "messages": task(segment.text)}
        return body | {"temperature": config.temperature, "max_tokens": config.max_tokens} | config.extra

    def identity(self) -> dict[str, Any]:
        """The server's address is not in it: the same model may be elsewhere tomorrow."""
        return self._config.model_dump(include={"model", "temperature", "max_tokens", "extra"}) | {"task": TASK_HASH}

    def preview(self, segment: Segment) -> str:
        return f"POST {self._url}\n{json.dumps(self.request(segment), indent=2, ensure_ascii=False)}"

    def annotate(self, segments: Iterator[Segment]) -> Outcomes:
        config, closing = self._config, threading.Event()
        running: set[Future[tuple[Outcome, bool]]] = set()
        held: list[Outcome] = []  # called unusable while no request has been taken yet
        taken, failure = False, None
        with ThreadPoolExecutor(config.concurrency) as pool:
            try:
                while True:
                    room = 0 if failure else config.concurrency - len(running)
                    running |= {pool.submit(self._ask, one, closing) for one in itertools.islice(segments, room)}
                    if not running:
                        break
                    done, running = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
                    for future in done:
                        try:
                            outcome, usable = future.result()
                        except AnnotatorError as error:
                            failure = failure or error
                        else:
                            taken |= usable
                            held.append(outcome)
                    if not taken and len(held) >= _MANY:
                        reason = held[0].reason if isinstance(held[0], Refused) else ""
                        failure = failure or AnnotatorError(f"{self._url} took none of {len(held)} requests: {reason}")
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

    def _ask(self, segment: Segment, closing: threading.Event) -> tuple[Outcome, bool]:
        """The outcome, and whether the server took the request."""
        try:
            answer = self._post(self.request(segment), closing)
        except _UnusableError as error:
            return Refused(segment, str(error)), False
        try:
            reply = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            reply = None
        if not isinstance(reply, str):
            reason = "the server's answer holds no text (choices[0].message.content)"
            return Refused(segment, reason, self._clean(json.dumps(answer))), True
        return judge_reply(segment, reply), True

    def _post(self, body: dict[str, Any], closing: threading.Event) -> Any:
        """The server's answer. AnnotatorError after the last attempt, or where another cannot help."""
        data, pause = json.dumps(body).encode(), self._config.backoff
        attempts = self._config.retries + 1
        for attempt in range(attempts):
            try:
                return self._send(data)
            except _FailedError as error:
                problem, asked = str(error), error.wait
            if attempt + 1 < attempts and closing.wait(min(max(pause, asked), _LONGEST_WAIT)):
                raise AnnotatorError(f"{self._url}: stopped while waiting to ask again: {problem}")
            pause *= 2
        raise AnnotatorError(f"{self._url} did not answer, asked {attempts} times: {problem}")

    def _send(self, data: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, data, headers)
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
            raise AnnotatorError(f"{self._url} answered {problem}") from None
        except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
            raise _FailedError(str(getattr(error, "reason", "") or error or type(error).__name__)) from None
        except ValueError:
            raise _FailedError("its answer was not JSON") from None

    @property
    def _url(self) -> str:
        return self._config.url + "/chat/completions"

    def _clean(self, text: str) -> str:
        """Text of the server on one line, without the key, which some servers repeat."""
        text = " ".join(text.split())
        return text if self._key is None else text.replace(self._key, "***")


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
