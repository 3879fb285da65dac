"""The directory of a training run: one run, held by one command at a time."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from tessy_jax.data.hashing import make_manifest
from tessy_jax.data.jsonl import replace_file
from tessy_jax.data.run_folder import RunDirError, compare, explained, stored_manifest, take_lock, write_manifest


@contextmanager
def run_directory(
    path: Path, kind: str, written: Sequence[str], config: str, identity: Mapping[str, Any], overwrite: bool
) -> Iterator[None]:
    """Creates the run directory or finds the run in it, and holds it for this process.

    Args:
      kind: format and version of the manifest.
      written: what such runs leave in it besides the manifest, as patterns; a new run removes that and nothing else.
      config: as YAML, stored beside the rest.
      identity: must be that of the run that is there, once it has a checkpoint.

    Raises:
      RunDirError: it is in use, cannot be written, is no run directory, or of a run with another identity.
    """
    manifest = make_manifest(identity, [f"{d.platform} {d.device_kind}" for d in jax.devices()])
    shard = jax.process_index(), jax.process_count()
    with explained(path):
        if path.exists() and not path.is_dir():
            raise RunDirError(f"{path} is a file, not a folder: use another --output")
        path.mkdir(parents=True, exist_ok=True)
        stored = stored_manifest(path, kind)
        lock = take_lock(path, shard)
        try:
            if stored is not None and not overwrite:
                try:
                    compare(path, stored, manifest)
                except RunDirError:
                    if any((path / "checkpoints").glob("[0-9]*")):
                        raise
                    overwrite = True  # it never came to a checkpoint: there is nothing to lose
            if shard[0] == 0:
                if overwrite or stored is None:
                    _clear(path, written)
                    write_manifest(path, kind, manifest)
                if not (path / "config.yaml").exists():
                    replace_file(path / "config.yaml", config)
            if shard[1] > 1:
                multihost_utils.sync_global_devices("run directory")
        except BaseException:
            os.close(lock)
            raise
    try:
        yield
    finally:
        os.close(lock)


def _clear(path: Path, written: Sequence[str]) -> None:
    for found in (found for pattern in written for found in path.glob(pattern)):
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()
