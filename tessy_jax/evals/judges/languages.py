"""The languages of programs: what runs them here, and which version of it."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tessy_jax.evals.sandbox import SandboxError
from tessy_jax.evals.targets import Language

PLACES = ("/usr/bin", "/usr/local/bin")
"""Where programs of a language are looked for: a sandbox shows nothing else of the system."""
NAMES: dict[Language, tuple[str, ...]] = {
    "python3": ("python3",),
    "pypy3": ("pypy3", "pypy3.11", "pypy3.10", "pypy3.9"),
    "cpp17": ("g++", "c++"),
}
INSTALL: dict[Language, str] = {
    "python3": "install it (apt-get install python3), or name the folder of an interpreter that any user may read",
    "pypy3": "install it (apt-get install pypy3), or declare that CPython runs these programs instead, "
    "which the report will say: slower programs fail then",
    "cpp17": "install it (apt-get install g++)",
}
STACK_MIB = 64
"""Of interpreted programs. Compiled ones may use all their memory as stack, as on Codeforces."""


@dataclass(frozen=True)
class Tool:
    """An interpreter or a compiler.

    Attributes:
        version: as it says itself.
        roots: folders outside /usr that a sandbox must show for it.
    """

    path: Path
    version: str
    roots: tuple[Path, ...] = ()


def find_tool(language: Language, folder: Path | None = None) -> Tool:
    """What runs programs of this language.

    Args:
        folder: of an interpreter, as its `bin` has it; None: the system's.

    Raises:
        SandboxError: there is none.
    """
    for name in NAMES[language]:
        for place in [str(folder / "bin")] if folder else PLACES:
            path = Path(place, name).resolve()
            if path.is_file():
                return Tool(path, _version(path), (folder.resolve(),) if folder else _roots(path))
    where = f"{folder}/bin" if folder else " and ".join(PLACES)
    raise SandboxError(f"there is no {NAMES[language][0]} in {where}: {INSTALL[language]}")


def _roots(path: Path) -> tuple[Path, ...]:
    local = Path("/usr/local")
    return (local,) if path.is_relative_to(local) else ()


def _version(path: Path) -> str:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, env={}).stdout
    pypy = re.search(r"PyPy \S+", said)
    return f"{said.splitlines()[0]}{f' ({pypy[0]})' if pypy else ''}"
