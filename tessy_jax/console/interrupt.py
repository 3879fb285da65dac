"""Ctrl-C and SIGTERM: a run saves where it is and leaves."""

import os
import signal
import threading

from rich.console import Console

from tessy_jax.console.messages import say
from tessy_jax.errors import INTERRUPTED


class Interrupt:
    """Ctrl-C and SIGTERM: the first asks the run to save where it is and leave, the second ends it at once.

    The signal is noticed through a pipe, because the main thread may be inside a long computation.
    """

    def __init__(self, console: Console, after: str):
        """`after` says what is finished first, for the message."""
        self.asked = False
        self._console = console
        self._after = after

    def __enter__(self) -> "Interrupt":
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
        self._fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        while number := os.read(self._read, 1):
            if number[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self.asked:
                os._exit(INTERRUPTED)
            self.asked = True
            say(self._console, f"stopping after {self._after}; once more to stop at once")
        os.close(self._read)

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._fd)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._write)
