"""Where a training run lies: a directory of this machine, or one on a store with a folder here that stands for it."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from tessy_jax.data.run_folder import RunDirError, compare_identity, run_directory, stored_manifest
from tessy_jax.devices import processes
from tessy_jax.storage.files import FileSpool
from tessy_jax.storage.paths import StorageError, StorePath
from tessy_jax.storage.spool import work_folder
from tessy_jax.train.checkpoints import Checkpoints, DiskCheckpoints
from tessy_jax.train.stored_checkpoints import StoredCheckpoints

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunHome:
    """The directory of a run, held for this process.

    Attributes:
        path: its files on this machine.
        spool: puts them on the store; None: they lie where they are to be.
    """

    path: Path
    spool: FileSpool | None = None

    def checkpoints(self, keep: int, best: int) -> Checkpoints:
        """The checkpoints of the run: the newest `keep` and the `best` with the lowest held-out loss are kept."""
        if self.spool is None:
            return DiskCheckpoints(self.path / "checkpoints", keep, best)
        return StoredCheckpoints(self.spool, keep, best)

    def commit(self) -> None:
        """Stores the files as they are now; the first process does. Raises StorageError where the store fails."""
        if self.spool is not None and jax.process_index() == 0:
            with self.spool.lock:
                self.spool.commit_all()

    def model_sender(self, name: str) -> Callable[[Path], None] | None:
        """What takes the files of weights of a model, and puts them where they are to be; None: they are there."""
        if self.spool is None or jax.process_index() > 0:
            return None
        with self.spool.lock:
            return self.spool.sender(name)

    def bring(self, model: Path) -> None:
        """Brings a model of the run to this machine, where an empty folder stands for it."""
        if self.spool is not None:
            with self.spool.lock:
                self.spool.bring(model.relative_to(self.path).as_posix())


@contextmanager
def open_home(
    name: Path, kind: str, written: tuple[str, ...], config: str, identity: Mapping[str, Any], overwrite: bool
) -> Iterator[RunHome]:
    """Holds a run's directory for this process. See `run_directory`, which raises the same and takes the same.

    Raises:
        StorageError: the store fails.
    """
    if not isinstance(name, StorePath):
        with run_directory(name, kind, written, config, identity, overwrite):
            yield RunHome(name)
        return
    stored_manifest(name, kind)  # raises where it holds other files
    spool = FileSpool.open_for(name, _process(), empty=overwrite)
    try:
        with _named(spool), run_directory(spool.folder, kind, written, config, identity, overwrite, apart=True):
            home = RunHome(spool.folder, spool)
            if jax.process_index() == 0:
                spool.begin(lambda theirs: compare_identity(name, json.loads(theirs), {"identity": identity}))
            try:
                yield home
            except StorageError:
                raise
            except BaseException:
                _commit_what_there_is(home)
                raise
            home.commit()
            processes.barrier("run directory is stored")
    finally:
        _store_log(spool)
        spool.close()


def folder_here(name: Path) -> Path:
    """Where the files of a run are on this machine while it runs."""
    return work_folder(name, _process()) if isinstance(name, StorePath) else name


def _process() -> str:
    return f"{jax.process_index():05d}-of-{jax.process_count():05d}"


@contextmanager
def _named(spool: FileSpool) -> Iterator[None]:
    """Says the run's own name where the folder that stands for it cannot be used."""
    try:
        yield
    except RunDirError as error:
        raise type(error)(str(error).replace(str(spool.folder), str(spool.store.path))) from error


def _store_log(spool: FileSpool) -> None:
    """Stores the log of a process that commits nothing."""
    name = f"run-{_process()}.log"
    if jax.process_index() > 0 and (spool.folder / name).exists():
        try:
            spool.store.write(name, (spool.folder / name).read_bytes())
        except StorageError as error:
            logger.warning("%s is not stored: %s", name, error)


def _commit_what_there_is(home: RunHome) -> None:
    try:
        home.commit()
    except StorageError as error:
        logger.warning("what was written last is not stored: %s", error)
