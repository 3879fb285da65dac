"""HTTP: routes, the key, the size of bodies, answers as a whole or as a stream."""

import asyncio
import hmac
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tessy_jax.serving.bodies import Body, ChatBody, CompletionBody, read_body
from tessy_jax.serving.errors import ApiError
from tessy_jax.serving.metrics import Metrics
from tessy_jax.serving.model import Servable, Texts
from tessy_jax.serving.page import chat_page
from tessy_jax.serving.replies import Choice, Reply
from tessy_jax.serving.service import Key, Service
from tessy_jax.serving.text import Piece

log = logging.getLogger(__name__)

_GONE = 499
"""Status of requests whose client went away, in the metrics (nginx's number)."""

_READ_ON = 8
"""A body that is too large is read on to so many times the limit, so that the client comes to read the answer."""

Handler = Callable[[Request], Awaitable[Response]]


class _Subscription:
    """The pieces of one request's texts, from the engine's thread to the server's loop; `end` cancels the rest."""

    def __init__(self, service: Service, texts: Texts):
        self._service = service
        self._index = {job.key: index for index, job in enumerate(texts.jobs)}
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self.choices = [Choice() for _ in texts.jobs]
        loop = asyncio.get_running_loop()

        def listener(key: Key, piece: Piece) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pieces.put_nowait, (self._index[key], piece))

        service.submit(texts, listener)

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Until all texts are done. Raises ApiError where one cannot be."""
        while any(choice.finish is None for choice in self.choices):
            index, piece = await self._pieces.get()
            if piece.finish == "error":
                raise ApiError("the text could not be written; the server's log says why", status=500)
            self.choices[index].add(piece)
            yield index, piece

    def end(self) -> None:
        """Gives up the texts that are not done."""
        self._service.cancel(key for key, index in self._index.items() if self.choices[index].finish is None)


class Api:
    """The routes of one model."""

    def __init__(self, served: Servable, service: Service, metrics: Metrics, key: str | None):
        """`key`: what clients must send; None: nothing."""
        self._served, self._service, self._metrics = served, service, metrics
        self._key = None if key is None else key.encode()
        self._reader = ThreadPoolExecutor(1, "reader")  # tokenises, so that long prompts hold up no stream

    def app(self) -> Starlette:
        """The application."""

        def route(path: str, handler: Handler, *methods: str) -> Route:
            return Route(path, self._guarded(path, handler), methods=list(methods))

        return Starlette(
            routes=[
                route("/v1/models", self._models, "GET"),
                route("/v1/models/{model:path}", self._model, "GET"),
                route("/v1/chat/completions", self._chat, "POST"),
                route("/v1/completions", self._completions, "POST"),
                Route("/health", self._health),
                Route("/metrics", self._page),
                Route("/", self._chat_page),
            ],
            exception_handlers={HTTPException: _not_there},
        )

    def _guarded(self, path: str, handler: Handler) -> Handler:
        """With the key asked for, errors in OpenAI's form, and the answer counted."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_key(request)
                response = await handler(request)
            except ApiError as error:
                response = _error(error)
            except ClientDisconnect:
                response = Response(status_code=_GONE)
            except Exception:
                log.exception("%s", path)
                response = _error(ApiError("the server has failed; its log says how", status=500))
            self._metrics.answers.labels(path, response.status_code).inc()
            return response

        return guarded

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._key):
            raise ApiError("send the server's key: Authorization: Bearer KEY", status=401, code="invalid_api_key")

    # -- what there is -------------------------------------------------------------------------------------------------

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._description()]})

    async def _model(self, request: Request) -> Response:
        if (name := request.path_params["model"]) != self._served.name:
            raise ApiError(f"there is no model '{name}' here", status=404, param="model", code="model_not_found")
        return JSONResponse(self._description())

    def _description(self) -> dict[str, Any]:
        about = {"object": "model", "created": 0, "owned_by": "tessy_jax"}
        return {"id": self._served.name, "max_model_len": self._served.room} | about | dict(self._served.about)

    async def _health(self, _: Request) -> Response:
        status = "failed" if self._service.failure else "stopping" if self._service.draining else "ok"
        return JSONResponse({"status": status}, status_code=200 if status == "ok" else 503)

    async def _page(self, _: Request) -> Response:
        return Response(self._metrics.page(), media_type="text/plain; version=0.0.4")

    async def _chat_page(self, _: Request) -> Response:
        return chat_page()

    # -- texts ---------------------------------------------------------------------------------------------------------

    async def _chat(self, request: Request) -> Response:
        return await self._write(request, self._served.chat_body, "chatcmpl")

    async def _completions(self, request: Request) -> Response:
        return await self._write(request, CompletionBody, "cmpl")

    async def _write(self, request: Request, kind: type[Body], prefix: str) -> Response:
        data = await _read(request, self._served.config.limits.body)
        id = f"{prefix}-{secrets.token_hex(12)}"

        def prepare() -> tuple[Body, Texts]:
            body = read_body(kind, data)
            return body, self._served.texts(body, id)

        body, texts = await asyncio.get_running_loop().run_in_executor(self._reader, prepare)
        reply = self._served.reply(id, issubclass(kind, ChatBody), texts)
        subscription = _Subscription(self._service, texts)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            return _Events(subscription, _stream(subscription, reply, usage))
        try:
            await _unless_gone(request, _all_done(subscription))
        finally:
            subscription.end()
        return JSONResponse(reply.whole(subscription.choices))


async def _stream(subscription: _Subscription, reply: Reply, usage: bool) -> AsyncIterator[str]:
    """Events with the pieces of all texts as they come."""
    try:
        for index in range(len(subscription.choices)):
            if first := reply.first(index):
                yield _event(first)
        async for index, piece in subscription.pieces():
            for chunk in reply.pieces(index, piece):
                yield _event(chunk)
        if usage:
            yield _event(reply.last(subscription.choices))
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())


class _Events(StreamingResponse):
    """A stream, after which nothing is written for a client that went away, however early."""

    def __init__(self, subscription: _Subscription, events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream")
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._subscription.end()


async def _all_done(subscription: _Subscription) -> None:
    async for _ in subscription.pieces():
        pass


async def _unless_gone(request: Request, work: Awaitable[None]) -> None:
    """Waits for the work; raises ClientDisconnect where the client goes away before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        await tasks[0]
    finally:
        for task in tasks:
            task.cancel()


async def _read(request: Request, limit: int) -> bytes:
    """The body. Raises ApiError where it has more bytes than `limit`."""
    data, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            data += chunk
        elif size > _READ_ON * limit:
            break
    if size > limit:
        raise ApiError(f"the body has more than {limit} bytes", status=413, code="body_too_large")
    return bytes(data)


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"


def _error(error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path} is not there"
    return _error(ApiError(what, status=error.status_code, code="not_found"))
