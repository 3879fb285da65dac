"""A folder whose files are replaced as a whole, kept on a store: the run directory of a training.

    journal/commit-00000-of-00001.00000007.json      names all of the following; see `spool`
    files/00000007-3fa2c1d0/metrics.jsonl            a file as it was at that commit
    checkpoints/00000120-3fa2c1d0/...                written by all processes, see `train.stored_checkpoints`
    export/config.json ...                           a model: under names by which any program reads it

Objects are created and never changed, but for those of a model. There config.json comes last and goes first, and while
the model is replaced no commit names it: a part of one is never taken for it.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from tessy_jax.storage.commits import ALONE, WHOLE, Stored, fetch
from tessy_jax.storage.paths import StorePath
from tessy_jax.storage.places import user_caches
from tessy_jax.storage.spool import Spool
from tessy_jax.storage.store import Store

MODELS = ("export", "exports/*")
"""Folders of models, as patterns."""

CONFIG = "config.json"

_KEPT_HERE = ("files/", "checkpoints/", "export/", "exports/")
_READ_AT_ONCE = 32 << 20
"""Bytes of a file that may grow while it is stored: of what was read, the size is known."""


class FileSpool(Spool):
    """The folder of this machine in which a process works on the run directory of a training.

    All processes of a run have such a folder; the first one commits. A checkpoint, or a model, of a commit is not
    brought to this machine: an empty folder stands for it, and who removes the folder removes it.
    """

    @classmethod
    def open_for(cls, path: StorePath, process: str, *, empty: bool = False) -> Self:
        """As `open`: `process` is this process and their number, "00001-of-00002"."""
        spool = cls.open(path, ALONE, empty=empty, process=process)
        spool._stored = {name: _mark(spool.folder / name) for name in spool.files if (spool.folder / name).exists()}
        spool._sent = {}
        spool.lock = threading.RLock()
        return spool

    lock: threading.RLock
    """Who commits holds it: checkpoints are written in the background."""

    _stored: dict[str, tuple[int, int]]
    """When the files that are on the store were changed last, and their sizes."""
    _sent: dict[str, Stored]
    """Files of models that are on the store, and whose other files are not yet."""

    def begin(self, compare: Callable[[str], None]) -> None:
        """Makes the run this process's: stores that it has begun, without what was removed of an earlier run.

        Args:
            compare: takes the manifest of another process that began a run here meanwhile; may raise.

        Raises:
            StorageError: another process took it meanwhile, or the store fails.
        """
        self._drop()
        began = self._began["manifest.json"] is not None
        theirs = None if began else self.publish("manifest.json")  # before there is anything else
        if theirs is not None:
            compare(theirs)
        self.take((), (), anew=False, first=True)
        self.publish("manifest.json")
        self.publish("config.yaml")
        named = self._last.pieces()
        self.store.delete(n for n in self.store.list() if n.startswith(_KEPT_HERE) and n not in named)

    def commit_all(self) -> None:
        """Stores the folder as it is: files that were changed, and models that are new. Raises what `commit` raises."""
        self._drop()
        at = f"files/{self._last.number + 1:08d}-{self._writer[:8]}"
        for file in self._files_here():
            name = file.relative_to(self.folder).as_posix()
            if (mark := _mark(file)) != self._stored.get(name) or name not in self.files:
                self.files[name] = Stored(f"{at}/{name}", self._put(file, f"{at}/{name}"))
                self._stored[name] = mark
        models = [folder for folder in self._models() if (folder / CONFIG).exists()]
        for folder in models:
            self._withdraw(self._name(folder))
            self.far |= publish(self.store, folder, self._name(folder), last=CONFIG, sent=self._sent)
            shutil.rmtree(folder)
            folder.mkdir()  # stands for it
        self._sent = {}
        self.commit()

    def sender(self, model: str) -> Callable[[Path], None]:
        """What puts a file of a model on the store at once and takes it away here, so that the disk need not hold all.

        The model that was there is none from now on; the new one is when its other files are there too: `commit_all`.
        """
        self._drop()
        self._withdraw(model)
        self.store.delete(sorted(self.store.list(model), key=lambda name: not name.endswith(f"/{CONFIG}")))

        def send(file: Path) -> None:
            name = f"{model}/{file.name}"
            self._sent[name] = Stored(name, file.stat().st_size)
            self.store.upload({name: file})
            file.unlink()

        return send

    def bring(self, name: str) -> None:
        """Brings a model of the last commit to this machine, where an empty folder stands for it."""
        folder = self.folder / name
        if not any(folder.iterdir()):
            for file, stored in self.far.items():
                if file.startswith(f"{name}/"):
                    fetch(self.store, stored, self.folder / file)
            self._forget(name)  # it is published again, as it is then

    def _drop(self) -> None:
        """Forgets what was removed here since the last commit."""
        self.files = {name: stored for name, stored in self.files.items() if (self.folder / name).exists()}
        self.far = {name: stored for name, stored in self.far.items() if (self.folder / name).parent.is_dir()}

    def _withdraw(self, model: str) -> None:
        """Sees to it that no commit names a model while it is replaced."""
        if any(name.startswith(f"{model}/") for name in self._last.far):
            self._forget(model)
            self.commit()

    def _forget(self, model: str) -> None:
        self.far = {name: stored for name, stored in self.far.items() if not name.startswith(f"{model}/")}

    def _files_here(self) -> Iterator[Path]:
        models = self._models()
        for file in sorted(self.folder.rglob("*")):
            inside = file.relative_to(self.folder)
            if any(part.startswith(".") for part in inside.parts) or not file.is_file() or str(inside) in WHOLE:
                continue
            if not any(file.is_relative_to(folder) for folder in models):
                yield file

    def _models(self) -> list[Path]:
        found = [folder for pattern in MODELS for folder in self.folder.glob(pattern)]
        return sorted(folder for folder in found if folder.is_dir() and not folder.name.startswith("."))

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.folder).as_posix()

    def _put(self, file: Path, name: str) -> int:
        if file.stat().st_size > _READ_AT_ONCE:
            self.store.upload({name: file})
            return file.stat().st_size
        self.store.write(name, data := file.read_bytes())
        return len(data)


@contextmanager
def result_folder(path: Path, last: str) -> Iterator[Path]:
    """A folder to write results into: the path itself, or one of this machine whose files are put there at the end.

    Args:
        last: see `publish`.

    Raises:
        OSError: the folder cannot be made.
        StorageError: the store cannot be written: at the beginning, or at the end.
    """
    if not isinstance(path, StorePath):
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    store = Store.open(path)
    store.try_writing()
    (parent := user_caches() / "runs").mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)
        publish(store, Path(folder), "", last=last)


def publish(
    store: Store, folder: Path, name: str, *, last: str, sent: Mapping[str, Stored] | None = None
) -> dict[str, Stored]:
    """Puts the files of a folder on a store under their own names, in place of what was there; returns all of them.

    Args:
        name: of the folder on the store; "" is the store itself.
        last: the file without which the others are none: it goes first, and comes last.
        sent: files that are on the store already.
    """
    at = f"{name}/" if name else ""
    files = {f"{at}{file.relative_to(folder).as_posix()}": file for file in folder.rglob("*") if file.is_file()}
    before = {one: stored for one, stored in (sent or {}).items() if one.startswith(at)}
    there = store.list(name)
    ending = f"{at}{last}"
    store.delete([ending] if ending in there else [])
    store.delete(sorted(there.keys() - files.keys() - before.keys() - {ending}) if name else [])
    for one in sorted(files, key=lambda one: one == ending):
        store.upload({one: files[one]})
    return before | {one: Stored(one, os.path.getsize(file)) for one, file in files.items()}


def _mark(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size
