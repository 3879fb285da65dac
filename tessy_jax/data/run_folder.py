"""What every run directory has: a manifest that says which run it is, a lock, and errors in words.

    manifest.json  config.yaml  .lock-PPPPP-of-NNNNN

A directory is opened in one way, whatever the run writes: it is created or its manifest is read, process P of N takes
its lock, a run with another identity is refused, what is to be overwritten is removed, and the manifest and the
configuration are written. A directory that holds files and no manifest of this kind is never touched.
"""

import errno
import fcntl
import json
import logging
import os
import platform
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tessy_jax.data.jsonl import create_file, replace_file
from tessy_jax.data.records import dump_line
from tessy_jax.errors import UserError
from tessy_jax.storage.commits import newest_commits
from tessy_jax.storage.paths import StorePath
from tessy_jax.storage.store import Store

logger = logging.getLogger(__name__)

_PACKAGES = ("tessy-jax", "jax", "jaxlib", "flax", "transformers", "tokenizers", "safetensors", "numpy", "ml_dtypes")
_HIDDEN = re.compile(r"\.lock-\d{5}-of-\d{5}|\.(?:manifest\.json|config\.yaml)\.\w+\.tmp")
"""Files of ours that do not make a directory a run: locks, and a manifest or configuration that is being written."""

_ABSENT = "absent"


class RunDirError(UserError, RuntimeError):
    """The run directory cannot be used or written; the message says what to do and is meant for the user."""


class DifferentRunError(RunDirError):
    """The run in the directory is another one; nothing is wrong with it."""


@contextmanager
def explained(path: Path, safe: int | None = None) -> Iterator[None]:
    """Turns an OSError of the block into a RunDirError that says what to do.

    Args:
        path: what is being written, named where the error itself names no file.
        safe: number of records that are on the disk already, for the message; None: the run writes none.
    """
    try:
        yield
    except OSError as error:
        records = "" if safe is None else f"{safe} records are safe; "
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            again = "free space and run the same command again"
            raise RunDirError(f"disk full while writing {path}; {records}{again}") from error
        advice = f"{records}repair this and run the same command again, or use another --output"
        raise RunDirError(f"cannot write {error.filename or path}: {error.strerror or error}; {advice}") from error


