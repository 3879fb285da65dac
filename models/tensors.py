"""The tensors of a checkpoint folder: which files hold them, and what the files' headers say of each."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np

from tessy_jax.errors import UserError
from tessy_jax.storage import far
from tessy_jax.text.files import read_json, refuse_lfs_pointer

FLOATS: dict[str, Any] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
"""Safetensors code -> what a parameter of the model's dtype may be stored as."""

DTYPES: dict[str, Any] = FLOATS | {"F8_E4M3": ml_dtypes.float8_e4m3fn, "U8": np.uint8, "I8": np.int8}
"""Safetensors code -> every dtype that is read."""

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class WeightsError(UserError, ValueError):
    """A checkpoint folder whose tensors cannot be read as its config.json says."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file, as the file's header describes it.

    Attributes:
        code: safetensors' name of the dtype.
        start: its first byte in the file.
    """

    file: Path
    name: str
    code: str
    shape: tuple[int, ...]
    start: int

    @property
    def array(self) -> np.ndarray:
        """A read-only memory map, of which nothing is read before it is indexed; of a file on a store, all of it.

        Raises:
            WeightsError: the dtype is none of `DTYPES`.
            StorageError: the store fails.
        """
        self.check_dtype()
        whole = self._far(slice(0, self.shape[0] if self.shape else 1))
        return self._map if whole is None else whole

    def part(self, index: tuple[slice, ...]) -> np.ndarray:
        """A part of the array; of a file on a store only the rows in which it lies are read. Raises as `array` does."""
        self.check_dtype()
        if not index or not self.shape:
            return self.array[index]
        start, stop, step = index[0].indices(self.shape[0])
        rows = self._far(slice(start, max(start, stop)))
        return self._map[index] if rows is None else rows[(slice(None, None, step), *index[1:])]

    @cached_property
    def _map(self) -> np.ndarray:
        dtype = np.dtype(DTYPES[self.code])
        if not math.prod(self.shape):
            return np.empty(self.shape, dtype)
        return np.memmap(self.file, dtype, "r", self.start, self.shape)

    def _far(self, rows: slice) -> np.ndarray | None:
        """Rows of a tensor whose file stands for one on a store; None: it has the numbers itself."""
        dtype = np.dtype(DTYPES[self.code])
        size = math.prod(self.shape[1:]) * dtype.itemsize
        data = far.read(self.file, self.start + rows.start * size, (rows.stop - rows.start) * size)
        if data is None:
            return None
        shape = (rows.stop - rows.start, *self.shape[1:]) if self.shape else ()
        return np.frombuffer(data, dtype).reshape(shape)

    def check_dtype(self) -> None:
        """Raises WeightsError where the dtype is none of `DTYPES`."""
        if self.code not in DTYPES:
            raise WeightsError(
                f"{self.file}: {self.name}: has dtype {self.code}; supported: {', '.join(DTYPES)}. "
                "Use an unquantised checkpoint."
            )


