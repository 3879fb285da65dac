"""Write a safetensors file one tensor at a time, so that memory holds one tensor and never the model."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import ml_dtypes
import numpy as np

_DTYPES = {"float32": ("F32", np.dtype(np.float32)), "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16))}


def stored_bytes(shapes: dict[str, tuple[int, ...]], dtype: str) -> int:
    """Bytes of all tensors of these shapes when stored as `dtype`."""
    return sum(map(math.prod, shapes.values())) * _DTYPES[dtype][1].itemsize


def write_safetensors(
    path: Path, shapes: dict[str, tuple[int, ...]], dtype: str, tensors: Iterable[np.ndarray]
) -> None:
    """Write `tensors`, in the order of `shapes`, to a new safetensors file.

    Format: https://github.com/huggingface/safetensors#format (a length, a JSON header, the raw tensors).

    Args:
        path: the file to write.
        shapes: the name and shape of each tensor.
        dtype: what to store them as, "float32" or "bfloat16" (rounded to nearest even).
        tensors: the float32 weights, produced one at a time.

    Raises:
        ValueError: a tensor's shape differs from the one declared.
        OSError: the file cannot be written.
    """
    name, numpy_dtype = _DTYPES[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + math.prod(shape) * numpy_dtype.itemsize
        header[key] = {"dtype": name, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for (key, shape), tensor in zip(shapes.items(), tensors, strict=True):
            if tensor.shape != shape:
                raise ValueError(f"{key}: shape {tensor.shape}, declared {shape}")
            file.write(np.ascontiguousarray(tensor, numpy_dtype).reshape(-1).view(np.uint8).data)
