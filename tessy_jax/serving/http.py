"""The server library: it runs the application until it is to stop."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn

from tessy_jax.engine.engine import Engine
from tessy_jax.serving.app import Api
from tessy_jax.serving.metrics import Metrics
from tessy_jax.serving.model import Servable
from tessy_jax.serving.service import Service

_TICK = 0.1
"""Seconds between two looks at whether to stop."""
_LINGER = 30
"""Seconds that slow readers have at the end to read what is written."""


class _Server(uvicorn.Server):
    """Leaves signals to the command."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(served: Servable, engine: Engine, key: str | None, address: socket.socket, asked: Callable[[], bool]) -> None:
    """Serves at `address` until `asked` to stop: then nothing new is taken, and what runs is finished.

    Raises whatever ends the engine.
    """
    metrics = Metrics()
    service = Service(engine, served.logprobs(engine), metrics, served.config.limits.queue)
    app = Api(served, service, metrics, key).app()
    server = _Server(
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_LINGER)
    )

    async def watch() -> None:
        while not asked() and service.failure is None:
            await asyncio.sleep(_TICK)
        service.draining = True
        while not service.idle:
            await asyncio.sleep(_TICK)
        server.should_exit = True

    async def both() -> None:
        watching = asyncio.create_task(watch())
        try:
            await server.serve(sockets=[address])
        finally:
            watching.cancel()

    service.start()
    try:
        asyncio.run(both())
    finally:
        service.stop()
    if service.failure is not None:
        raise service.failure
