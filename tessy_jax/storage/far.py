"""Large files that stay on the store: a file of this machine stands for each, empty but for what is looked at.

It has the size of the object, and takes no room on the disk; beside it `.NAME.far` says where the object is. What reads
numbers from it must ask `read` first, and gets them from the store.
"""

import json
from pathlib import Path

from tessy_jax.storage.paths import StorageError, StorePath, as_path
from tessy_jax.storage.store import Store

SAMPLE = 1 << 16
"""Bytes of each piece by which a large file is told from others."""

_SAMPLES = 16


def sampled(size: int) -> list[int]:
    """Where these pieces begin in a file of so many bytes."""
    return [max(0, size - SAMPLE) * index // (_SAMPLES - 1) for index in range(_SAMPLES)]


def stand_in(store: Store, name: str, size: int, file: Path, begin: int) -> None:
    """Makes the file that stands for an object, with its first `begin` bytes and the `sampled` pieces in it."""
    with file.open("wb") as opened:
        opened.truncate(size)
        for start, length in ((0, begin), *((start, SAMPLE) for start in sampled(size))):
            opened.seek(start)
            opened.write(store.read_range(name, start, min(length, size - start)))
    _note(file).write_text(json.dumps({"folder": str(store.path), "name": name}) + "\n", "utf-8")


def read(file: Path, start: int, size: int) -> bytes | None:
    """Bytes of the object that a file stands for; None where it stands for none, and has them itself.

    Raises:
        StorageError: the store fails, or the object is shorter now.
    """
    note = _note(file)
    if not note.exists():
        return None
    place = json.loads(note.read_text("utf-8"))
    folder = as_path(place["folder"])
    assert isinstance(folder, StorePath)
    data = Store(folder).read_range(place["name"], start, size)
    if len(data) != size:
        raise StorageError(f"{folder / place['name']} has changed: run the same command again")
    return data


def is_far(file: Path) -> bool:
    """Whether a file stands for an object."""
    return _note(file).exists()


def _note(file: Path) -> Path:
    return file.with_name(f".{file.name}.far")
