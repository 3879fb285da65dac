"""What a command says: on the console, and in the log file of its run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

log = logging.getLogger("tessy_jax")
"""What the package logs."""

_shown = logging.getLogger("tessy_jax.console")
"""What the console has shown already, which goes to the log file only."""
_shown.propagate = False


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


def visible(text: str) -> str:
    """Text that cannot command the terminal: the escape character shows as ␛."""
    return text.replace("\x1b", "␛")
