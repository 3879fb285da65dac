"""Archives of tests: unpacked once, each into a folder of its own, with nothing beyond it."""

import shutil
import stat
import tempfile
import threading
import zipfile
from pathlib import Path, PurePosixPath

from tessy_jax.evals.tasks.rows import TaskError

MAX_BYTES, MAX_FILES = 16 << 30, 100_000
"""Of what an archive holds, unpacked."""


class Archives:
    """Unpacks archives when they are first asked for, into a temporary folder that goes when this object does.

    It needs as much room as what is asked for takes; TMPDIR says where. For threads.
    """

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="tessy_tests_")
        self._opened: dict[Path, Path] = {}
        self._lock = threading.Lock()

    def unpack(self, archive: Path) -> Path:
        """The folder with what the archive holds.

        Raises:
            TaskError: it cannot be read, or a name in it leads out of the folder.
        """
        with self._lock:
            if archive not in self._opened:
                folder = Path(self._root.name, str(len(self._opened)))  # never by a name from outside
                unpack(archive, folder)
                self._opened[archive] = folder
            return self._opened[archive]

    def with_testlib(self, checker: Path, testlib: str | None) -> Path:
        """The checker in a folder with testlib.h: its own, or a new one with copies of both.

        Raises:
            TaskError: there is no testlib.h.
        """
        if checker.with_name("testlib.h").is_file():
            return checker
        if testlib is None:
            raise TaskError(f"{checker.name} needs testlib.h beside it, or its path as testlib")
        folder = Path(tempfile.mkdtemp(dir=self._root.name))
        for file in checker.parent.glob("*.h"):
            shutil.copyfile(file, folder / file.name)
        try:
            shutil.copyfile(testlib, folder / "testlib.h")
        except OSError as error:
            raise TaskError(f"cannot read {testlib}: {error.strerror or error}") from None
        return Path(shutil.copyfile(checker, folder / checker.name))

    def close(self) -> None:
        self._root.cleanup()


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a ZIP file into a new folder.

    Raises:
        TaskError: it cannot be read, is larger than any benchmark's, or holds links or names that lead elsewhere.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            names = [_safe_name(archive, member) for member in members]
            if len(set(names)) < len(names):
                raise TaskError(f"{archive} holds a file twice")
            if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_BYTES:
                raise TaskError(f"{archive} holds more than {MAX_FILES:,} files or {MAX_BYTES >> 30} GiB")
            folder.mkdir(parents=True)
            for member, name in zip(members, names, strict=True):
                _extract(packed, member, folder / name)
    except OSError as error:
        raise TaskError(f"cannot unpack {archive}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise TaskError(f"cannot unpack {archive}: {error}") from None


def _safe_name(archive: Path, member: zipfile.ZipInfo) -> PurePosixPath:
    name = PurePosixPath(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename:
        raise TaskError(f"{archive} holds {member.filename!r}, which leads out of its folder: it is not unpacked")
    if kind not in (0, stat.S_IFREG):
        raise TaskError(f"{archive} holds {member.filename!r}, which is no plain file: it is not unpacked")
    return name


def _extract(packed: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with packed.open(member) as source, path.open("xb") as target:  # reads no more than the size that is declared
        shutil.copyfileobj(source, target)
