"""GGUF files: typed metadata and dequantised tensors, with errors that say what is wrong with the file."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tessy_jax.errors import UserError


class GGUFError(UserError, ValueError):
    """A GGUF file that cannot be converted; the message names the file and what to do."""


class GGUFFile:
    """One GGUF file, memory-mapped.

    Args:
        path: a `.gguf` file (format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

    Raises:
        GGUFError: the file is absent, is not GGUF, or ends before its last tensor.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise GGUFError(f"{path}: no such file")
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":
            raise GGUFError(f"{path}: not a GGUF file (it starts with {magic!r}, not b'GGUF')")
        try:
            reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            # The reader slices a memory map without looking at its length, so a short file fails in many ways.
            raise GGUFError(
                f"{path}: truncated or damaged ({path.stat().st_size:,} bytes; {error}); download it again"
            ) from error
        self._fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata value of `key` (numbers, strings, lists), or `default` where the file has none."""
        return self._fields[key].contents() if key in self._fields else default

    def __getitem__(self, key: str) -> Any:
        """The metadata value of `key`.

        Raises:
            GGUFError: the file has no such key.
        """
        if key not in self._fields:
            raise GGUFError(f"{self.path}: the metadata has no {key!r}, which its architecture needs")
        return self.get(key)

    def number(self, key: str) -> float:
        """A float32 metadata value as its shortest decimal: 1e-05, not 9.999999747378752e-06."""
        return float(str(np.float32(self[key])))

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape in row-major order (GGUF stores it reversed)."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def weights(self, name: str) -> np.ndarray:
        """The tensor dequantised to float32, in row-major order.

        Raises:
            GGUFError: package `gguf` cannot dequantise the tensor's type.
        """
        tensor = self.tensors[name]
        weights = np.empty(self.shape(name), np.float32)
        try:
            # In slices of rows: gguf.dequantize holds its result twice.
            for row in range(0, len(weights), 4096):
                rows = slice(row, row + 4096)
                weights[rows] = gguf.dequantize(tensor.data[rows], tensor.tensor_type)
        except NotImplementedError as error:
            raise GGUFError(
                f"{self.path}: tensor {name} has quantisation type {tensor.tensor_type.name}, which package gguf"
                f" cannot dequantise; take a file in another quantisation (Q8_0, Q4_K_M, F16...)"
            ) from error
        return weights
