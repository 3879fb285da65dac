"""Copies on this machine of what commands read from a store: made once for each state of it, and kept in the caches.

A run directory comes as it would stand on a disk, put together from its commits.
"""

import hashlib
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from tessy_jax.storage.commits import COMMIT, PIECE_NAME, WHOLE, newest_commits, restore, runs_among
from tessy_jax.storage.paths import StorageError, StorePath, as_path, is_inside, within
from tessy_jax.storage.places import user_caches
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
    return _copied(path, "copies" if far is None else "models", far) if isinstance(path, StorePath) else path


def local_runs(path: Path) -> Path:
    """The same of a folder of run directories, of which other objects stay where they are: reports, exports.

    Where none has commits, as when all was copied there from a disk, it is the whole folder.
    """
    if not isinstance(path, StorePath) or not runs_among(Store.open(path).list()):
        return local(path)
    return _copied(path, "run-directories", lambda *_: True)


def run_files(path: Path) -> Path:
    """The same of one run directory; empty where nothing is at the path."""
    if isinstance(path, StorePath) and (listed := Store.open(path).list()) and not runs_among(listed):
        return local(path)
    return own_files(path)


def own_files(path: Path, *objects: str) -> Path:
    """The same of one run directory without those inside it, and of `objects` that are there.

    Empty where nothing is at the path.
    """
    if not isinstance(path, StorePath):
        return path
    store = Store.open(path)
    wanted = {*WHOLE, *objects}
    listed = {name: entry for name, entry in store.list().items() if COMMIT.fullmatch(name) or name in wanted}

    def fill(folder: Path) -> None:
        restore(store, newest_commits(store).values(), folder)
        for name in objects:
            if name in listed:
                _download(store, name, folder)

    return _made(path, "own-files", listed, fill)


def state(name: str) -> str:
    """A text that changes with what is at a URL, of which only a list is read. Raises as `local` does."""
    path = as_path(name)
    assert isinstance(path, StorePath)
    return _fingerprint(path, _listed(path)[1])


def is_there(path: StorePath) -> bool:
    """Whether an object or a folder is at a path. Raises StorageError where the store fails."""
    return bool(Store(path).top())


def found_in(folder: StorePath, name: str) -> str | None:
    """The URL of what a relative name means in a folder; None where nothing is there."""
    path = within(folder, name)
    return str(path) if path is not None and is_there(path) else None


def read_file(path: Path) -> bytes:
    """The bytes of a file or object. Raises OSError, as where it is not there, and StorageError where a store fails."""
    data = Store.open(path).read("") if isinstance(path, StorePath) else path.read_bytes()
    if data is None:
        raise FileNotFoundError(str(path))
    return data


def _copied(path: StorePath, kind: str, far: Far | None) -> Path:
    store, listed = _listed(path)
    return _made(path, kind, listed, lambda folder: _copy(store, listed, folder, far))


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


def _made(path: StorePath, kind: str, listed: Mapping[str, Object], fill: Callable[[Path], None]) -> Path:
    """The copy of this state; where there is none yet, `fill` makes it, all of it or nothing."""
    copy = user_caches() / kind / _fingerprint(path, listed) / path.name
    if not copy.exists():
        beside = copy.parent.with_name(f".{copy.parent.name}.{uuid.uuid4().hex}.tmp")
        try:
            beside.mkdir(mode=0o700, parents=True)
            if "" not in listed:
                (beside / path.name).mkdir()
            fill(beside / path.name)
            _rename(beside, copy.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return copy


def _copy(store: Store, listed: Mapping[str, Object], copy: Path, far: Far | None) -> None:
    if "" in listed:
        store.download("", str(copy))
        return
    runs = runs_among(listed)
    named: set[str] = set()
    for run in runs:  # and the stages in it, which are runs as well
        inner = Store(store.path / run)
        (copy / run).mkdir(parents=True, exist_ok=True)
        commits = newest_commits(inner).values()
        restore(inner, commits, copy / run)
        named.update(f"{run}/{piece}".lstrip("/") for commit in commits for piece in commit.pieces())
    for name, entry in listed.items():
        if name in named or (copy / name).exists() or any(_is_of_run(name, run) for run in runs):
            continue
        if far is None or not far(store, name, entry.size, _parent_made(copy / name)):
            _download(store, name, copy)


def _is_of_run(name: str, run: str) -> bool:
    """Whether an object is what `restore` reads of a run directory, or would read if a commit named it."""
    if run and not name.startswith(f"{run}/"):
        return False
    inner = name[len(run) + 1 :] if run else name
    return inner in WHOLE or bool(COMMIT.fullmatch(inner) or PIECE_NAME.fullmatch(inner))


def _download(store: Store, name: str, folder: Path) -> None:
    store.download(name, str(_parent_made(folder / name)))


def _parent_made(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _rename(beside: Path, folder: Path) -> None:
    try:
        beside.rename(folder)
    except OSError:
        if not folder.exists():  # else another process made the same copy meanwhile
            raise


def _fingerprint(path: StorePath, listed: Mapping[str, Object]) -> str:
    lines = (f"{name}\0{entry.size}\0{entry.version}\n" for name, entry in sorted(listed.items()))
    return hashlib.sha256("".join((f"{path}\n", *lines)).encode()).hexdigest()[:16]
