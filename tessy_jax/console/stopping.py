"""Ctrl-C and SIGTERM from a command's first moment to its last: one line and exit code 130, no traceback.

    starts     `leave_at_once`     while it imports there is nothing to save; see `tessy_jax/__init__.py`
    runs       `Stoppable`         KeyboardInterrupt, so that half-written files are removed; the second leaves at once
    writes     `interrupt.Interrupt`   a run saves where it is

This module imports nothing large: it must come first.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from tessy_jax.errors import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 2.0
"""Seconds that the main thread has to notice a signal, before the process ends without it."""


def leave_at_once() -> None:
    """From now on a signal ends the process. One that the parent process has switched off stays so (`nohup`)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(*_: object) -> None:
    # An exception would end in a traceback where an import is half done, and is lost in a destructor.
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


class Stoppable:
    """While a command runs, the first signal raises KeyboardInterrupt in the main thread, the second ends the process.

    Python would do no more than the first, for Ctrl-C alone. But the exception may come up as another one, where code
    of C++ has called Python; it is lost in a destructor; and it waits while the main thread compiles.

    Attributes:
        asked: whether a signal has come: then whatever ends the command is its consequence.
    """

    def __init__(self) -> None:
        self.asked = False
        self._running = False

    def __enter__(self) -> "Stoppable":
        self._process = os.getpid()
        self._before = {}
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        if not heard or threading.current_thread() is not threading.main_thread():
            return self  # in a thread, signals are the affair of the program that runs the command
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, self._stop) for number in heard}
        self._fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        threading.Thread(target=self._listen, daemon=True).start()
        self._running = True
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        if not self._before:
            return
        sys.unraisablehook = self._hook
        signal.set_wakeup_fd(self._fd)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._write)

    def end_process(self, code: int) -> None:
        """After a signal, ends the process without waiting for its threads, which may compile for a long time yet.

        Returns where no signal has come, or the process is not the command's alone.
        """
        if self.asked and _leave in self._before.values():
            os._exit(code)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.asked or os.getpid() != self._process:  # a second one; or a child, which has nothing to say
            os._exit(INTERRUPTED)
        if not self._running:
            _leave()
        self.asked = True
        raise KeyboardInterrupt

    def _listen(self) -> None:
        """Ends the process where the main thread does not notice a signal, because it is inside a long computation."""
        first = True
        while number := os.read(self._read, 1):
            if number[0] in self._before:
                time.sleep(_PATIENCE)
                if not (first and self.asked):
                    _leave()
                first = False
        os.close(self._read)

    def _unraisable(self, event: "sys.UnraisableHookArgs") -> None:
        if isinstance(event.exc_value, KeyboardInterrupt):
            _leave()
        self._hook(event)
