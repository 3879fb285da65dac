"""What a command writes into a folder besides run directories: logs, which grow, and reports, which are whole."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tessy_jax.storage.commits import ALONE
from tessy_jax.storage.paths import StorePath
from tessy_jax.storage.spool import Spool
from tessy_jax.storage.store import Store


@dataclass(frozen=True)
class Held:
    """A folder that this process holds.

    Attributes:
        path: where its files that grow are on this machine: the folder itself, unless that is on a store.
    """

    path: Path
    _spool: Spool | None = None

    def commit(self) -> None:
        """Stores what the files hold now. Raises StorageError where another process took the folder, or it fails."""
        if self._spool is not None:
            self._spool.commit()


@contextmanager
def hold(folder: Path, grown: Sequence[str]) -> Iterator[Held]:
    """Makes a folder, or finds one; on a store `grown` are its files that grow, as `storage.spool` keeps them.

    Raises:
        OSError: it cannot be made.
        StorageError: the store fails, or a process of this machine is at it.
    """
    if not isinstance(folder, StorePath):
        folder.mkdir(parents=True, exist_ok=True)
        yield Held(folder)
        return
    spool = Spool.open(folder, ALONE)
    try:
        for name in grown:
            (spool.folder / name).parent.mkdir(parents=True, exist_ok=True)
        spool.take(list(dict.fromkeys((*grown, *spool.growing))), (), anew=False, first=True)
        yield Held(spool.folder, spool)
    except BaseException as error:
        spool.end(error)
        raise
    spool.end(None)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file, and makes its folder, or an object, in place of what is there.

    Raises:
        OSError, StorageError: it cannot be written.
    """
    if isinstance(path, StorePath):
        Store(path).write("", data)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def check_writable(folder: Path) -> None:
    """Raises StorageError where nothing can be written to a store; a folder of this machine is not tried."""
    if isinstance(folder, StorePath):
        Store.open(folder).try_writing()


def upload_pages(written: Path, folder: StorePath, *replaced: str) -> None:
    """Stores the files of a folder of this machine, each as a whole object: those in folders of it first.

    Args:
        replaced: folders of which nothing else stays.
    """
    files = {file.relative_to(written).as_posix(): file for file in sorted(written.rglob("*")) if file.is_file()}
    store = Store(folder)
    store.upload({name: file for name, file in files.items() if "/" in name})
    for inner in replaced:
        store.delete(name for name in store.list(inner) if name not in files)
    store.upload({name: file for name, file in files.items() if "/" not in name})
