"""Models from their description: shapes first, arrays put in afterwards."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, DTypeLike

from tessy_jax.models.config import DecoderConfig
from tessy_jax.models.decoder import CausalLM, Model, TokenClassifier
from tessy_jax.models.layers import DerivedFrom, Expected, Permuted
from tessy_jax.models.sharding import INFERENCE, Dim, Rules, sharding_for


@dataclass(frozen=True)
class ParamSpec:
    """One parameter; for the fields see `layers.parameter`."""

    dims: tuple[Dim, ...]
    fill: float | None
    dtype: DTypeLike | None
    by_expert: bool
    derived_from: DerivedFrom | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(d.size for d in self.dims)

    @property
    def axes(self) -> tuple[str | None, ...]:
        """Logical axis names."""
        return tuple(d.axis for d in self.dims)

    @property
    def permuted(self) -> Permuted | None:
        """What gives its tensor back, if it is that tensor in another order; else None."""
        return self.derived_from if isinstance(self.derived_from, Permuted) else None

    def dtype_in(self, model: DTypeLike) -> jnp.dtype:
        """Its dtype in a model of dtype `model`."""
        return jnp.dtype(model if self.dtype is None else self.dtype)

    def stored(self, name: str) -> dict[str, int | None]:
        """The names of its parts in a checkpoint, each with its index along the first dimension (None: the whole).

        By expert, `experts.up_proj.weight` is `experts.0.up_proj.weight` (0), `experts.1.up_proj.weight` (1) and so on.
        """
        if not self.by_expert:
            return {name: None}
        before, after = name.split(".experts.")
        return {f"{before}.experts.{e}.{after}": e for e in range(self.shape[0])}

    def tensors(self, part: str) -> dict[str, Expected]:
        """The tensors that the part of this name is read from, and what they must be."""
        if self.derived_from is None:
            return {part: Expected(self.shape[1:] if self.by_expert else self.shape, self.dtype)}
        beside = part.rpartition(".")[0]
        return {f"{beside}.{name}": expected for name, expected in self.derived_from.tensors.items()}


def abstract(config: DecoderConfig, mesh: Mesh | None = None, rules: Rules = INFERENCE) -> Model:
    """The model with `jax.ShapeDtypeStruct`s for parameters."""
    return (TokenClassifier if config.labels else CausalLM)(config, mesh, rules)


@lru_cache(maxsize=8)  # of large models it takes a second, and a command asks for the same ones again
def describe(config: DecoderConfig) -> Mapping[str, ParamSpec]:
    """Every parameter by its HF tensor name, which is its path in the module."""
    specs = {_name(path): _spec(param) for path, param in nnx.to_flat_state(nnx.state(abstract(config)))}
    return MappingProxyType(specs)


def parameter_count(config: DecoderConfig) -> int:
    """Number of parameters, tied embeddings once; of packed ones (MXFP4) the bytes."""
    return sum(math.prod(spec.shape) for spec in describe(config).values())


def parameter_bytes(config: DecoderConfig, dtype: DTypeLike) -> int:
    """Memory of the parameters of a model of this dtype; packed ones count as they are."""
    return sum(math.prod(spec.shape) * spec.dtype_in(dtype).itemsize for spec in describe(config).values())


def named_parameters(model: Model) -> dict[str, Array]:
    """The model's arrays by HF tensor name."""
    return {_name(path): param[...] for path, param in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def assemble(
    config: DecoderConfig,
    mesh: Mesh | None,
    rules: Rules,
    make: Callable[[str, ParamSpec, NamedSharding | None], Array],
) -> Model:
    """The model with `make(name, spec, sharding)` for each parameter; sharding is None without a mesh."""
    graphdef, state = nnx.split(abstract(config, mesh, rules))

    def put(path: tuple[Any, ...], param: nnx.Param) -> Any:
        name, spec = _name(path), _spec(param)
        sharding = None if mesh is None else sharding_for(mesh, rules, spec.dims, name)
        return param.replace(make(name, spec, sharding))

    return nnx.merge(graphdef, nnx.map_state(put, state))


def with_parameters(
    config: DecoderConfig, params: Mapping[str, Array], mesh: Mesh | None = None, rules: Rules = INFERENCE
) -> Model:
    """The model that has these arrays, by HF tensor name (the inverse of `named_parameters`).

    They stay as they are, traced or not: a train step calls this with its own compute copies. Rules say where
    activations go. Raises KeyError for a parameter that is not there.
    """
    return assemble(config, mesh, rules, lambda name, spec, sharding: params[name])


def shapes(config: DecoderConfig, dtype: DTypeLike, mesh: Mesh | None = None, rules: Rules = INFERENCE) -> Model:
    """The model as it would be loaded, with `jax.ShapeDtypeStruct`s that know their sharding: to compile with."""

    def make(name: str, spec: ParamSpec, sharding: NamedSharding | None) -> Any:
        return jax.ShapeDtypeStruct(spec.shape, spec.dtype_in(dtype), sharding=sharding)

    return assemble(config, mesh, rules, make)


def from_config(
    config: DecoderConfig,
    key: Array,
    dtype: DTypeLike = jnp.float32,
    *,
    mesh: Mesh | None = None,
    rules: Rules = INFERENCE,
) -> Model:
    """A random model: matrices normal (deviation 0.02), packed ones of random bytes, norms the identity, biases zero.

    Independent of the mesh.
    """
    numbers = {name: i for i, name in enumerate(describe(config))}

    def make(name: str, spec: ParamSpec, sharding: NamedSharding | None) -> Array:
        own = spec.dtype_in(dtype)
        if spec.fill is not None:
            return jnp.full(spec.shape, spec.fill, own, device=sharding)
        fill = jax.jit(_random, static_argnums=(1, 2), out_shardings=sharding)
        return fill(jax.random.fold_in(key, numbers[name]), spec.shape, own)

    return assemble(config, mesh, rules, make)


def _random(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    if jnp.issubdtype(dtype, jnp.integer):
        return jax.lax.bitcast_convert_type(jax.random.bits(key, shape, jnp.uint8), dtype)
    return (0.02 * jax.random.normal(key, shape, jnp.float32)).astype(dtype)


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)


def _spec(param: nnx.Param) -> ParamSpec:
    metadata = param.get_metadata()
    return ParamSpec(
        metadata["dims"], metadata["fill"], metadata["own_dtype"], metadata["by_expert"], metadata["derived_from"]
    )