def open_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, by name: of the files that transformers reads. Only headers are read.

    Raises:
        WeightsError: with the file, where one is missing, damaged or not of this format.
    """
    weight_map = _weight_map(folder)
    tensors: dict[str, Tensor] = {}
    for file in sorted({folder / name for name in weight_map.values()}) or [folder / _SINGLE]:
        if not file.is_file():
            raise WeightsError(f"{file}: no such file, but {_INDEX} lists it. Download it again.")
        tensors |= read_header(file)
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise WeightsError(
            f"{folder / weight_map[absent[0]]}: lacks tensor {absent[0]}, which {_INDEX} says it has. "
            "Download the file again."
        )
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    """The file of each tensor, where the weights are in several; {} where they are in model.safetensors alone."""
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(
            f"{folder / 'adapter_config.json'}: the folder holds an adapter (PEFT), which is not read. Merge it into "
            "its model (merge_and_unload, then save_pretrained) and give that folder."
        )
    single = (folder / _SINGLE).is_file()
    if not (folder / _INDEX).is_file():
        if not single:
            raise WeightsError(f"{folder}: {_other_weights(folder)}")
        return {}
    weight_map = _read_index(folder / _INDEX)
    if not single:
        return weight_map
    # transformers reads model.safetensors; vLLM what the index lists.
    others = sorted(name for name in set(weight_map.values()) if name != _SINGLE and (folder / name).is_file())
    if others:
        raise WeightsError(
            f"{folder}: holds both {_SINGLE} and {_INDEX}, which lists {others[0]}: two checkpoints in one folder. "
            "Remove one of them."
        )
    return {}


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_json(path, WeightsError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(
            f"{path}: weight_map: is {weight_map!r:.60}; it must name the file of each tensor. Download it again."
        )
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise WeightsError(
                f"{path}: weight_map.{name}: is {file!r:.60}; it must be a safetensors file in the same folder."
            )
    return weight_map


def _other_weights(folder: Path) -> str:
    """What to do where there is neither of transformers' two files, by what there is instead."""
    remedies = {
        "*-of-*.safetensors": f"their index, {_INDEX}, is missing. Download it",
        "consolidated*.safetensors": "they are not in the format of transformers. Download its model*.safetensors",
        "adapter_model*": "an adapter is not read. Merge it into its model and give that folder",
        "*.safetensors": f"transformers reads only {_SINGLE}, or what {_INDEX} lists. Rename it, or write the index",
        "*.bin": "pickled weights are not read. Load the folder with transformers and save it again "
        "(save_pretrained writes safetensors)",
        "*.pth": "pickled weights are not read. Download the safetensors files",
        "*.gguf": "convert it first (python -m tessy_jax.convert)",
    }
    for pattern, remedy in remedies.items():
        if found := sorted(file.name for file in folder.glob(pattern)):
            return f"has neither {_SINGLE} nor {_INDEX}, but {found[0]}: {remedy}."
    return (
        f"has neither {_SINGLE} nor {_INDEX}. "
        "Download the safetensors files; convert GGUF first (python -m tessy_jax.convert)."
    )


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of one safetensors file as read-only memory maps. Raises WeightsError."""
    return {name: tensor.array for name, tensor in read_header(file).items()}


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file. Raises WeightsError where it is not whole.

    The format: 8 bytes of header length, a JSON header with each tensor's dtype, shape and byte range, the bytes.
    """
    refuse_lfs_pointer(file, WeightsError)
    actual = file.stat().st_size
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        if actual < start:
            raise WeightsError(
                f"{file}: is truncated: its header alone needs {start} bytes, it has {actual}. Download it again."
            )
        try:
            header = json.loads(stream.read(start - 8))
        except (ValueError, RecursionError):
            raise WeightsError(
                f"{file}: is not a safetensors file: its header is not JSON. Download it again."
            ) from None
    if not isinstance(header, dict):
        raise WeightsError(f"{file}: is not a safetensors file: its header is no JSON object. Download it again.")
    header.pop("__metadata__", None)
    tensors, end = {}, start
    for name, entry in header.items():
        begin, stop = _byte_range(file, name, entry)
        tensors[name] = Tensor(file, name, entry["dtype"], tuple(entry["shape"]), start + begin)
        end = max(end, start + stop)
    if actual < end:
        raise WeightsError(f"{file}: is truncated: it should have {end} bytes, it has {actual}. Download it again.")
    return tensors


def _byte_range(file: Path, name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor's bytes begin and end after the header; checks its whole entry."""

    def sizes(value: Any) -> TypeGuard[list[int]]:
        return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)

    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    code, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not (isinstance(code, str) and sizes(shape) and sizes(offsets) and len(offsets) == 2):
        raise WeightsError(
            f"{file}: {name}: the header has {entry!r:.80}, where dtype, shape and data_offsets belong. "
            "Download it again."
        )
    begin, stop = offsets
    if code in DTYPES and stop - begin != math.prod(shape) * np.dtype(DTYPES[code]).itemsize:
        raise WeightsError(
            f"{file}: {name}: the header gives bytes {begin} to {stop} for shape {tuple(shape)} and dtype {code}. "
            "Download it again."
        )
    return begin, stop
