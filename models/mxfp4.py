"""MXFP4, the format of GPT-OSS's experts: 4-bit floats in groups of 32 that share a power of two (OCP MX v1.0, §5.4).

Two values lie in a byte, the earlier one in its low half. A value is its size, 0, 0.5, 1, 1.5, 2, 3, 4 or 6 (e2m1: a
sign, two exponent bits and a mantissa bit), times 2^(s - 127), where s is its group's byte. All are exact in bfloat16.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, Shaped, UInt8

from tessy_jax.models.layers import parameter
from tessy_jax.models.sharding import Dim

GROUP = 32
"""Values that share a scale: neighbours in the dimension that a product sums over."""

ROWS = 128
"""Rows that one product takes at most: fewer read a matrix again, more are computed in vain where experts have few."""

RANDOM_SCALE = 120
"""Of random models: random bytes have a root mean square of 2.9, which this makes about 0.02."""


def matrices(experts: Dim, outside: Dim, inside: Dim) -> tuple[nnx.Param, nnx.Param]:
    """Blocks `[E, O, I/32, 16]` and scales `[E, O, I/32]` of one matrix per expert, split between groups."""
    groups = Dim(inside.size // GROUP, inside.axis)
    blocks = parameter(experts, outside, groups, Dim(GROUP // 2), dtype=jnp.uint8)
    return blocks, parameter(experts, outside, groups, fill=RANDOM_SCALE, dtype=jnp.uint8)


def decode(blocks: UInt8[Array, "*O G 16"], scales: UInt8[Array, "*O G"], dtype: DTypeLike) -> Float[Array, "*O I"]:
    """The values. A scale byte of 0 (2^-127, less than any normal float32) counts as zero, and so does -0."""
    code = jnp.stack([blocks & 15, blocks >> 4], axis=-1).astype(jnp.int32)
    exponent, mantissa = (code >> 1) & 3, code & 1
    twice = jnp.where(exponent == 0, mantissa, (2 + mantissa) << jnp.maximum(exponent - 1, 0))
    value = jnp.where(code >= 8, -twice, twice).astype(jnp.float32) / 2
    power = lax.bitcast_convert_type(scales.astype(jnp.uint32) << 23, jnp.float32)  # s is the exponent's own bits
    return (value * power[..., None, None]).astype(dtype).reshape(*scales.shape[:-1], -1)


def grouped(
    rows: Float[Array, "M I"], blocks: UInt8[Array, "E O G 16"], scales: UInt8[Array, "E O G"], sizes: Int[Array, " E"]
) -> Float[Array, "M O"]:
    """`moe.grouped` for packed matrices: of no more than one is the decoded form ever in memory, and those of experts
    without rows are not read. For inference: it has no gradient.
    """
    # A decoded form of all experts would be made once, before a loop of decode steps, and for all layers: XLA moves
    # what does not change out of loops, even what takes far more memory than it is made from.
    experts, outside = scales.shape[:2]
    size = min(ROWS, rows.shape[0])
    starts = jnp.cumsum(sizes) - sizes
    padded = jnp.pad(rows, ((0, size), (0, 0)))
    out = _like(jnp.zeros((padded.shape[0], outside), rows.dtype), rows, blocks, sizes)

    def expert(e: Int[Array, ""], out: Float[Array, "P O"]) -> Float[Array, "P O"]:
        matrix = decode(blocks[e], scales[e], rows.dtype)

        def part(i: Int[Array, ""], out: Float[Array, "P O"]) -> Float[Array, "P O"]:
            here = starts[e] + i * size
            product = lax.dynamic_slice_in_dim(padded, here, size) @ matrix.T
            mine = here + jnp.arange(size) < starts[e] + sizes[e]
            # What lies behind this expert's rows is written by the next ones.
            return lax.dynamic_update_slice_in_dim(out, jnp.where(mine[:, None], product, 0), here, 0)

        return lax.fori_loop(0, -(-sizes[e] // size), part, out)

    def step(e: Int[Array, ""], out: Float[Array, "P O"]) -> Float[Array, "P O"]:
        return lax.cond(sizes[e] > 0, lambda: expert(e, out), lambda: out)

    return lax.fori_loop(0, experts, step, out)[: rows.shape[0]]


def _like(x: Shaped[Array, "..."], *others: Array) -> Shaped[Array, "..."]:
    """x as an array that may differ between devices wherever one of `others` does (inside `shard_map`)."""
    axes = frozenset[str]().union(*(jax.typeof(other).manual_axis_type.varying for other in others))
    return lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x
