"""Hugging Face safetensors straight into (sharded) arrays: each process touches only the bytes of its own shards."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, DTypeLike

from tessy_jax.errors import UserError
from tessy_jax.models.build import ParamSpec, assemble, describe
from tessy_jax.models.config import DecoderConfig, ModelConfigError
from tessy_jax.models.decoder import Model
from tessy_jax.models.layers import DerivedFrom, Expected
from tessy_jax.models.registry import ARCHITECTURES, read_config
from tessy_jax.models.sharding import INFERENCE, Rules

FLOATS: dict[str, Any] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
"""Safetensors code -> what a parameter of the model's dtype may be stored as."""

DTYPES: dict[str, Any] = FLOATS | {"F8_E4M3": ml_dtypes.float8_e4m3fn, "U8": np.uint8, "I8": np.int8}
"""Safetensors code -> every dtype that is read."""

_IGNORED = re.compile(r"rotary_emb\.inv_freq$")
"""Tensors that old exporters wrote and no model needs: RoPE frequencies are computed from the config."""


class WeightsError(UserError, ValueError):
    """A checkpoint folder whose tensors cannot be read as its config.json says."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: `array` is a read-only memory map, of which nothing is read before it is indexed."""

    file: Path
    array: np.ndarray


@dataclass(frozen=True)
class Source:
    """What a parameter is read from.

    Attributes:
        parts: the tensors of each part.
        stacked: there is a part for each index of the parameter's first dimension; False: one part is all of it.
        derived_from: what makes a part of its tensors; None: it is the one tensor that it has.
    """

    parts: list[list[Tensor]]
    stacked: bool
    derived_from: DerivedFrom | None

    def read(self, index: tuple[slice, ...], dtype: DTypeLike) -> np.ndarray:
        """A part of the parameter in memory of its own; no other bytes of the files are touched."""
        if not self.stacked:
            return self._part(self.parts[0], index, dtype)
        first, *rest = index
        return np.stack([self._part(part, tuple(rest), dtype) for part in self.parts[first]])

    def _part(self, tensors: list[Tensor], index: tuple[slice, ...], dtype: DTypeLike) -> np.ndarray:
        arrays = [tensor.array for tensor in tensors]
        found = arrays[0][index] if self.derived_from is None else self.derived_from(arrays, index)
        # A copy: on CPU jax may keep the buffer it is given, and the file may change or go away.
        return np.array(found, dtype=dtype, order="C", copy=True)


def load(
    folder: str | Path,
    *,
    mesh: Mesh | None = None,
    rules: Rules = INFERENCE,
    dtype: DTypeLike = jnp.float32,
    int8: bool = False,
    kernel: str = "xla",
) -> Model:
    """Load a Hugging Face checkpoint folder: config.json with model.safetensors or its sharded form.

    Args:
        mesh, rules: where the parameters go; None: the default device.
        dtype: of the parameters and so of the activations. Stored bfloat16, float16 and float32 are converted by shard.
        int8: make the matrices of the blocks int8 while loading (formats/int8.py; GPT-OSS's experts: formats/mx.py),
            where the checkpoint does not have them in 8 bits.
        kernel: key of `grouped.KERNELS`, for experts of the model's dtype.

    Raises:
        ModelConfigError: config.json is missing, or asks for what is not implemented; or the kernel has nothing to
            multiply.
        WeightsError: a file or tensor is missing, truncated, left over or has the wrong shape.
        ShardingError: a parameter does not divide over the mesh.
    """
    folder = Path(folder)
    config = replace(read_config(folder), int8=int8, kernel=kernel)
    sources = _match(config, open_tensors(folder), folder)
    return assemble(config, mesh, rules, lambda name, spec, sharding: _read(sources[name], spec, sharding, dtype))


