"""Matrices in 8 bits, made while loading: each row is int8 values times one scale, so that its largest value is 127.

Embeddings, the output matrix, routers, norms and biases stay as they are. Activations are not rounded. Half the memory
of bfloat16 and half the bytes that a decode step reads, for a small error (docs/benchmarks.md has the divergence).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Float32, Int, Int8

from tessy_jax.models.grouped import Kernel, Product, one_by_one
from tessy_jax.models.layers import Expected, Linear, parameter
from tessy_jax.models.moe import StackedLinear
from tessy_jax.models.products import einsum

_RANDOM = 0.02 / 74
"""The scale of a random model's rows: their bytes then have a standard deviation of 0.02, as other parameters."""


@dataclass(frozen=True)
class Values:
    """Makes int8 values of a matrix's rows."""

    outside: int
    inside: int

    @property
    def tensors(self) -> dict[str, Expected]:
        return {"weight": Expected((self.outside, self.inside))}

    @property
    def by_rows(self) -> bool:
        return True

    def __call__(self, tensors: Sequence[np.ndarray], index: tuple[slice, ...]) -> Int8[np.ndarray, "O I"]:
        rows = tensors[0][index[0]].astype(np.float32)  # whole ones: the scale is one of all columns
        return np.rint(rows / _scale(rows)[:, None])[:, index[1]].astype(np.int8)


@dataclass(frozen=True)
class Scales(Values):
    """Makes their scales."""

    def __call__(self, tensors: Sequence[np.ndarray], index: tuple[slice, ...]) -> Float32[np.ndarray, " O"]:
        return _scale(tensors[0][index[0]].astype(np.float32))


def _scale(rows: Float32[np.ndarray, "O I"]) -> Float32[np.ndarray, " O"]:
    top = np.abs(rows).max(axis=-1) / np.float32(127)
    return np.where(top > 0, top, np.float32(1))


def in_int8(block: nnx.Module) -> None:
    """Replaces the plain linear layers of an abstract block."""
    for _, module in list(nnx.iter_graph(block)):
        for name, child in list(vars(module).items()) if isinstance(module, nnx.Module) else ():
            if type(child) is Linear:
                setattr(module, name, Int8Linear(child))
            elif type(child) is StackedLinear:
                setattr(module, name, Int8StackedLinear(child))


class Int8Linear(Linear):
    """y = (x Vᵀ) * scale (+ b), with V of int8."""

    def __init__(self, plain: Linear):
        outside, inside = plain.weight.get_metadata()["dims"]
        self.weight = parameter(outside, inside, dtype=jnp.int8, derived_from=Values(outside.size, inside.size))
        self.scale = parameter(outside, fill=_RANDOM, dtype=jnp.float32, derived_from=Scales(outside.size, inside.size))
        self.bias = plain.bias

    def matrix(self, dtype: DTypeLike) -> Float[Array, "O I"]:
        return (self.weight[...] * self.scale[...][:, None]).astype(dtype)

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        y = _product(x, self.weight[...], self.scale[...])
        return y if self.bias is None else y + self.bias[...]


def _product(
    x: Float[Array, "... I"], weight: Int8[Array, "O I"], scale: Float32[Array, " O"]
) -> Float[Array, "... O"]:
    y = einsum("...i,oi->...o", x, weight.astype(x.dtype), preferred_element_type=jnp.float32)
    return (y * scale).astype(x.dtype)


class Int8StackedLinear(StackedLinear):
    """The same for one matrix per expert."""

    def __init__(self, plain: StackedLinear):
        self.dims = experts, inside, outside = plain.dims
        values, scales = Values(outside.size, inside.size), Scales(outside.size, inside.size)
        self.weight = parameter(experts, outside, inside, dtype=jnp.int8, by_expert=True, derived_from=values)
        self.scale = parameter(experts, outside, fill=_RANDOM, dtype=jnp.float32, by_expert=True, derived_from=scales)

    def __call__(self, rows: Float[Array, "M I"], sizes: Int[Array, " E"], kernel: Kernel) -> Float[Array, "M O"]:
        def opened(expert: tuple[Int8[Array, "O I"], Float32[Array, " O"]]) -> Product:
            weight, scale = expert
            return lambda rows: _product(rows, weight, scale)

        return one_by_one(rows, (self.weight[...], self.scale[...]), sizes, self.weight.shape[1], opened)
