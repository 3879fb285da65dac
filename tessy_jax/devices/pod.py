"""The processes of a pod watch each other: without one of them the others cannot go on, and they end with a message.

    a process says                                       and the others
    nothing for `timeout` seconds (killed, machine gone) say so, and end with exit code 1
    that it ends alone, and why (an error of its own)    say so, and end with its exit code
    that it has come to the end                          go on; who is at the end waits for them

What they say stands on the board that JAX's processes share: its key-value store, which is in process 0. JAX watches by
itself too, but ends a process by signal 6 with a stack of C++; here it has some seconds more, and so comes second.

This module imports no JAX: commands that join no pod import it too.
"""

import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NoReturn, Protocol

from tessy_jax.errors import ERROR, INTERRUPTED, UserError

log = logging.getLogger("tessy_jax.console")
"""What goes to the log file of the run only: it is on the console already."""

_FOLDER = "tessy_jax/pod/"
_TICK = 0.25
_GRACE = 2.0
"""Seconds that this process has to end by an error of its own, where another one has ended by an error."""

_NOT_OF_OTHERS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
"""Errors of JAX that no other process has caused."""

_GOES_ON = "what is in the journal or a checkpoint is safe, and the same command goes on"


class Board(Protocol):
    """What is used of JAX's client."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = ...) -> None: ...
    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


class Said(NamedTuple):
    """What a process says.

    Attributes:
        beat: one more each time.
        end: the exit code of a process that has come to its end; None: it works.
        alone: whether it ends by an error of its own, so that the others cannot go on.
        why: that error.
    """

    beat: int = 0
    end: int | None = None
    alone: bool = False
    why: str = ""


class Member:
    """This process among those of the pod; `begin` starts to watch.

    Attributes:
        alone: whether it ends by an error of its own.
    """

    def __init__(self, board: Board, index: int, count: int, timeout: float, meeting: str | None):
        """`timeout` in seconds; `meeting` is the address of process 0, `host:port`, if it is known."""
        self.alone = False
        self._board, self._index, self._count, self._timeout = board, index, count, timeout
        self._pause = min(max(timeout / 10, 1.0), 5.0)
        self._port = int((meeting or "").rpartition(":")[2] or 0)
        self._said, self._saying = Said(), threading.Lock()
        self._others = {other: Said() for other in range(count) if other != index}
        # In seconds that this process has run: one that was stopped for a while has missed nothing.
        self._clock = self._reached = 0.0
        self._heard = dict.fromkeys(self._others, 0.0)
        self._over, self._hurry = threading.Event(), threading.Event()
        self._ending = threading.Lock()
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        """Starts to speak and to listen."""
        self._wake = os.pipe()
        todo = [self._talk, self._judge] + ([self._watch_connection] if self._index and self._port else [])
        self._threads = [threading.Thread(target=each, daemon=True) for each in todo]
        for thread in self._threads:
            thread.start()

    # -- the end of this process ---------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Waits until all processes have come to their end, as this one has; nobody is watched any more then."""
        self._say(end=0)
        while not all(said.end is not None for said in self._others.values()):
            time.sleep(_TICK)
        self._over.set()
        os.write(self._wake[1], b".")
        for thread in self._threads:
            thread.join(_GRACE)

    def fail(self, code: int, why: str) -> None:
        """Tells the others that this process ends by an error."""
        self.alone = True
        self._say(end=code, alone=True, why=why)

    def leave(self, code: int) -> NoReturn:
        """Ends this process after `fail`; JAX would wait for the others."""
        if not self._index:  # the board goes with it
            self._give_time_to_read()
        os._exit(code)

    def await_verdict(self) -> None:
        """Ends this process if another one turns out to be gone. Returns, after the timeout, where all are there."""
        until = self._clock + self._timeout + 2 * self._pause
        while self._clock < until:
            time.sleep(_TICK)

    def _give_time_to_read(self, gone: int | None = None) -> None:
        """Returns when all processes but the one that is gone have come to their end, or after some seconds."""
        until = time.monotonic() + 2 * self._pause + _GRACE
        while time.monotonic() < until and not all(
            said.end is not None for other, said in self._others.items() if other != gone
        ):
            time.sleep(_TICK)

    def _say(self, **ending: Any) -> None:
        with self._saying:
            self._said = self._said._replace(beat=self._said.beat + 1, **ending)
            with suppress(Exception):  # of JAX's client; `_judge` finds out
                self._board.key_value_set(f"{_FOLDER}{self._index}", json.dumps(self._said), allow_overwrite=True)
        if ending:
            self._hurry.set()

    # -- threads -------------------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        while not self._over.is_set():
            self._say()
            with suppress(Exception):  # of JAX's client
                self._read()
                self._reached = self._clock
            if self._hurry.is_set():
                time.sleep(_TICK)
            else:
                self._hurry.wait(self._pause)

    def _read(self) -> None:
        for key, text in self._board.key_value_dir_get(_FOLDER):
            other, said = int(key.rpartition("/")[2]), Said(*json.loads(text))
            if other in self._others and said != self._others[other]:
                self._others[other] = said
                self._heard[other] = self._clock

    def _judge(self) -> None:
        while not self._over.wait(_TICK):
            self._clock += _TICK
            alone = next((other for other, said in self._others.items() if said.alone), None)
            if alone is not None and not self.alone:
                self._over.wait(_GRACE)
                if not self.alone:
                    self._end_with(alone)
            if self._clock - self._reached > self._timeout:
                self._end(0, f"has not been heard of for {self._timeout:g} s")
            for other, heard in self._heard.items():
                if self._others[other].end is None and self._reached - heard > self._timeout:
                    self._end(other, f"has not been heard of for {self._timeout:g} s")

    def _watch_connection(self) -> None:
        """Ends this process where process 0 has closed the connection, which JAX would do at once, with its stack."""
        connection = _connection_to(self._port)
        if connection is None:
            return
        events = select.poll()
        events.register(connection, select.POLLRDHUP)
        events.register(self._wake[0], select.POLLIN)
        found = events.poll()
        if not self._over.is_set() and all(file == connection for file, _ in found):
            if self._others[0].alone:
                self._end_with(0, keep=False)
            self._end(0, "has ended, or its connection is broken", keep=False)
        os.close(connection)

    def _end_with(self, other: int, keep: bool = True) -> NoReturn:
        """Ends this process because another one has ended by an error."""
        said = self._others[other]
        why = f": {said.why}" if said.why else ""
        self._end(other, f"has ended with exit code {said.end}{why}", said.end or ERROR, keep)

    def _end(self, other: int, what: str, code: int = ERROR, keep: bool = True) -> NoReturn:
        """Says what became of another process, and ends this one.

        Args:
            keep: also tell the others and the log of the run, which takes time.
        """
        self._ending.acquire()  # for good: one message is enough
        text = f"process {other} of {self._count} (counted from 0) {what}\nThis process ends too: {_GOES_ON}"
        with suppress(OSError):
            os.write(2, f"error: {text}\n".encode())
        if keep:
            writing = threading.Thread(target=self._keep, args=(text, code), daemon=True)
            writing.start()
            writing.join(_GRACE)  # disk or network may be what is wrong
            if not self._index:
                self._give_time_to_read(other)
        os._exit(code)

    def _keep(self, text: str, code: int) -> None:
        if log.handlers:
            log.error("%s", text)
        self._say(end=code)


