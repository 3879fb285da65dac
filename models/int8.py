"""Matrices in 8 bits, made while loading: each row is int8 values times one scale, so that its largest value is 127.

Embeddings, the output matrix, routers, norms and biases stay as they are. Activations are not rounded. Half the memory
of bfloat16 and half the bytes that a decode step reads, for a small error (docs/benchmarks.md has the divergence).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Float32, Int, Int8

from tessy_jax.models.layers import Linear, parameter
from tessy_jax.models.moe import StackedLinear, grouped

#: The scale of a random model's rows: their bytes then have a standard deviation of 0.02, as other parameters.
_RANDOM = 0.02 / 74


@dataclass(frozen=True)
class Values:
    """Makes the int8 values of rows of `inside` elements."""

    inside: int

    def __call__(self, rows: Float32[np.ndarray, "... I"]) -> Int8[np.ndarray, "... I"]:
        return np.rint(rows / _scale(rows)[..., None]).astype(np.int8)


@dataclass(frozen=True)
class Scales:
    """Makes the scales of rows of `inside` elements."""

    inside: int

    def __call__(self, rows: Float32[np.ndarray, "... I"]) -> Float32[np.ndarray, "..."]:
        return _scale(rows)


def _scale(rows: Float32[np.ndarray, "... I"]) -> Float32[np.ndarray, "..."]:
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
        self.weight = parameter(outside, inside, dtype=jnp.int8, made=Values(inside.size))
        self.scale = parameter(outside, fill=_RANDOM, dtype=jnp.float32, made=Scales(inside.size))
        self.bias = plain.bias

    def matrix(self, dtype: DTypeLike) -> Float[Array, "O I"]:
        return (self.weight[...] * self.scale[...][:, None]).astype(dtype)

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        y = jnp.einsum("...i,oi->...o", x, self.weight[...].astype(x.dtype), preferred_element_type=jnp.float32)
        y = (y * self.scale[...]).astype(x.dtype)
        return y if self.bias is None else y + self.bias[...]


class Int8StackedLinear(StackedLinear):
    """The same for one matrix per expert."""

    def __init__(self, plain: StackedLinear):
        experts, outside, inside = plain.weight.get_metadata()["dims"]
        self.weight = parameter(experts, outside, inside, dtype=jnp.int8, by_expert=True, made=Values(inside.size))
        self.scale = parameter(
            experts, outside, fill=_RANDOM, dtype=jnp.float32, by_expert=True, made=Scales(inside.size)
        )

    def matrix(self, dtype: DTypeLike) -> Float[Array, "E O I"]:
        return (self.weight[...] * self.scale[...][..., None]).astype(dtype)

    def __call__(self, rows: Float[Array, "M I"], sizes: Int[Array, " E"]) -> Float[Array, "M O"]:
        y = grouped(rows, self.weight[...].astype(rows.dtype), sizes)
        scale = jnp.repeat(self.scale[...], sizes, axis=0, total_repeat_length=len(rows))
        return (y * scale).astype(rows.dtype)
