"""A store of S3's kind on this machine, which can be made to fail."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tessy_jax.storage import store
from tessy_jax.storage.paths import as_path
from tessy_jax.storage.store import Store

BUCKET = "traces"


def kills(usual: int) -> int:
    """How often a test kills a command: TESSY_KILLS, or so many."""
    return int(os.environ.get("TESSY_KILLS", usual))


def upload(folder: Path, place: str) -> str:
    """Writes the files of a folder into objects; returns where they are."""
    objects = Store.open(as_path(place))
    for file in folder.rglob("*"):
        if file.is_file():
            objects.write(file.relative_to(folder).as_posix(), file.read_bytes())
    return place


class _Silent(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Nothing: each request would be a line."""


class Server:
    """moto's S3 on the loopback.

    Attributes:
        failures: what becomes of the next requests: "503 Slow Down", "slow", "lost answer" (done, but nothing is said).
        body: of the answers that are failures.
        requests: how many there were.
    """

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.body = b""
        self.requests = 0
        self._before: Callable[[int, str], None] = _nothing
        self._after: Callable[[int, str], None] = _nothing
        self._counting = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Silent)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        with self._counting:
            self.requests += 1
            number = self.requests
        path = environ["PATH_INFO"]
        self._before(number, path)
        answer = self._fail_or_do(environ, start_response)
        self._after(number, path)
        return answer

    @contextmanager
    def killing(self, *pids: int, at: Callable[[int, str], bool], late: bool = False) -> Iterator[None]:
        """Kills these processes at a request of which `at` takes the number and path: as it comes in, or, where `late`,
        when it is done and they have not heard of it yet.
        """

        def kill(number: int, path: str) -> None:
            if at(number, path):
                for pid in pids:
                    with suppress(ProcessLookupError):  # it has been killed, and waited for
                        os.kill(pid, signal.SIGKILL)

        self._before, self._after = (_nothing, kill) if late else (kill, _nothing)
        try:
            yield
        finally:
            self._before = self._after = _nothing

    def _fail_or_do(self, environ: dict[str, Any], start_response: Any) -> Any:
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "slow":
            time.sleep(0.5)
        elif failure == "lost answer":  # done, and then nothing is heard of it
            list(self._moto(environ, lambda *_: None))
            failure = "500 Internal Server Error"
        elif failure:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if failure not in ("", "slow"):
            start_response(failure, [("Content-Length", str(len(self.body))), ("Connection", "close")])
            return [self.body]
        return self._moto(environ, start_response)


def _nothing(number: int, path: str) -> None:
    """Of a request."""


@contextmanager
def served() -> Iterator[Server]:
    """A server with a bucket, and the variables by which s3fs finds it."""
    server = Server()
    variables = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with mock.patch.dict(os.environ, variables):
        forget()
        with suppress(FileExistsError):  # moto keeps its buckets as long as the process lives
            store._file_system("s3:", 1).mkdir(BUCKET)
        try:
            yield server
        finally:
            forget()
            server.close()


def forget() -> None:
    """Makes the next use of a store read the environment anew."""
    store._file_system.cache_clear()
    for scheme in ("s3", "gs"):
        with suppress(ImportError):  # a package that is not installed
            fsspec.get_filesystem_class(scheme).clear_instance_cache()
