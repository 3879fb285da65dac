"""The engine in a thread of its own: texts are asked for, told piece by piece as they grow, and cancelled."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tessy_jax.engine.engine import Dispatch, Engine
from tessy_jax.engine.queue import OpenQueue
from tessy_jax.engine.rows import Job
from tessy_jax.serving.errors import ApiError
from tessy_jax.serving.logprobs import Asked, Logprobs, Reading
from tessy_jax.serving.metrics import Metrics
from tessy_jax.serving.model import Texts
from tessy_jax.serving.text import Piece, RowText

log = logging.getLogger(__name__)

Key = tuple[str, int]
"""Of a job."""

Listener = Callable[[Key, Piece], None]
"""Is told a piece of the text of a job. It is called in the engine's thread."""


@dataclass
class _Row:
    """A text for which somebody waits."""

    text: RowText
    asked_of_tokens: Asked | None
    listener: Listener
    asked: float = field(default_factory=time.monotonic)
    begun: bool = False
    streamed: bool = False
    tokens: int = 0


class Service:
    """Takes jobs while others run.

    Attributes:
        failure: what ended the engine, if anything did.
        draining: whether nothing new is taken.
    """

    def __init__(self, engine: Engine, logprobs: Logprobs | None, metrics: Metrics, waiting: int):
        """Call `start` then.

        Args:
            logprobs: None where nothing is told of tokens.
            waiting: texts that may wait for a slot.
        """
        self.failure: BaseException | None = None
        self.draining = False
        self._engine, self._logprobs, self._metrics, self._queue = engine, logprobs, metrics, OpenQueue()
        self._most = engine.config.batch + waiting
        self._rows: dict[Key, _Row] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the dispatch that runs; texts that are not done yet stay as they are."""
        self.draining = True
        self.cancel(list(self._rows))
        self._queue.close()
        self._thread.join()

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not self._rows

    def submit(self, texts: Texts, listener: Listener) -> None:
        """Takes the jobs of a request; `listener` is told of each, up to a piece with a `finish`. Raises ApiError."""
        with self._lock:
            if self.failure is not None:
                raise ApiError("the engine has failed: restart the server", status=503, code="engine_failed")
            if self.draining:
                raise ApiError("the server is about to stop", status=503, code="stopping", retry_after=30)
            if len(self._rows) + len(texts.jobs) > self._most:
                raise ApiError(
                    f"{len(self._rows)} texts are being written or wait; try again later",
                    status=429,
                    code="queue_full",
                    retry_after=1,
                )
            for job, text, asked in zip(texts.jobs, texts.rows, texts.asked, strict=True):
                self._rows[job.key] = _Row(text, asked, listener)
        self._metrics.prompt_tokens.inc(texts.prompt_tokens)
        for job in texts.jobs:
            self._queue.put(job)
        self._count()

    def cancel(self, keys: Iterable[Key]) -> None:
        """Nobody waits for these any more; those that are done already are left out."""
        for key in keys:
            with self._lock:
                row = self._rows.pop(key, None)
            if row is not None:
                self._metrics.texts.labels("cancelled").inc()
                self._queue.cancel(key)
        self._count()

    def _work(self) -> None:
        try:
            while self._queue.wait():
                for dispatch in self._engine.run(self._queue):
                    self._tell(dispatch)
                self._count()  # those that were cancelled have given their pages back
        except BaseException as error:
            log.exception("the engine has failed")
            with self._lock:  # what is taken after this is refused, and what was before is ended
                self.failure = error
            for key in list(self._rows):
                self._end(key, "error")

    def _tell(self, dispatch: Dispatch) -> None:
        for job, reason in dispatch.rejected:
            self._refuse(job, reason)
        told = [(output, row) for output in dispatch.outputs if (row := self._rows.get(output.key)) is not None]
        for _, row in told:
            row.begun = True
        self._count()
        read = [Reading(output, row.text.read(output), row.asked_of_tokens) for output, row in told]
        pieces = self._logprobs.answer(read) if self._logprobs else [reading.piece for reading in read]
        for (output, row), piece in zip(told, pieces, strict=True):
            self._measure(row, piece)
            if piece.finish is None:
                row.listener(output.key, piece)
                continue
            if not output.finish:  # a stop string: the model would go on
                self._queue.cancel(output.key)
            self._end(output.key, piece.finish, piece)
        self._count()

    def _refuse(self, job: Job, reason: str) -> None:
        log.warning("%s: %s", job.problem.id, reason)
        self._end(job.key, "error")

    def _end(self, key: Key, finish: str, piece: Piece | None = None) -> None:
        with self._lock:
            row = self._rows.pop(key, None)
        if row is not None:
            self._metrics.texts.labels(finish).inc()
            self._metrics.whole.observe(time.monotonic() - row.asked)
            row.listener(key, piece or Piece("", "", row.tokens, 0, finish))

    def _measure(self, row: _Row, piece: Piece) -> None:
        self._metrics.tokens.inc(max(0, piece.tokens - row.tokens))  # a text that ends at a stop string may be shorter
        row.tokens = max(row.tokens, piece.tokens)
        if not row.streamed and (piece.reasoning or piece.content):
            row.streamed = True
            self._metrics.first.observe(time.monotonic() - row.asked)

    def _count(self) -> None:
        with self._lock:
            begun = sum(row.begun for row in self._rows.values())
            self._metrics.running.set(begun)
            self._metrics.waiting.set(len(self._rows) - begun)
        self._metrics.pages.set(self._engine.pages.taken)
