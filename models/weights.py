"""Hugging Face safetensors straight into (sharded) arrays: each process touches only the bytes of its own shards."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, DTypeLike

from tessy_jax.models.build import ParamSpec, assemble, describe
from tessy_jax.models.config import DecoderConfig, ModelConfigError
from tessy_jax.models.decoder import Model
from tessy_jax.models.layers import DerivedFrom, Expected
from tessy_jax.models.registry import ARCHITECTURES, read_config
from tessy_jax.models.sharding import INFERENCE, Rules, in_rows
from tessy_jax.models.tensors import DTYPES, FLOATS, Tensor, WeightsError, open_tensors
from tessy_jax.models.tensors import read_safetensors as read_safetensors
from tessy_jax.storage import far

_IGNORED = re.compile(r"rotary_emb\.inv_freq$")
"""Tensors that old exporters wrote and no model needs: RoPE frequencies are computed from the config."""

_BUFFERS = ("I64", "BOOL")
"""Dtypes of what no parameter is, such as position ids: where no tensor of the name is expected, it is a buffer."""

_SMALL = 1 << 20
"""Bytes of a parameter that each process reads as it needs it."""

_EMBEDDINGS, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


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

    @property
    def is_far(self) -> bool:
        """Whether it is on a store."""
        return any(far.is_far(tensor.file) for part in self.parts for tensor in part)

    def read(self, index: tuple[slice, ...], dtype: DTypeLike) -> np.ndarray:
        """A part of the parameter in memory of its own; no other bytes of the files are touched."""
        if not self.stacked:
            return self._part(self.parts[0], index, dtype)
        first, *rest = index
        return np.stack([self._part(part, tuple(rest), dtype) for part in self.parts[first]])

    def _part(self, tensors: list[Tensor], index: tuple[slice, ...], dtype: DTypeLike) -> np.ndarray:
        if self.derived_from is None:
            found = tensors[0].part(index)
        elif self.derived_from.by_rows:
            found = self.derived_from([tensor.part(index[:1]) for tensor in tensors], (slice(None), *index[1:]))
        else:
            found = self.derived_from([tensor.array for tensor in tensors], index)
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
    sources = match(config, folder)
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
    head, sources = _match_body(config, folder)

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
    ours, theirs = ([name.lower() for name in names] for names in (labels, found.labels))
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise ModelConfigError(
            f"{Path(folder) / 'config.json'}: id2label: is {', '.join(found.labels)}; to be trained on, the "
            f"labels must be {', '.join(labels)}, in this order."
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
    """The parameter as it lies on the devices. Where reading is slow, no byte of a large one is read twice: each device
    gets some rows, and those of the processes exchange them.
    """
    own = spec.dtype_in(dtype)
    if sharding is None:
        return jnp.asarray(source.read(tuple(slice(None) for _ in spec.dims), own))
    large = math.prod(spec.shape) * own.itemsize >= _SMALL
    once = large and (jax.process_count() > 1 or source.is_far)
    layout = in_rows(sharding, spec.shape) if once else sharding
    found: dict[str, np.ndarray] = {}

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        if (name := str(index)) not in found:  # of devices that hold the same
            found[name] = source.read(index or (), own)
        return found[name]

    array = jax.make_array_from_callback(spec.shape, layout, part)
    return array if layout.is_equivalent_to(sharding, len(spec.shape)) else _exchange(sharding)(array)


@cache
def _exchange(sharding: NamedSharding) -> Callable[[Array], Array]:
    """The same array in another layout over the same devices."""
    return jax.jit(lambda array: array, out_shardings=sharding)


def check_weights(config: DecoderConfig, folder: str | Path) -> None:
    """Compares the headers of a checkpoint's files with what `load` needs; no weights are read. Raises as `load` does,
    but for the mesh.
    """
    match(config, Path(folder))


def check_classifier(folder: str | Path, labels: tuple[str, ...]) -> DecoderConfig:
    """The same for `load_classifier`; what it makes of the checkpoint."""
    config = classifier_config(folder, labels)
    if read_config(folder).labels:
        check_weights(config, folder)
    else:
        _match_body(config, Path(folder))
    return config


def _match_body(config: DecoderConfig, folder: Path) -> tuple[dict[str, ParamSpec], dict[str, Source]]:
    """(the parameters of a classifier's head, what all others are read from in a language model's checkpoint)."""
    stored = {name: tensor for name, tensor in open_tensors(folder).items() if not name.startswith("lm_head.")}
    head = {name: spec for name, spec in describe(config).items() if name.startswith("score.")}
    return head, _match(config, stored, folder, absent=tuple(head))


def match(config: DecoderConfig, folder: Path) -> dict[str, Source]:
    """What each parameter is read from; every tensor of the folder has its place, shape and dtype."""
    return _match(config, open_tensors(folder), folder)


def _match(
    config: DecoderConfig, stored: Mapping[str, Tensor], folder: Path, absent: tuple[str, ...] = ()
) -> dict[str, Source]:
    """What each parameter but the `absent` ones is read from, of the right shapes; no tensor is left over."""
    specs = {name: spec for name, spec in describe(config).items() if name not in absent}
    if not any(name.startswith("model.") for name in stored):  # saved from HF's bare …Model
        stored = {
            name if name.split(".")[0] in ("lm_head", "score") else f"model.{name}": t for name, t in stored.items()
        }
    if config.tie_word_embeddings:
        stored = _untwinned(stored, config)
    wanted = {name: [spec.tensors(part) for part in spec.stored(name)] for name, spec in specs.items()}
    known = {name for parts in wanted.values() for part in parts for name in part}
    left = {
        name: tensor
        for name, tensor in stored.items()
        if name not in known
        and tensor.code not in _BUFFERS
        and not _IGNORED.search(name)
        and not name.startswith(config.unused_tensors)
    }
    for tensor in left.values():
        tensor.check_dtype()
    for name, expected in (item for parts in wanted.values() for part in parts for item in part.items()):
        if name not in stored:
            raise WeightsError(
                f"{folder}: tensor {name} is missing ({config.architecture}, shape {expected.shape}). "
                "The checkpoint is incomplete, or its config.json belongs to another model."
            )
        _check(name, stored[name], expected)
    if left:
        first = min(left)
        raise WeightsError(
            f"{left[first].file}: {first}: is not a parameter of this {config.architecture} "
            f"({len(left)} such tensors). Check architectures, num_hidden_layers and the bias fields in config.json."
        )
    return {
        name: Source([[stored[tensor] for tensor in part] for part in wanted[name]], spec.by_expert, spec.derived_from)
        for name, spec in specs.items()
    }


def _untwinned(stored: Mapping[str, Tensor], config: DecoderConfig) -> dict[str, Tensor]:
    """The tensors of a model with tied embeddings, of which some exporters write the matrix twice, or as the head only.

    A head that differs is a matrix of its own, which transformers then does not tie: config.json is wrong.
    """
    rest = {name: tensor for name, tensor in stored.items() if name != _HEAD}
    head, embeddings = stored.get(_HEAD), stored.get(_EMBEDDINGS)
    if head is None or config.labels:
        return rest
    if embeddings is None:
        return rest | {_EMBEDDINGS: head}
    if not _equal(head, embeddings):
        raise WeightsError(
            f"{head.file}: {_HEAD}: differs from {_EMBEDDINGS}, but config.json has tie_word_embeddings true. Set it "
            "to false to use both, as transformers does, or remove the tensor."
        )
    return rest


def _equal(a: Tensor, b: Tensor, rows: int = 4096) -> bool:
    """Whether two matrices have the same numbers; all of them are read only where they do."""

    def some(tensor: Tensor, start: int) -> np.ndarray:
        return tensor.part((slice(start, start + rows),)).astype(np.float32)

    count = a.shape[0] if a.shape else 0
    return a.shape == b.shape and all(np.array_equal(some(a, i), some(b, i)) for i in range(0, count, rows))


def _check(name: str, found: Tensor, expected: Expected) -> None:
    if found.shape != expected.shape:
        raise WeightsError(
            f"{found.file}: {name}: has shape {found.shape}, but config.json says {expected.shape}. "
            "The weights and config.json belong to different models."
        )
    found.check_dtype()
    dtype, floats = np.dtype(DTYPES[found.code]), {np.dtype(dtype) for dtype in FLOATS.values()}
    allowed = floats if expected.dtype is None or np.dtype(expected.dtype) in floats else {np.dtype(expected.dtype)}
    if dtype not in allowed:
        raise WeightsError(
            f"{found.file}: {name}: has dtype {dtype}; here it must be "
            f"{' or '.join(sorted(map(str, allowed)))}. Check quantization_config in config.json."
        )
