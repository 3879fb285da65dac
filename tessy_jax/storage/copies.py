"""Copies on this machine of what commands read from a store: made once for each state of it, and kept in the caches.

A run directory comes as it would stand on a disk, put together from its commits.
"""

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from tessy_jax.storage.paths import StorageError, StorePath, as_path
from tessy_jax.storage.places import user_caches
from tessy_jax.storage.spool import has_commits, newest_commits, restore
from tessy_jax.storage.store import Object, Store


def local(name: str | Path) -> Path:
    """The file or folder itself where it is on this machine, a copy where it is on a store.

    Raises:
        StorageError: there is no such thing, or the store fails.
    """
    path = as_path(name)
    if not isinstance(path, StorePath):
        return path
    store, listed = _listed(path)
    copy = user_caches() / "copies" / _fingerprint(path, listed) / path.name
    if not copy.exists():
        beside = copy.parent.with_name(f".{copy.parent.name}.{uuid.uuid4().hex}.tmp")
        try:
            beside.mkdir(mode=0o700, parents=True)
            _copy(store, listed, beside / path.name)
            _rename(beside, copy.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return copy


def _listed(path: StorePath) -> tuple[Store, dict[str, Object]]:
    """The store and the objects of a folder, or that of the folder around a single object, which is named ""."""
    store = Store.open(path)
    found = store.list()
    if not found:
        raise StorageError(f"there is nothing at {path}: correct the name, or write it first")
    return store, found


def _copy(store: Store, listed: Mapping[str, Object], copy: Path) -> None:
    if "" in listed:
        store.download("", str(copy))
    elif has_commits(listed):
        copy.mkdir()
        restore(store, newest_commits(store).values(), copy)
    else:
        for name in listed:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
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
