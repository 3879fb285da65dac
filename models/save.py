"""Models back to Hugging Face folders: what `load` reads, `save_hf` writes, bit for bit."""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, DTypeLike

from tessy_jax.models.build import describe, named_parameters
from tessy_jax.models.config import DecoderConfig
from tessy_jax.models.decoder import Model
from tessy_jax.models.layers import Permuted
from tessy_jax.models.tensors import DTYPES, FLOATS, WeightsError

_CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}

_REPLACED = ("rope_parameters", "dtype", "transformers_version", "quantization_config")
"""Keys of a base config.json that say the same as ours in another key style, or what no longer holds."""


def save_hf(
    model: Model,
    folder: str | Path,
    *,
    base: str | Path | None = None,
    dtype: DTypeLike | None = None,
    max_shard_bytes: int = 5_000_000_000,
    written: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint folder that `load` and `transformers` read. On several processes all call it, one writes.

    Args:
        folder: new, or without a config.json. That file is written last: a folder that has it is complete.
        base: a checkpoint folder whose config.json supplies what this package does not read (special token ids …).
        dtype: to convert to while writing; None: as the parameters are.
        max_shard_bytes: larger checkpoints are split over several files, with an index.
        written: takes each file of weights when it is whole, on the process that writes; it may take the file away.

    Raises:
        WeightsError: `folder` already holds a checkpoint, or the dtype has no safetensors code.
    """
    folder = Path(folder)
    if (folder / "config.json").exists():
        raise WeightsError(f"{folder}: already holds a checkpoint. Give a new folder, or delete this one.")
    specs, parameters = describe(model.config), named_parameters(model)
    model_dtype = jnp.dtype(dtype or next(parameters[n].dtype for n, spec in specs.items() if spec.dtype is None))
    floats = [np.dtype(kind) for kind in FLOATS.values()]
    if model_dtype not in floats:
        raise WeightsError(f"{folder}: cannot store dtype {model_dtype}; supported: {', '.join(map(str, floats))}.")
    if model.config.int8:
        raise WeightsError(f"{folder}: cannot store int8 weights made while loading; load the model without int8.")
    tensors = {
        tensor: _Tensor(parameters[name], index, np.dtype(spec.dtype_in(model_dtype)), expected.shape, spec.permuted)
        for name, spec in specs.items()
        for part, index in spec.stored(name).items()
        for tensor, expected in spec.tensors(part).items()
    }
    shards = _shards({name: tensor.nbytes for name, tensor in tensors.items()}, max_shard_bytes)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, {n: tensors[n] for n in shard})
        if written is not None and jax.process_index() == 0:
            written(folder / name)
    if jax.process_index() != 0:
        return
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        weight_map = {n: name for name, shard in zip(names, shards, strict=True) for n in shard}
        _write_json(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )
    _write_json(folder / "config.json", _config_json(model.config, base, model_dtype))


def _config_json(config: DecoderConfig, base: str | Path | None, dtype: np.dtype) -> dict[str, Any]:
    inherited = json.loads((Path(base) / "config.json").read_text(encoding="utf-8")) if base else {}
    kept = {key: value for key, value in inherited.items() if key not in _REPLACED}
    return kept | config.to_hf() | {"torch_dtype": str(dtype)}


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Tensor names in order, cut so that each part has at most `limit` bytes (a larger tensor is a part of its own)."""
    shards: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


@dataclass(frozen=True)
class _Tensor:
    """A tensor to write: a parameter, or what it has at `index` of its first dimension, as `dtype`."""

    parameter: Array
    index: int | None
    dtype: np.dtype
    shape: tuple[int, ...]
    permuted: Permuted | None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def value(self) -> np.ndarray:
        """In host memory; on several processes all call it."""
        array = self.parameter if self.index is None else self.parameter[self.index]
        whole = array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True)
        value = np.asarray(whole)
        value = value if self.permuted is None else self.permuted.back(value)
        return np.ascontiguousarray(value.astype(self.dtype, copy=False))


def _write(file: Path, tensors: Mapping[str, _Tensor]) -> None:
    """One safetensors file, one tensor in host memory at a time; it appears under its name when it is complete."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    partial = file.with_name(file.name + ".partial")
    writes = jax.process_index() == 0
    with open(partial if writes else os.devnull, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            stream.write(tensor.value().tobytes())
    if writes:
        partial.replace(file)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)
