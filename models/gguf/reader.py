"""GGUF files: typed metadata and dequantised tensors, with errors that say what is wrong with the file."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tessy_jax.errors import UserError
from tessy_jax.text.files import refuse_lfs_pointer

_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})\.gguf")
"""How llama.cpp names the parts of a split model."""


class GGUFError(UserError, ValueError):
    """A GGUF file that cannot be converted; the message names the file and what to do."""


class _Reader(gguf.GGUFReader):
    """Package gguf's reader, which slices a memory map without looking at its length: a damaged count would make it
    read nothing over and over.
    """

    def _get(self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError(f"it ends before byte {offset + int(count) * np.dtype(dtype).itemsize:,}")
        return super()._get(offset, dtype, count, override_order)


class GGUFFile:
    """A GGUF model, memory-mapped: one file, or several parts of which this is the first (`…-00001-of-00005.gguf`).

    Args:
        path: a `.gguf` file (format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

    Raises:
        GGUFError: a file is absent, is not GGUF, ends before its last tensor, or is another part than the first.
    """

    def __init__(self, path: Path):
        self.path = path
        reader = _open(path)
        self._fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        for part in self._further_parts():
            more = {tensor.name: tensor for tensor in _open(part).tensors}
            if twice := sorted(set(more) & set(self.tensors)):
                raise GGUFError(f"{part}: has tensor {twice[0]}, which an earlier part has too; download it again")
            self.tensors |= more

    def _further_parts(self) -> list[Path]:
        """The files of a split model after this one, as llama.cpp names them."""
        count, number = self.count("split.count", 1), self.count("split.no", 0, least=0)
        if count < 2:
            return []
        found = _PART.fullmatch(self.path.name)
        if found is None or int(found["of"]) != count:
            raise GGUFError(
                f"{self.path}: is part {number + 1} of {count}, and its name does not say so; name the parts "
                f"…-00001-of-{count:05d}.gguf and so on, and convert the first"
            )
        names = [f"{found['name']}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
        if number:
            raise GGUFError(f"{self.path}: is part {number + 1} of {count}; give the first, {names[0]}")
        return [self.path.with_name(name) for name in names[1:]]

    @property
    def keys(self) -> list[str]:
        """Of the metadata."""
        return list(self._fields)

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata value of `key` (numbers, strings, lists), or `default` where the file has none."""
        if key not in self._fields:
            return default
        try:
            return self._fields[key].contents()
        except (ValueError, IndexError, TypeError) as error:
            raise GGUFError(f"{self.path}: the metadata's {key!r} is damaged ({error}); download it again") from None

    def __getitem__(self, key: str) -> Any:
        """The metadata value of `key`.

        Raises:
            GGUFError: the file has no such key.
        """
        if key not in self._fields:
            raise GGUFError(f"{self.path}: the metadata has no {key!r}, which its architecture needs")
        return self.get(key)

    def count(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A metadata value that is an integer, `least` or more, and the same for all layers where there are several."""
        value = self[key] if default is None else self.get(key, default)
        if isinstance(value, list) and len(set(map(str, value))) == 1:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
            raise GGUFError(f"{self.path}: {key}: is {value!r:.60}; only one integer, {least} or more, is supported")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A float32 metadata value as its shortest decimal: 1e-05, not 9.999999747378752e-06."""
        value = self[key] if default is None else self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not np.isfinite(np.float32(value)):
            raise GGUFError(f"{self.path}: {key}: is {value!r:.60}; it must be a number")
        return float(str(np.float32(value)))

    def text(self, key: str, default: str | None = None) -> str:
        """A metadata value that is a string."""
        value = self[key] if default is None else self.get(key, default)
        if not isinstance(value, str):
            raise GGUFError(f"{self.path}: {key}: is {value!r:.60}; it must be a string")
        return value

    def several(self, key: str, kind: type) -> list[Any]:
        """A metadata value that is a list of strings or integers."""
        value = self[key]
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise GGUFError(f"{self.path}: {key}: is {value!r:.60}; it must be a list of {kind.__name__}")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape in row-major order (GGUF stores it reversed)."""
        if name not in self.tensors:
            raise GGUFError(f"{self.path}: tensor {name} is missing; download the file again")
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


def _open(path: Path) -> gguf.GGUFReader:
    if not path.is_file():
        raise GGUFError(f"{path}: no such file")
    refuse_lfs_pointer(path, GGUFError)
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise GGUFError(f"{path}: not a GGUF file (it starts with {magic!r}, not b'GGUF')")
    try:
        return _Reader(path)
    except (ValueError, IndexError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        # The reader looks at little of what it reads, so a damaged file fails in many ways.
        raise GGUFError(
            f"{path}: truncated or damaged ({path.stat().st_size:,} bytes; {error}); download it again"
        ) from error
