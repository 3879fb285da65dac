"""Folders of tests, as LightCPVerifier and DMOJ have them: what their files of settings say, and paths within them."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from tessy_jax.evals.tasks.rows import Row, TaskError

SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(ms|s)?")
_MEMORY = re.compile(r"([0-9]+) *([kmg])?b?", re.IGNORECASE)


def safe_name(place: str, name: str) -> str:
    """An id that may be a part of a path.

    Raises:
        TaskError: it may not.
    """
    if not SAFE_ID.fullmatch(name):
        raise TaskError(f"{place}: the id {name[:60]!r} cannot be the name of a file: letters, digits, . _ - only")
    return name


def inside(settings: Row, folder: Path, name: Any) -> Path:
    """The file of this name in a folder.

    Raises:
        TaskError: it leads out of the folder, or there is none.
    """
    if not isinstance(name, str) or not name:
        settings.fail(f"a file's name must be text, not {name!r}")
    relative = PurePosixPath(name)
    path = folder / relative
    if relative.is_absolute() or ".." in relative.parts or not path.resolve().is_relative_to(folder.resolve()):
        settings.fail(f"{name!r} leads out of the problem's folder")
    if not path.is_file():
        settings.fail(f"there is no file {name!r}")
    return path


def seconds(settings: Row, value: Any) -> float:
    """Of "1s", "500ms", 2."""
    found = _TIME.fullmatch(str(value).strip())
    if not found or not float(found[1]):
        settings.fail(f"a time limit must be like 1s or 500ms, not {value!r}")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def mebibytes(settings: Row, value: Any) -> int:
    """Of "256m", "1g"; a number alone is MiB."""
    found = _MEMORY.fullmatch(str(value).strip())
    if not found or not int(found[1]):
        settings.fail(f"a memory limit must be like 256m or 1g, not {value!r}")
    factor = {"k": 1 / 1024, "m": 1, "g": 1024}[(found[2] or "m").lower()]
    return max(1, round(int(found[1]) * factor))
