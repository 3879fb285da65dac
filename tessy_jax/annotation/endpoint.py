"""A language model behind OpenAI's chat API as an annotator."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from tessy_jax.annotation.annotator import AnnotatorError, Outcome, Outcomes, Refused, judge_reply
from tessy_jax.annotation.prompt import TASK_HASH, task
from tessy_jax.config.annotate import EndpointConfig
from tessy_jax.data.chat_api import Answer, ChatApi, ChatApiError, NoReply
from tessy_jax.data.segments import Segment


class Endpoint:
    """Asks a server, several segments at a time.

    Where the server fails for good, the annotation ends with an error. A segment that the server calls unusable is
    refused.
    """

    def __init__(self, config: EndpointConfig):
        """Raises ConfigError where the variable that should hold the key is not set."""
        self.name = f"endpoint:{config.model}"
        self._config, self._api = config, ChatApi(config, "annotator")

    def request(self, segment: Segment) -> dict[str, Any]:
        """The body of the request for a segment."""
        config = self._config
        body = {"model": config.model, "messages": task(segment.text)}
        return body | {"temperature": config.temperature, "max_tokens": config.max_tokens} | config.extra

    def identity(self) -> dict[str, Any]:
        """The server's address is not in it: the same model may be elsewhere tomorrow."""
        return self._config.model_dump(include={"model", "temperature", "max_tokens", "extra"}) | {"task": TASK_HASH}

    def preview(self, segment: Segment) -> str:
        return f"POST {self._api.url}\n{json.dumps(self.request(segment), indent=2, ensure_ascii=False)}"

    def annotate(self, segments: Iterator[Segment]) -> Outcomes:
        with closing(self._api.ask(segments, self.request)) as groups:
            try:
                for answers in groups:
                    yield [_outcome(answer) for answer in answers]
            except ChatApiError as error:
                raise AnnotatorError(str(error)) from error


def _outcome(answer: Answer[Segment]) -> Outcome:
    if isinstance(answer.reply, NoReply):
        return Refused(answer.asked, answer.reply.reason, answer.reply.said)
    return judge_reply(answer.asked, answer.reply.text)
