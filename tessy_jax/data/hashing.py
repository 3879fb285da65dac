"""Hashes of the files that a run depends on: SHA-256, in hex."""

import hashlib
import os
from pathlib import Path

from tessy_jax.storage.far import SAMPLE, sampled

_WEIGHTS = (".safetensors", ".gguf")
_TEXTS = (".json", ".jinja", ".model", ".txt")


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
        for start in sampled(size):
            file.seek(start)
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()