def _connection_to(port: int) -> int | None:
    """A duplicate of the handle of this process's connection to that port; None where there is none (not Linux)."""
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                handle = os.dup(int(name))
                try:
                    with socket.socket(fileno=os.dup(handle)) as found:
                        if found.getpeername()[1] == port:
                            return handle
                except (OSError, IndexError, TypeError):  # a file, or another kind of socket
                    pass
                os.close(handle)
    return None


# -- the member that this process is -----------------------------------------------------------------------------------

_member: Member | None = None


def join(member: Member) -> None:
    """From now on this process is that member."""
    global _member
    _member = member
    member.begin()


@contextmanager
def ended_after(seconds: float, text: str) -> Iterator[None]:
    """Ends this process, with exit code 1 and a message, where the block takes longer."""

    def end() -> None:
        with suppress(OSError):
            os.write(2, f"error: {text}\n".encode())
        os._exit(ERROR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def membership() -> Iterator[None]:
    """The block may join a pod: then it ends as the others do, or tells them why it does not."""
    try:
        yield
    except BaseException as error:
        if _member is not None:
            _fail(_member, error)
        raise
    if _member is not None:
        _member.finish()


def _fail(member: Member, error: BaseException) -> None:
    by_jax = isinstance(error, RuntimeError) and not isinstance(error, UserError)
    if by_jax and not any(code in str(error) for code in _NOT_OF_OTHERS):
        member.await_verdict()
    if isinstance(error, KeyboardInterrupt):
        member.fail(INTERRUPTED, "interrupted")
    else:
        member.fail(getattr(error, "exit_code", ERROR), str(error) or type(error).__name__)


def ends_alone() -> bool:
    """Whether this process has told the others of a pod that it ends by an error of its own."""
    return _member is not None and _member.alone


def leave(code: int) -> None:
    """Ends a process that `ends_alone`; returns in any other."""
    if _member is not None and _member.alone:
        _member.leave(code)
