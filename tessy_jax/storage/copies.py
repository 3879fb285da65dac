"""Copies on this machine of what commands read from a store: made once for each state of it, and kept in the caches.

A run directory comes as it would stand on a disk, put together from its commits.
"""

import hashlib
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from tessy_jax.storage.paths import StorageError, StorePath, as_path, is_inside
from tessy_jax.storage.places import user_caches
from tessy_jax.storage.spool import newest_commits, restore, runs_among
from tessy_jax.storage.store import Object, Store

Far = Callable[[Store, str, int, Path], bool]
"""What is done about an object of so many bytes in place of a whole copy: False where it is to be copied."""


def local(name: str | Path, far: Far | None = None) -> Path:
    """The file or folder itself where it is on this machine, a copy where it is on a store.

    Args:
        far: which objects are large, and stay there: `far.stand_in` stands for each.

    Raises:
        StorageError: there is no such thing, or the store fails.
    """
    path = as_path(name)
    if not isinstance(path, StorePath):
        return path
    store, listed = _listed(path)
    kind = "copies" if far is None else "models"
    copy = user_caches() / kind / _fingerprint(path, listed) / path.name
    if not copy.exists():
        beside = copy.parent.with_name(f".{copy.parent.name}.{uuid.uuid4().hex}.tmp")
        try:
            beside.mkdir(mode=0o700, parents=True)
            _copy(store, listed, beside / path.name, far)
            _rename(beside, copy.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return copy


def state(name: str) -> str:
    """A text that changes with what is at a URL, of which only a list is read. Raises as `local` does."""
    path = as_path(name)
    assert isinstance(path, StorePath)
    return _fingerprint(path, _listed(path)[1])


def _listed(path: StorePath) -> tuple[Store, dict[str, Object]]:
    """The store at a path, and its objects; a single one, which is at the path itself, has the name ""."""
    store = Store.open(path)
    found = store.list()
    if not found:
        raise StorageError(f"there is nothing at {path}: correct the name, or write it first")
    if outside := [name for name in found if name and not is_inside(name)]:
        raise StorageError(
            f"{path} has an object whose name leads out of a folder: {outside[0]!r}; rename or remove it"
        )
    return store, found


def _copy(store: Store, listed: Mapping[str, Object], copy: Path, far: Far | None) -> None:
    if "" in listed:
        store.download("", str(copy))
        return
    for run in (runs := runs_among(listed)):  # and the stages in it, which are runs as well
        inner = Store(store.path / run)
        (copy / run).mkdir(parents=True, exist_ok=True)
        restore(inner, newest_commits(inner).values(), copy / run)
    for name, entry in {} if runs else listed.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if far is None or not far(store, name, entry.size, copy / name):
            store.download(name, str(copy / name))


def _rename(beside: Path, folder: Path) -> None:
    try:
        beside.rename(folder)
    except OSError:
        if not folder.exists():  # else another process made the same copy meanwhile
            raise


def _fingerprint(path: StorePath, listed: Mapping[str, Object]) -> str:
    lines = (f"{name}\0{entry.size}\0{entry.version}\n" for name, entry in sorted(listed.items()))
    return hashlib.sha256("".join((f"{path}\n", *lines)).encode()).hexdigest()[:16]
