"""Checkpoints of a run on a store: its arrays as objects that all processes write, and one commit that names them.

    checkpoints/00000120-3fa2c1d0/00000-of-00002.0000.bin ...     see `stored_arrays`
    checkpoints/120/checkpoint.json                               a file of the run: the position in the data, the loss

Every process writes what its own devices hold. The first one waits until the lists of all are there, for there is no
other way to hear of them in the background, and commits the checkpoint together with the run's other files. What no
commit names is no checkpoint. Orbax, which writes those of a disk, can do this on none of the stores but Google's.
"""

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from tessy_jax.data.jsonl import replace_file
from tessy_jax.devices import processes
from tessy_jax.storage.commits import ALONE, Stored, newest_commits
from tessy_jax.storage.files import FileSpool
from tessy_jax.storage.paths import StorageError
from tessy_jax.storage.store import Store
from tessy_jax.train import stored_arrays
from tessy_jax.train.checkpoints import Checkpoints, abstract, explained, kept
from tessy_jax.train.step import TrainState
from tessy_jax.train.stored_arrays import Kind, Listed, Part, StoredArrays

_FACTS = "checkpoint.json"
_PATIENCE = (0.05, 2.0)
"""Seconds between two looks for what another process writes: the first and the longest."""


class StoredCheckpoints(Checkpoints):
    """The checkpoints of one run. Use it in a `with` statement, as `DiskCheckpoints`."""

    def __init__(self, spool: FileSpool, keep: int = 1, best: int = 0):
        """Keeps the newest `keep` checkpoints, and the `best` ones with the lowest held-out loss."""
        self._spool, self._keep, self._best_kept = spool, keep, best
        self._session = f"{processes.everywhere(np.random.SeedSequence().generate_state(1))[0]:08x}"
        self._losses: dict[int, float | None] = {
            int(file.parent.name): json.loads(file.read_text("utf-8"))["held_out_loss"]
            for file in spool.folder.glob(f"checkpoints/*/{_FACTS}")
        }
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._abandoned = threading.Event()

    @property
    def steps(self) -> list[int]:
        return sorted(self._losses)

    @property
    def best(self) -> int | None:
        return next(iter(self._ranked()), None)

    def save(self, step: int, state: TrainState, data: Mapping[str, Any], held_out_loss: float | None) -> None:
        self.wait()
        arrays = _named(kept(state))
        parts = stored_arrays.own_parts(arrays)
        self._losses[step] = held_out_loss
        gone = self._superfluous()
        facts = {"step": step, "held_out_loss": held_out_loss, "data": dict(data)}
        self._writing = self._writer.submit(self._write, facts, stored_arrays.kinds_of(arrays), parts, gone)
        if jax.default_backend() == "cpu":
            self.wait()

    def check(self) -> None:
        if self._writing is not None and self._writing.done():
            self.wait()

    def restore(self, step: int, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        self.wait()
        processes.barrier("checkpoint")  # the first process has committed what is there
        store = self._spool.store
        with explained(f"cannot read the checkpoint of step {step} in {store.path}", "use --overwrite to begin anew"):
            commit = newest_commits(store)[ALONE]
            facts = json.loads(store.read(commit.files[f"checkpoints/{step}/{_FACTS}"].object) or b"")
            objects = [one.object for name, one in commit.far.items() if name.startswith(f"checkpoints/{step}/")]
            lists = sorted(name for name in objects if name.endswith(".json"))
            folder = Store(store.path / lists[0].rpartition("/")[0])
            names = [name.rpartition("/")[2].removesuffix(".json") for name in lists]
            read = zip(names, store.read_all(lists), strict=True)
            arrays = StoredArrays(folder, [Listed.from_json(name, text) for name, text in read])
            found = arrays.read(_named(jax.tree.map(abstract, kept(state))))
        values = jax.tree.unflatten(jax.tree.structure(kept(state)), list(found.values()))
        return TrainState(values["step"], values["params"], values["optimizer"], state.frozen), facts["data"]

    def wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            with explained(
                f"cannot write a checkpoint to {self._spool.store.path}", "earlier ones are as they were; run again"
            ):
                writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:  # the other processes may not write theirs any more
            self._abandoned.set()
        try:
            with _no_second(error):
                self.wait()
        finally:
            self._writer.shutdown()

    def _write(
        self, facts: Mapping[str, Any], kinds: Mapping[str, Kind], parts: Sequence[Part], gone: Sequence[int]
    ) -> None:
        """Writes this process's parts; the first process commits when all are there."""
        step, count = facts["step"], jax.process_count()
        at = f"checkpoints/{step:08d}-{self._session}"
        folder = Store(self._spool.store.path / at)
        stored_arrays.write(folder, _process(jax.process_index(), count), kinds, parts)
        if jax.process_index() != 0:
            return
        written: dict[str, Stored] = {}
        for index in range(count):
            text = self._await(folder, stored_arrays.list_name(name := _process(index, count)))
            objects = [(stored_arrays.list_name(name), len(text)), *Listed.from_json(name, text).objects()]
            written |= {f"checkpoints/{step}/{one}": Stored(f"{at}/{one}", size) for one, size in objects}
        here = self._spool.folder / "checkpoints"
        with self._spool.lock:  # the run may commit other files meanwhile
            (here / str(step)).mkdir(parents=True, exist_ok=True)
            replace_file(here / str(step) / _FACTS, json.dumps(facts))
            for old in gone:
                shutil.rmtree(here / str(old), ignore_errors=True)
            self._spool.far |= written
            self._spool.commit_all()

    def _await(self, folder: Store, name: str) -> bytes:
        """An object that another process writes."""
        pause, longest = _PATIENCE
        while (data := folder.read(name)) is None:
            if self._abandoned.wait(pause):
                raise StorageError(f"{folder.path / name} is not there: another process did not write its part")
            pause = min(2 * pause, longest)
        return data

    def _ranked(self) -> list[int]:
        """Steps with a held-out loss, the lowest first; of equal ones the later."""
        scored = [(loss, -step) for step, loss in self._losses.items() if loss is not None]
        return [-step for _, step in sorted(scored)]

    def _superfluous(self) -> list[int]:
        """Forgets the checkpoints that are not to be kept, and returns their steps."""
        keep = {*self.steps[-self._keep :], *self._ranked()[: self._best_kept]}
        gone = [step for step in self.steps if step not in keep]
        for step in gone:
            del self._losses[step]
        return gone


def _named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, in the tree's order."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _process(index: int, count: int) -> str:
    return f"{index:05d}-of-{count:05d}"


@contextmanager
def _no_second(first: BaseException | None) -> Iterator[None]:
    """Leaves out an error that comes of a first one, which is said."""
    try:
        yield
    except Exception:
        if first is None:
            raise
