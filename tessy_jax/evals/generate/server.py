"""Responses of a model behind OpenAI's chat API."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from tessy_jax.config.evaluate import ServerConfig
from tessy_jax.data.chat_api import Answer, ChatApi, ChatApiError, NoReply, Reply
from tessy_jax.data.hashing import hash_text
from tessy_jax.evals.generate.base import Group, Groups, Refused, Request, SourceError, Written
from tessy_jax.evals.records import Finish, Problem, Response


class Server:
    """A model on a server. Each request carries a seed of its own, which servers that know the field obey."""

    def __init__(self, config: ServerConfig, seed: int):
        """Raises ConfigError where the variable that should hold the key is not set."""
        self.name = config.model
        self._config, self._seed, self._api = config, seed, ChatApi(config, "model")

    def identity(self) -> dict[str, Any]:
        """The server's address is not in it: the same model may be elsewhere tomorrow."""
        return self._config.model_dump(mode="json", include={"model", "temperature", "max_tokens", "extra", "thoughts"})

    def body(self, request: Request) -> dict[str, Any]:
        """Of the HTTP request."""
        config = self._config
        return {
            "model": config.model,
            "messages": request.problem.messages,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "seed": self._request_seed(request),
        } | config.extra

    def preview(self, problem: Problem) -> str:
        body = self.body(Request("", problem, 0))
        return f"POST {self._api.url}\n{json.dumps(body, indent=2, ensure_ascii=False)}"

    def write(self, requests: Iterator[Request]) -> Groups:
        with closing(self._api.ask(requests, self.body)) as groups:
            try:
                for answers in groups:
                    yield Group(
                        written=[self._written(a, a.reply) for a in answers if isinstance(a.reply, Reply)],
                        refused=[Refused(a.asked, a.reply.reason) for a in answers if isinstance(a.reply, NoReply)],
                        in_flight=self._config.concurrency,
                    )
            except ChatApiError as error:
                raise SourceError(str(error)) from error

    def _request_seed(self, request: Request) -> int:
        return int(hash_text(f"{self._seed} {request.problem.id} {request.sample_index}")[:7], 16)

    def _written(self, answer: Answer[Request], reply: Reply) -> Written:
        """The response; thinking that the server keeps apart stands before the answer again."""
        thoughts, text, start = self._config.thoughts, reply.text, None
        if reply.reasoning is not None:
            opened, marker = (thoughts.open, thoughts.marker) if thoughts else ("<think>", "</think>")
            thinking = f"{opened}{reply.reasoning}{marker}"
            text, start = thinking + text, len(thinking)
        finish: Finish = "length" if reply.finish == "length" else "stop"
        if reply.reasoning is not None and not reply.text and finish == "length":
            finish = "truncated_thinking"
        request = answer.asked
        return Written(
            request,
            Response(
                problem_id=request.problem.id,
                sample_index=request.sample_index,
                response=text,
                finish=finish,
                n_tokens=reply.n_tokens,
                seed=self._request_seed(request),
                answer_start=start,
            ),
        )
