"""stdout and stderr as they are: of any encoding, on a full disk, or with a reader who has left (`… | head -1`)."""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tessy_jax.errors import READER_LEFT, UserError


class OutputError(UserError):
    """What a command prints cannot be written."""


class ReaderLeft(OutputError):
    """Whoever read stdout or stderr has closed it, and wants no more; a message would be one more."""

    exit_code = READER_LEFT


def accept_any_character() -> None:
    """Characters that the encoding of stdout or stderr does not have are shown as ?, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def flush() -> None:
    """Writes what is printed so far. Raises OutputError where that fails; from then on the stream is discarded."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # or it was closed before the command began
            with _explained(stream):
                stream.flush()


def write(text: str) -> None:
    """Prints text on stdout. Raises OutputError as `flush` does."""
    if sys.stdout is not None:
        with _explained(sys.stdout):
            sys.stdout.write(text)
            sys.stdout.flush()


@contextmanager
def _explained(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _discard(stream)
        raise ReaderLeft from None
    except OSError as error:
        _discard(stream)
        raise OutputError(f"cannot write to {stream.name}: {error.strerror}") from None


def blame(error: OSError) -> None:
    """Raises OutputError where the error comes of what is printed, rather than of a file of the user's."""
    flush()
    for stream in (sys.stdout, sys.stderr) if isinstance(error, BrokenPipeError) else ():
        if stream is not None and _has_no_reader(stream):
            _discard(stream)
            raise ReaderLeft from None


def rich_lost_reader(error: SystemExit) -> bool:
    """Whether Rich ended the command because the reader has left; it says so with exit code 1 alone."""
    return isinstance(error.__context__, BrokenPipeError)


def _has_no_reader(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard(stream: TextIO) -> None:
    """Or Python would try once more at its end, and say in its own way that it cannot."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
