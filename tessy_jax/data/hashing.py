"""What a run was made from: hashes of its files, versions of its packages, devices."""

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("tessy-jax", "jax", "jaxlib", "flax", "transformers", "tokenizers", "safetensors", "numpy", "ml_dtypes")
_WEIGHTS = (".safetensors", ".gguf")
_TEXTS = (".json", ".jinja", ".model", ".txt")
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


def make_manifest(identity: Mapping[str, Any], devices: Sequence[str]) -> dict[str, Any]:
    """The manifest of a run.

    Args:
      identity: whatever the records depend on (hashes of models, templates and inputs, settings, code version); a run
        is resumed only where all of it is the same.
      devices: descriptions of the devices, for information.
    """
    return {
        "identity": dict(identity),
        "versions": versions(),
        "devices": list(devices),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hash_text(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a whole file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(path: Path) -> str:
    """A quick SHA-256 of a checkpoint folder, in hex.

    Covers the names of its weight and text files (configuration, tokenizer, templates), the text files entirely, and of
    each weight file the size and 16 evenly spaced pieces of 64 KiB, among them its header. So other weights of the same
    shapes are noticed, at the cost of reading about 1 MiB per file; a change of a few bytes far from the pieces is not.
    """
    total = hashlib.sha256()
    for file in sorted(path.iterdir()):
        suffix = file.suffix.lower()
        if suffix in _TEXTS:
            total.update(f"{file.name}\0{hash_file(file)}\0".encode())
        elif suffix in _WEIGHTS:
            total.update(f"{file.name}\0{_hash_pieces(file)}\0".encode())
    return total.hexdigest()


def _hash_pieces(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        for index in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