def load_classifier(
    folder: str | Path,
    labels: tuple[str, ...],
    key: Array,
    *,
    mesh: Mesh | None = None,
    rules: Rules = INFERENCE,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A token classifier to train: the body of a language model's checkpoint under a new head, normal with a standard
    deviation of 0.02 and bias 0, as in transformers. A token classifier's checkpoint is loaded as it is.

    Raises:
        ModelConfigError: transformers has no token classifier of this family, or the checkpoint has other labels.
        WeightsError, ShardingError: as for `load`.
    """
    folder = Path(folder)
    config = classifier_config(folder, labels)
    if read_config(folder).labels:
        return load(folder, mesh=mesh, rules=rules, dtype=dtype)
    stored = {name: tensor for name, tensor in open_tensors(folder).items() if not name.startswith("lm_head.")}
    head = {name: spec for name, spec in describe(config).items() if name.startswith("score.")}
    sources = _match(config, stored, folder, absent=tuple(head))

    def make(name: str, spec: ParamSpec, sharding: NamedSharding | None) -> Array:
        if name not in head:
            return _read(sources[name], spec, sharding, dtype)
        value = jnp.zeros(spec.shape) if spec.fill is not None else 0.02 * jax.random.normal(key, spec.shape)
        return jax.device_put(value.astype(dtype), sharding)

    return assemble(config, mesh, rules, make)


def classifier_config(folder: str | Path, labels: tuple[str, ...]) -> DecoderConfig:
    """What `load_classifier` makes of a checkpoint; raises ModelConfigError as it does."""
    found = read_config(folder)
    if found.labels and len(found.labels) != len(labels):
        raise ModelConfigError(
            f"{folder}: is a token classifier with {len(found.labels)} labels ({', '.join(found.labels)}), not "
            f"{len(labels)} ({', '.join(labels)}): give a language model, or a classifier with as many labels."
        )
    config = found if found.labels else replace(found, labels=labels)
    if config.architecture not in ARCHITECTURES:
        known = ", ".join(name for name in ARCHITECTURES if name.endswith("ForTokenClassification"))
        raise ModelConfigError(
            f"{folder}: transformers has no {config.architecture}, so nothing could read what is trained. "
            f"Start from a model of one of these: {known}."
        )
    return config


def _read(source: Source, spec: ParamSpec, sharding: NamedSharding | None, dtype: DTypeLike) -> Array:
    own = spec.dtype_in(dtype)
    if sharding is None:
        return jnp.asarray(source.read(tuple(slice(None) for _ in spec.dims), own))
    return jax.make_array_from_callback(spec.shape, sharding, lambda index: source.read(index or (), own))


def open_tensors(folder: Path) -> dict[str, Tensor]:
    """Memory maps of all tensors of a checkpoint folder, by name. Raises WeightsError."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files: Iterable[Path] = [folder / name for name in sorted(set(weight_map.values()))]
    elif single.is_file():
        weight_map, files = {}, [single]
    else:
        raise WeightsError(
            f"{folder}: has neither model.safetensors nor model.safetensors.index.json. "
            "Download the safetensors files; convert GGUF first (python -m tessy_jax.convert)."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise WeightsError(f"{file}: no such file, but {index.name} lists it. Download it again.")
        tensors |= {name: Tensor(file, array) for name, array in read_safetensors(file).items()}
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise WeightsError(
            f"{folder / weight_map[absent[0]]}: lacks tensor {absent[0]}, which {index.name} says it has. "
            "Download the file again."
        )
    return tensors


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of one safetensors file as read-only memory maps. Raises WeightsError.

    The format: 8 bytes of header length, a JSON header with each tensor's dtype, shape and byte range, the bytes.
    """
    actual = file.stat().st_size
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        if actual < start:
            raise WeightsError(
                f"{file}: is truncated: its header alone needs {start} bytes, it has {actual}. Download it again."
            )
        try:
            header = json.loads(stream.read(start - 8))
        except ValueError:
            raise WeightsError(
                f"{file}: is not a safetensors file: its header is not JSON. Download it again."
            ) from None
    header.pop("__metadata__", None)
    expected = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if actual < expected:
        raise WeightsError(
            f"{file}: is truncated: it should have {expected} bytes, it has {actual}. Download it again."
        )
    tensors: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise WeightsError(
                f"{file}: {name}: has dtype {entry['dtype']}; supported: {', '.join(DTYPES)}. "
                "Use an unquantised checkpoint."
            )
        offset = start + entry["data_offsets"][0]
        dtype = np.dtype(DTYPES[entry["dtype"]])
        tensors[name] = np.memmap(file, dtype, "r", offset, tuple(entry["shape"]))
    return tensors


def _match(
    config: DecoderConfig, stored: dict[str, Tensor], folder: Path, absent: tuple[str, ...] = ()
) -> dict[str, Source]:
    """What each parameter but the `absent` ones is read from, of the right shapes; no tensor is left over."""
    specs = {name: spec for name, spec in describe(config).items() if name not in absent}
    if not any(name.startswith("model.") for name in stored):  # saved from HF's bare …Model
        stored = {
            name if name.split(".")[0] in ("lm_head", "score") else f"model.{name}": t for name, t in stored.items()
        }
    ignored = {name for name in stored if _IGNORED.search(name) or name.startswith(config.unused_tensors)}
    if config.tie_word_embeddings:
        ignored.add("lm_head.weight")  # some exporters write the tied matrix twice
    wanted = {name: [spec.tensors(part) for part in spec.stored(name)] for name, spec in specs.items()}
    for tensor, expected in (item for parts in wanted.values() for part in parts for item in part.items()):
        if tensor not in stored:
            raise WeightsError(
                f"{folder}: tensor {tensor} is missing ({config.architecture}, shape {expected.shape}). "
                "The checkpoint is incomplete, or its config.json belongs to another model."
            )
        _check(tensor, stored[tensor], expected)
    left = sorted(set(stored) - {name for parts in wanted.values() for part in parts for name in part} - ignored)
    if left:
        raise WeightsError(
            f"{stored[left[0]].file}: {left[0]}: is not a parameter of this {config.architecture} "
            f"({len(left)} such tensors). Check architectures, num_hidden_layers and the bias fields in config.json."
        )
    return {
        name: Source([[stored[tensor] for tensor in part] for part in wanted[name]], spec.by_expert, spec.derived_from)
        for name, spec in specs.items()
    }


def _check(name: str, found: Tensor, expected: Expected) -> None:
    if found.array.shape != expected.shape:
        raise WeightsError(
            f"{found.file}: {name}: has shape {found.array.shape}, but config.json says {expected.shape}. "
            "The weights and config.json belong to different models."
        )
    floats = {np.dtype(dtype) for dtype in FLOATS.values()}
    allowed = floats if expected.dtype is None or np.dtype(expected.dtype) in floats else {np.dtype(expected.dtype)}
    if found.array.dtype not in allowed:
        raise WeightsError(
            f"{found.file}: {name}: has dtype {found.array.dtype}; here it must be "
            f"{' or '.join(sorted(map(str, allowed)))}. Check quantization_config in config.json."
        )