def open_run_folder(
    path: Path,
    format: str,
    *,
    config_yaml: str,
    manifest: Mapping[str, Any],
    overwrite: bool,
    shard: tuple[int, int],
    barrier: Callable[[], None],
    clear: Callable[[bool], None],
    expendable: Callable[[], bool] = lambda: False,
) -> int:
    """Creates a run directory, or finds in it the run that is to go on; returns the lock, to be closed at the end.

    Args:
        format: kind and version of the run, the manifest's "format"; a directory of another one is refused.
        config_yaml: the resolved configuration, stored as `config.yaml` where a run begins.
        manifest: from `make_manifest`; its "identity" must equal that of the run that is there.
        overwrite: begin anew, whatever run is there.
        shard: index of this process and number of processes; the first one writes manifest and configuration, and
            so does any that finds none.
        barrier: returns when all processes have called it: none reads what another is still to remove.
        clear: removes what this process may remove of an earlier run, all of it (True: the run begins anew) or only
            what a crash left half written (False).
        expendable: whether the run that is there has nothing to lose, so that one with another identity replaces it.

    Raises:
        RunDirError: the directory is in use, is no run directory, or holds a run with another identity.
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise RunDirError(f"{path} is a file, not a folder: use another --output")
    path.mkdir(parents=True, exist_ok=True)
    stored = stored_manifest(path, format)
    lock = take_lock(path, shard)
    try:
        if stored is not None and not overwrite:
            try:
                compare_identity(path, stored, manifest)
            except DifferentRunError:
                if not expendable():
                    raise
                overwrite = True
        clear(overwrite)
        if shard[0] == 0 or stored is None:  # of shards that do not wait for each other, whichever comes first
            anew = overwrite or stored is None
            if overwrite:
                write_manifest(path, format, manifest)
            elif stored is None and not create_file(path / "manifest.json", _manifest_text(format, manifest)):
                compare_identity(path, stored_manifest(path, format) or {}, manifest)  # another began it meanwhile
                anew = False
            if anew or not (path / "config.yaml").exists():
                replace_file(path / "config.yaml", config_yaml)
        barrier()
    except BaseException:
        os.close(lock)
        raise
    return lock


@contextmanager
def run_directory(
    path: Path,
    kind: str,
    written: Sequence[str],
    config: str,
    identity: Mapping[str, Any],
    overwrite: bool,
    *,
    apart: bool = False,
) -> Iterator[None]:
    """Holds the directory of a training run for this process: creates it, or finds in it the run that is to go on.

    A run with another identity is refused once it has a checkpoint; before that there is nothing to lose, and it is
    overwritten.

    Args:
        kind: format and version of the manifest.
        written: what such runs leave in the directory besides the manifest, as patterns; a run that begins anew
            removes that and nothing else.
        config: as YAML, stored beside the rest.
        identity: what the trained weights depend on.
        overwrite: begin anew, whatever run is there.
        apart: each process has such a directory of its own.

    Raises:
        RunDirError: the directory is in use, cannot be written, is no run directory, or holds a run with another
            identity.
    """
    import jax  # here, because what reads and writes rows does without it

    from tessy_jax.devices import processes

    shard = jax.process_index(), jax.process_count()

    def clear(everything: bool) -> None:
        if everything and (apart or shard[0] == 0):
            _remove(path, written)

    with explained(path):
        lock = open_run_folder(
            path,
            kind,
            config_yaml=config,
            manifest=make_manifest(identity, [f"{d.platform} {d.device_kind}" for d in jax.devices()]),
            overwrite=overwrite,
            shard=shard,
            barrier=lambda: processes.barrier("run directory"),
            clear=clear,
            expendable=lambda: not has_checkpoints(path),
        )
    try:
        yield
    finally:
        os.close(lock)


def has_checkpoints(path: Path) -> bool:
    """Whether the training run in a directory, here or on a store, has something to lose."""
    if isinstance(path, StorePath):
        commits = newest_commits(Store.open(path)).values()
        return any(name.startswith("checkpoints/") for commit in commits for name in commit.files)
    return any((path / "checkpoints").glob("[0-9]*"))


def _remove(path: Path, patterns: Sequence[str]) -> None:
    for found in (found for pattern in patterns for found in path.glob(pattern)):
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()


# -- the manifest ------------------------------------------------------------------------------------------------------


def make_manifest(identity: Mapping[str, Any], devices: Sequence[str]) -> dict[str, Any]:
    """The manifest of a run that begins now.

    Settings of JAX that results depend on have no key here: every command sets them to one value
    (devices/jax_settings.py), so that two runs cannot differ in them.

    Args:
        identity: whatever the results depend on (hashes of models, templates and inputs, settings); a run is resumed
            only where all of it is the same.
        devices: descriptions of the devices, for information.
    """
    return {
        "identity": dict(identity),
        "versions": versions(),
        "devices": list(devices),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on, for information."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_manifest(path: Path, format: str, manifest: Mapping[str, Any]) -> None:
    """Writes `manifest.json`: what the commands that resume the run compare themselves with."""
    replace_file(path / "manifest.json", _manifest_text(format, manifest))


def _manifest_text(format: str, manifest: Mapping[str, Any]) -> str:
    content = json.loads(dump_line({"format": format} | dict(manifest)))
    return json.dumps(content, indent=2) + "\n"


def stored_manifest(path: Path, format: str) -> dict[str, Any] | None:
    """The manifest of the run in a directory; None where the directory is empty or is not there.

    Another process may begin the same run meanwhile. It writes the manifest before all else, and here the files are
    listed before the manifest is read: so files that were listed without a manifest being found are not of a run.

    Raises:
        RunDirError: the directory holds files, and no manifest of this format.
    """
    names, text = _listed(path)
    foreign = sorted(name for name in names if not _HIDDEN.fullmatch(name))
    try:
        manifest = json.loads(text)
        if isinstance(manifest, dict) and manifest.get("format") == format:
            return manifest
    except ValueError:
        pass
    if not foreign:
        return None
    raise RunDirError(
        f"{path} is not empty and holds no run (it has {', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}): "
        "use another --output"
    )


def _listed(path: Path) -> tuple[list[str], str]:
    """What is in a directory, and the text of its manifest; empty where there is none."""
    if isinstance(path, StorePath):
        store = Store.open(path)
        return sorted(store.top()), (store.read("manifest.json") or b"").decode("utf-8", "replace")
    if not path.is_dir():
        return [], ""
    names = [file.name for file in path.iterdir()]
    try:
        return names, (path / "manifest.json").read_text("utf-8")
    except FileNotFoundError:
        return names, ""
    except UnicodeDecodeError:
        return names, "damaged"


def numbered(rules: int) -> dict[str, int]:
    """Rules as a key of an identity: what results depend on and no other key says. The first have none."""
    return {"rules": rules} if rules > 1 else {}


def rules_of(path: Path, format: str) -> int | None:
    """The number of the rules that the run in a directory follows; None where there is no run.

    Raises:
        RunDirError: as for `stored_manifest`.
    """
    stored = stored_manifest(path.expanduser(), format)
    return None if stored is None else stored.get("identity", {}).get("rules", 1)


def compare_identity(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises DifferentRunError, which names every difference, where the identities of two manifests differ."""
    if lines := differences(stored, wanted):
        told = "\n".join(lines)
        raise DifferentRunError(f"{path} holds a different run:\n{told}\nuse --overwrite or another --output")


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], here: str = "now") -> list[str]:
    """Where the identities of two manifests differ, a line for each key; `here` says where `wanted` is."""
    ours = dict(_flatten(json.loads(dump_line(wanted["identity"]))))
    theirs = dict(_flatten(stored.get("identity", {})))
    return [
        f"  {key}: {theirs.get(key, _ABSENT)} there, {ours.get(key, _ABSENT)} {here}"
        for key in sorted(ours.keys() | theirs.keys())
        if theirs.get(key, _ABSENT) != ours.get(key, _ABSENT)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(value, ensure_ascii=False)


# -- the lock ----------------------------------------------------------------------------------------------------------


def take_lock(path: Path, shard: tuple[int, int]) -> int:
    """Locks this process's part of the directory; closing what is returned, or the end of the process, lets go of it.

    Args:
        shard: index of this process and number of processes. A run with another number of processes excludes this one.

    Raises:
        RunDirError: another process has the lock.
    """
    handle = _lock(path / ".lock-{:05d}-of-{:05d}".format(*shard), fcntl.LOCK_EX)
    try:
        for other in path.glob(".lock-*"):
            if not other.name.endswith(f"-of-{shard[1]:05d}"):  # left by a run with another number of processes
                os.close(_lock(other, fcntl.LOCK_SH))
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except BaseException:
        os.close(handle)
        raise
    return handle


def _lock(path: Path, kind: int) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 200).decode(errors="replace") or "another process"
        os.close(handle)
        raise RunDirError(f"{path.parent} is in use by {owner}: wait for it, or use another --output") from None
    except OSError as error:  # a file system without locks
        logger.warning("cannot lock %s (%s): make sure that no other process writes there", path, error.strerror)
    return handle
