"""Names of things on a store, which no code can take for local files by mistake."""

import posixpath
import re
from pathlib import Path, PosixPath
from typing import Any

from tessy_jax.errors import UserError

SCHEMES = ("s3", "gs", "memory")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)


class StorageError(UserError, RuntimeError):
    """A store cannot be reached, read or written; the text says what to do."""


class StorePath(PosixPath):
    """A place on a store, `s3://bucket/run`: a path of which `/`, `name` and `parent` work, and nothing else does.

    Whatever would open it as a local file raises StorageError, so that no folder called `s3:` comes about.
    """

    def __str__(self) -> str:
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}"

    def __fspath__(self) -> str:
        raise StorageError(f"{self} is on a store, where only local files work yet: copy it to a local folder")

    def iterdir(self) -> Any:
        self.__fspath__()

    def glob(self, *_: Any, **__: Any) -> Any:
        self.__fspath__()

    def rglob(self, *_: Any, **__: Any) -> Any:
        self.__fspath__()


def is_url(name: object) -> bool:
    """Whether a name has the form of a URL, of any scheme: `s3://bucket/run`, not `runs/traces`."""
    return isinstance(name, StorePath) or (isinstance(name, str) and _URL.fullmatch(name) is not None)


def is_stored(name: object) -> bool:
    """Whether a name is the URL of a store that is known here; `http://…` is none."""
    return is_url(name) and str(name).lower().startswith(tuple(f"{scheme}:/" for scheme in SCHEMES))


def is_inside(name: str) -> bool:
    """Whether an object's name, as a path in a folder, stays in it. A store holds names such as `../../.bashrc` too."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")


def within(folder: StorePath, name: str) -> StorePath | None:
    """The place that a relative name has in a folder, `../a` included; None where it leads out of the bucket."""
    scheme, bucket, *inner = folder.parts
    key = posixpath.normpath("/".join((*inner, name)))
    outside = name.startswith(("/", "~")) or key.startswith(("..", "/")) or key == "."
    return None if outside else StorePath(f"{scheme}/{bucket}/{key}")


def local_path(name: str) -> Path:
    """The path of an option that means a file or folder of this machine; raises StorageError for a URL."""
    if is_url(name):
        raise StorageError(f"{name}: this option takes no URL yet: copy it to a local folder (docs/pods.md)")
    return Path(name)


def as_path(name: str | Path) -> Path:
    """A StorePath where the name is a URL, else the path itself.

    Raises:
        StorageError: the URL is of another scheme, or names no bucket.
    """
    match = _URL.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return Path(name) if isinstance(name, str) else name
    scheme, rest = match[1].lower(), match[2].strip("/")
    if scheme not in SCHEMES:
        raise StorageError(f"{name}: there is no storage of this kind; known: {', '.join(f'{s}://' for s in SCHEMES)}")
    if not rest:
        raise StorageError(f"{name} names no bucket: write {scheme}://bucket/folder")
    return StorePath(f"{scheme}:/{rest}")
