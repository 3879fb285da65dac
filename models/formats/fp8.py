"""How the matrices of a model are stored: as they are, or in 8 bits with a scale for each block.

A family whose checkpoints come in several ways makes its layers through one of these objects, which its config holds.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Float32, Int, UInt8

from tessy_jax.models.config import Fields
from tessy_jax.models.grouped import Kernel, Product, one_by_one
from tessy_jax.models.layers import Linear, parameter
from tessy_jax.models.moe import StackedLinear
from tessy_jax.models.products import matmul
from tessy_jax.models.sharding import Dim


class Storage(Protocol):
    """Makes the linear layers of a model."""

    def linear(self, inside: Dim, outside: Dim, *, bias: bool) -> Linear:
        """A new linear layer."""
        ...

    def stacked(self, experts: Dim, inside: Dim, outside: Dim) -> StackedLinear:
        """One new matrix per expert."""
        ...

    def to_hf(self) -> dict[str, Any]:
        """The entries of a config.json that say so."""
        ...


@dataclass(frozen=True)
class Plain:
    """Matrices of the model's own dtype."""

    def linear(self, inside: Dim, outside: Dim, *, bias: bool) -> Linear:
        return Linear(inside, outside, bias=bias)

    def stacked(self, experts: Dim, inside: Dim, outside: Dim) -> StackedLinear:
        return StackedLinear(experts, inside, outside)

    def to_hf(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class BlockFp8:
    """HF quant_method "fp8", as in DeepSeek's checkpoints: float8_e4m3fn, and one float32 factor per block.

    Parameters stay in 8 bits on the device and are multiplied out where they are used, one matrix at a time.
    Activations are not rounded to 8 bits, as `activation_scheme` "dynamic" has kernels do for speed: results are those
    of the checkpoint converted to the model's dtype.

    Attributes:
        rows, columns: size of a block of a matrix [out, in]; those at its end may be smaller.
    """

    rows: int
    columns: int

    @classmethod
    def from_hf(cls, fields: Fields) -> "Storage":
        """What `quantization_config` says; without one, `Plain`. Raises ModelConfigError for another kind of fp8."""
        found = fields.get("quantization_config", {})
        if not found:
            return Plain()
        block = found.get("weight_block_size")
        if not (isinstance(block, list) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block)):
            raise fields.error("quantization_config.weight_block_size", f"is {block!r}; it must be two sizes")
        for name, only in (("fmt", "e4m3"), ("activation_scheme", "dynamic")):
            if found.get(name, only) != only:
                raise fields.error(f"quantization_config.{name}", f"is {found[name]!r}; only {only!r} is implemented")
        return cls(*block)

    def linear(self, inside: Dim, outside: Dim, *, bias: bool) -> Linear:
        return Fp8Linear(inside, outside, self, bias=bias)

    def stacked(self, experts: Dim, inside: Dim, outside: Dim) -> StackedLinear:
        return Fp8StackedLinear(experts, inside, outside, self)

    def to_hf(self) -> dict[str, Any]:
        block = [self.rows, self.columns]
        method = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": block}
        return {"quantization_config": method}

    def parameters(self, inside: Dim, outside: Dim, experts: Dim | None = None) -> tuple[nnx.Param, nnx.Param]:
        """New 8-bit weights [O, I], or [E, O, I], and their scales."""
        first, by_expert = ((), False) if experts is None else ((experts,), True)
        blocks = (_blocks(outside, self.rows), _blocks(inside, self.columns))
        weight = parameter(*first, outside, inside, dtype=jnp.float8_e4m3fn, by_expert=by_expert)
        return weight, parameter(*first, *blocks, fill=1.0, dtype=jnp.float32, by_expert=by_expert)

    def matrix(
        self, weight: Float[Array, "O I"], scale: Float32[Array, "o i"], dtype: DTypeLike
    ) -> Float[Array, "O I"]:
        """Each weight times its block's scale, in float32, rounded to `dtype`."""
        rows, columns = weight.shape[-2:]
        scale = jnp.repeat(scale, self.rows, axis=-2)[..., :rows, :]
        scale = jnp.repeat(scale, self.columns, axis=-1)[..., :columns]
        return (weight.astype(jnp.float32) * scale).astype(dtype)


def _blocks(dim: Dim, size: int) -> Dim:
    """The blocks along a dimension of a matrix: split like it, which must not cut one; so never where the last is
    smaller than the others.
    """
    count = -(-dim.size // size)
    if dim.size % size:
        return Dim(count, dim.axis, unit=count, of=f"row of blocks of {size} {dim.axis} with a smaller one")
    return Dim(count, dim.axis, of=f"blocks of {size} {dim.axis}")


class Fp8Linear(Linear):
    """y = x Wᵀ (+ b), with W in blocks."""

    def __init__(self, inside: Dim, outside: Dim, blocks: BlockFp8, *, bias: bool):
        super().__init__(inside, outside, bias=bias)
        self.weight, self.weight_scale_inv = blocks.parameters(inside, outside)
        self.blocks = blocks

    def matrix(self, dtype: DTypeLike) -> Float[Array, "O I"]:
        return self.blocks.matrix(self.weight[...], self.weight_scale_inv[...], dtype)


class Fp8StackedLinear(StackedLinear):
    """One matrix per expert, in blocks."""

    def __init__(self, experts: Dim, inside: Dim, outside: Dim, blocks: BlockFp8):
        super().__init__(experts, inside, outside)
        self.weight, self.weight_scale_inv = blocks.parameters(inside, outside, experts)
        self.blocks = blocks

    def __call__(self, rows: Float[Array, "M I"], sizes: Int[Array, " E"], kernel: Kernel) -> Float[Array, "M O"]:
        def opened(expert: tuple[UInt8[Array, "O I"], Float32[Array, "o i"]]) -> Product:
            weight = lax.bitcast_convert_type(expert[0], self.weight.dtype)
            matrix = self.blocks.matrix(weight, expert[1], rows.dtype)
            return lambda rows: matmul(rows, matrix.T)

        # Bytes are sliced, not floats: for that XLA's CPU form turns the whole stack into 16 bits, before the loop.
        stacks = (lax.bitcast_convert_type(self.weight[...], jnp.uint8), self.weight_scale_inv[...])
        return one_by_one(rows, stacks, sizes, self.weight.shape[1], opened)
