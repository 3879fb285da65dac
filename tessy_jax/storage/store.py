"""Objects of a store: whole ones are written, read, listed and deleted; what fails is said in words.

An object is there entirely or not at all, whatever interrupts the writing. Failures that pass (refused, slow, 503) are
tried again by the libraries themselves, with a growing pause.
"""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from tessy_jax.storage.paths import StorageError, StorePath

ATTEMPTS = 20
"""Tries of one request, about three minutes; the variable AWS_MAX_ATTEMPTS says otherwise."""

_FIRST_ATTEMPTS = 3
"""Tries of the first request: an endpoint or a bucket that is wrong is said at once."""

_AT_ONCE = 32
"""Objects that are read, or written, at the same time."""


class Object(NamedTuple):
    """An object as it is listed. `version` changes with its content."""

    size: int
    version: str


@dataclass(frozen=True)
class Store:
    """A folder on a store; names of objects are relative to it."""

    path: StorePath

    @classmethod
    def open(cls, path: StorePath) -> "Store":
        """The store at a path, at which nothing but the bucket need be there.

        Raises:
            StorageError: a package is missing, the store is not reached, there is no such bucket, or no right to list.
        """
        store = cls(path)
        with store._explained("list"):
            try:
                _file_system(path.parts[0], _FIRST_ATTEMPTS).ls(store._place(""), detail=False)
            except FileNotFoundError as error:
                if "NoSuchBucket" in "".join(map(repr, _causes(error))):
                    raise
        return store

    def list(self, under: str = "") -> dict[str, Object]:
        """Every object below a folder, by name."""
        with self._explained("list", under):
            root = self._place("")
            found = self._files.find(self._place(under), detail=True)
            return {
                name.removeprefix(root).lstrip("/"): Object(int(info["size"] or 0), _version(info))
                for name, info in found.items()
            }

    def top(self) -> set[str]:
        """Names of what is directly in the folder, objects and folders."""
        with self._explained("list"):
            try:
                found = self._files.ls(self._place(""), detail=False)
            except FileNotFoundError:
                return set()
            return {str(name).rstrip("/").rpartition("/")[2] for name in found}

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        with self._explained("read", name):
            try:
                return bytes(self._files.cat_file(self._place(name)))
            except FileNotFoundError:
                return None

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes of an object from `start` on, fewer at its end."""
        if not size:
            return b""
        with self._explained("read", name):
            return bytes(self._files.cat_file(self._place(name), start=start, end=start + size))

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """The bytes of objects that are there, in order, some at the same time."""
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            with self._explained("read", some[0]):
                found = self._files.cat([self._place(name) for name in some])
            yield from (bytes(found[self._place(name)]) for name in some)

    def download(self, name: str, file: str) -> None:
        """Writes an object into a local file."""
        with self._explained("read", name):
            self._files.get_file(self._place(name), file)

    def try_writing(self) -> None:
        """Raises StorageError where nothing can be written, before much is computed for it."""
        name = f".writable-{uuid.uuid4().hex}"
        self.write(name, b"")
        self.delete([name])

    def write(self, name: str, data: bytes) -> None:
        """Writes an object, in place of one that is there."""
        with self._explained("write", name):
            self._files.pipe_file(self._place(name), data)

    def upload(self, files: Mapping[str, Path]) -> None:
        """Writes local files into objects, by name, some at the same time, in place of those that are there; never all
        of a file in memory.
        """
        names = list(files)
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            with self._explained("write", some[0]):
                self._files.put([str(files[name]) for name in some], [self._place(name) for name in some])

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object where none of its name is; returns False, and leaves it, where another was first."""
        with self._explained("write", name):
            try:
                self._files.pipe_file(self._place(name), data, mode="create")
            except FileExistsError:
                return self.read(name) == data  # ours, of an attempt whose answer was lost
        return True

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects, those that are there."""
        for name in names:
            with self._explained("delete", name), suppress(FileNotFoundError):
                self._files.rm_file(self._place(name))

    @property
    def _files(self) -> Any:
        return _file_system(self.path.parts[0], ATTEMPTS)

    def _place(self, name: str) -> str:
        """The name as fsspec's file system has it."""
        whole = "/".join((*self.path.parts[1:], *([name] if name else [])))
        return f"/{whole}" if self.path.parts[0] == "memory:" else whole

    @contextmanager
    def _explained(self, doing: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # of fsspec, of the store's client, of the network
            place = str(self.path / name) if name else str(self.path)
            if isinstance(error, FileNotFoundError) and doing == "read":
                raise StorageError(f"{place} is not there any more: run the same command again") from error
            raise StorageError(f"cannot {doing} {place}: {_why(error, self.path)}") from error


@cache
def _file_system(scheme: str, attempts: int) -> Any:
    """fsspec's file system of a scheme; raises StorageError where its package is missing."""
    options: dict[str, Any] = {}
    if scheme in ("s3:", "gs:"):
        options["use_listings_cache"] = False  # other processes write there too
    if scheme == "s3:":
        options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 60}
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            options["config_kwargs"]["retries"] = {"mode": "standard", "total_max_attempts": attempts}
    try:
        return fsspec.filesystem(scheme.rstrip(":"), **options)
    except ImportError as error:
        raise StorageError(
            f"{scheme}// needs packages that are not installed ({error}): pip install 'tessy-jax[storage]'"
        ) from error


def _version(info: dict[str, Any]) -> str:
    known = ("ETag", "etag", "generation", "created", "LastModified")
    return next((str(info[key]) for key in known if info.get(key)), "")


# -- what is wrong, in words -------------------------------------------------------------------------------------------

_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError")
_REFUSED_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
_NO_SPACE = ("InsufficientStorage", "QuotaExceeded", "No space left", "XMinioStorageFull")
_NOT_REACHED = ("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "FSTimeoutError")


def _why(error: BaseException, path: StorePath) -> str:
    """What is wrong, and what to do."""
    chain = list(_causes(error))
    names = {type(one).__name__ for one in chain}
    text = " ".join(" ".join(str(one) for one in chain).split())
    bucket = path.parts[1] if len(path.parts) > 1 else ""
    if names.intersection(_CREDENTIALS):
        known = (
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            if path.parts[0] == "s3:"
            else "GOOGLE_APPLICATION_CREDENTIALS, or log in with gcloud"
        )
        return f"there are no credentials: set {known}"
    if any(code in text for code in _REFUSED_KEYS):
        return f"the credentials are refused or have expired: renew them ({_short(error)})"
    if isinstance(error, PermissionError) or "AccessDenied" in text or "Forbidden" in text:
        return f"the credentials have no permission for this; grant it for the bucket '{bucket}' ({_short(error)})"
    if "NoSuchBucket" in text or isinstance(error, FileNotFoundError):
        return f"there is no bucket '{bucket}': create it, or correct the name"
    if any(code in text for code in _NO_SPACE):
        return "the store is out of space: free some and run the same command again"
    if names.intersection(_NOT_REACHED) or isinstance(error, ConnectionError | TimeoutError):
        return f"the store is not reached ({_short(error)}): look at the network and AWS_ENDPOINT_URL, and run again"
    return f"{_short(error)}; repair this and run the same command again"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
