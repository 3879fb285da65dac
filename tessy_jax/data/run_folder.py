"""What every run directory has: a manifest that says which run it is, one process at a time, and errors in words."""

import errno
import fcntl
import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tessy_jax.data.jsonl import replace_file
from tessy_jax.data.records import dump_line
from tessy_jax.errors import UserError

logger = logging.getLogger(__name__)

_HIDDEN = re.compile(r"\.lock-\d{5}-of-\d{5}|\.(?:manifest\.json|config\.yaml)\.\w+\.tmp")
_ABSENT = "absent"


class RunDirError(UserError, RuntimeError):
    """The run directory cannot be used or written; the message says what to do and is meant for the user."""


@contextmanager
def explained(path: Path, safe: int | None = None) -> Iterator[None]:
    """Turns failures of the file system into words for the user."""
    try:
        yield
    except OSError as error:
        records = "" if safe is None else f"{safe} records are safe; "
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            again = "free space and run the same command again"
            raise RunDirError(f"disk full while writing {path}; {records}{again}") from error
        advice = f"{records}repair this and run the same command again, or use another --output"
        raise RunDirError(f"cannot write {error.filename or path}: {error.strerror or error}; {advice}") from error


def write_manifest(path: Path, kind: str, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest of a run of this kind: what the commands that resume it compare themselves with."""
    content = json.loads(dump_line({"format": kind} | dict(manifest)))
    replace_file(path / "manifest.json", json.dumps(content, indent=2) + "\n")


def stored_manifest(path: Path, kind: str) -> dict[str, Any] | None:
    """The manifest of the run of this kind in a directory, None for an empty one; refuses to touch any other.

    Another process may begin the same run meanwhile. It writes the manifest first: what is listed before the manifest
    is looked for belongs to a run only if the manifest is found.
    """
    foreign = sorted(file.name for file in path.iterdir() if not _HIDDEN.fullmatch(file.name))
    try:
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))
        if isinstance(manifest, dict) and manifest.get("format") == kind:
            return manifest
    except (FileNotFoundError, ValueError):
        pass
    if not foreign:
        return None
    raise RunDirError(
        f"{path} is not empty and holds no run (it has {', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}): "
        "use another --output"
    )


def compare(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises RunDirError where the identities of two manifests differ, with every difference."""
    ours = dict(_flatten(json.loads(dump_line(wanted["identity"]))))
    theirs = dict(_flatten(stored.get("identity", {})))
    lines = [
        f"  {key}: {theirs.get(key, _ABSENT)} there, {ours.get(key, _ABSENT)} now"
        for key in sorted(ours.keys() | theirs.keys())
        if theirs.get(key, _ABSENT) != ours.get(key, _ABSENT)
    ]
    if lines:
        differences = "\n".join(lines)
        raise RunDirError(f"{path} holds a different run:\n{differences}\nuse --overwrite or another --output")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(value, ensure_ascii=False)


def take_lock(path: Path, shard: tuple[int, int]) -> int:
    """Locks this process's shard; the system lets go of the lock when the process ends, however it ends."""
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
