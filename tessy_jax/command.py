"""Manners that the commands share: exit codes, overrides, messages, the log file, Ctrl-C."""

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tessy_jax.settings import ConfigError

DONE, ERROR, USAGE, REJECTS, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: done, error, bad usage, done with rejects, interrupted."""

log = logging.getLogger("tessy_jax")
_shown = logging.getLogger("tessy_jax.console")  # what the console has shown already goes to the log file only
_shown.propagate = False


def run(
    action: Callable[[Console], int],
    user_errors: tuple[type[Exception], ...],
    interrupted: str = "interrupted; the same command goes on from here",
) -> int:
    """Does what a command does and returns its exit code (design §6); an error of the user's ends in a message.

    Args:
      action: gets the console for messages, and returns the code where nothing goes wrong.
      user_errors: those whose text is meant for the user, besides ConfigError.
      interrupted: what Ctrl-C says outside of a loop; within one see `Stop`.
    """
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        return action(console)
    except ConfigError as error:
        return complain(console, error, USAGE)
    except user_errors as error:
        return complain(console, error, ERROR)
    except KeyboardInterrupt:
        say(console, interrupted)
        return INTERRUPTED


def overrides(options: argparse.Namespace, default: Path, names: tuple[str, ...]) -> list[str]:
    """All overrides, those of the named options last. `key=value` may stand where the configuration is left out, which
    is then `default`.
    """
    values = list(options.overrides)
    if "=" in str(options.config) and not options.config.exists():
        values.insert(0, str(options.config))
        options.config = default
    for name in names:
        if getattr(options, name) is not None:
            values.append(f"{name}={json.dumps(getattr(options, name))}")
    return values


def say(console: Console, message: str, style: str | None = None) -> None:
    """A message as it is: paths are not wrapped, brackets not taken for markup."""
    console.print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def tell(console: Console, message: str) -> None:
    """A message that is worth keeping: it goes to the log file too."""
    say(console, message)
    _shown.info("%s", message)


def complain(console: Console, error: Exception, code: int) -> int:
    """Says what went wrong; returns the exit code."""
    say(console, f"error: {error}", "red")
    return code


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """The package's log goes to a file as well, and so does the error that ends it."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for logger in (log, _shown):
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        _shown.error("%s", error)
        raise
    finally:
        for logger in (log, _shown):
            logger.removeHandler(handler)
        handler.close()


class Stop:
    """Ctrl-C and SIGTERM: the first asks the run to save where it is and leave, the second ends it at once.

    The signal is noticed through a pipe, because the main thread may be inside a long computation.
    """

    def __init__(self, console: Console, after: str):
        """`after` says what is finished first, for the message."""
        self.asked = False
        self._console = console
        self._after = after

    def __enter__(self) -> "Stop":
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
