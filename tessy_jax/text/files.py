"""The small files of a checkpoint folder, read so that a damaged one is an error in words."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tessy_jax.errors import UserError

_LFS = b"version https://git-lfs"


@contextmanager
def without_collection() -> Iterator[None]:
    """Reads faster where a tokenizer's small objects are made: all stay, and each collection visits them all."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def read_text(path: Path, error: type[UserError]) -> str:
    """The text of a file. Raises `error` where it is a Git LFS pointer, cannot be opened or is no text."""
    refuse_lfs_pointer(path, error)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}).") from None
    except UnicodeDecodeError as reason:
        raise error(f"{path}: is not text in UTF-8 ({reason}). Download the file again.") from None


def read_json(path: Path, error: type[UserError]) -> dict[str, Any]:
    """The JSON object of a file. Raises `error` where there is none."""
    text = read_text(path, error)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: is not valid JSON ({reason}). Download the file again.") from None
    if not isinstance(value, dict):
        raise error(f"{path}: holds {type(value).__name__}, where a JSON object belongs. Download the file again.")
    return value


def refuse_lfs_pointer(path: Path, error: type[UserError]) -> None:
    """Raises `error` for what git leaves in a file's place where git-lfs is not installed."""
    try:
        with path.open("rb") as stream:
            begins = stream.read(len(_LFS))
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}).") from None
    if begins == _LFS:
        raise error(
            f"{path}: is a Git LFS pointer, not the file itself. Install git-lfs and run `git lfs pull` in its folder, "
            "or download the file."
        )
