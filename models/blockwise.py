"""Attention within the documents of packed rows, one block of queries against one block of keys at a time.

FlashAttention-2 (arXiv 2307.08691, algorithms 1 and 2) in plain JAX, with its own backward pass: for long training
rows, whose scores are too many to hold at once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int

from tessy_jax.models.mask import HIDDEN, Mask, PackedMask, RingMask
from tessy_jax.models.products import einsum

BLOCKS = {"cpu": 64}
"""Tokens per block by platform. On two CPU cores forward and backward of 2 x 512 tokens, 9 heads, take 31 ms with 64
and 47 to 50 ms with 256 (torch: 43 ms); accelerators want larger products (not measured yet).
"""

ACCELERATOR_BLOCK = 512
"""Tokens per block on the other platforms."""


def block_on(platform: str) -> int:
    """Tokens per block that suit a platform ("cpu", "gpu", "tpu")."""
    return BLOCKS.get(platform, ACCELERATOR_BLOCK)


def blockwise(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    mask: Bool[Array, "B T T"] | PackedMask | RingMask,
    *,
    scale: float,
    sinks: Float[Array, " N"] | None = None,
    block: int | None = None,
) -> Float[Array, "B T N*H"]:
    """Attention that never holds more scores than those of one block of queries against one of keys.

    Blocks of keys that no query of a block sees (later ones, other documents, outside the window) are skipped, so it
    takes a `PackedMask` only: an array of what is visible would be as large as all scores. The output of padding is
    zero. The other arguments are those of `attention.attention`.

    Raises:
        NotImplementedError: `mask` is no `PackedMask`.
    """
    if not isinstance(mask, PackedMask):
        raise NotImplementedError("attention: 'blocks' takes packed rows (PackedMask) only: use 'dense'.")
    block = block or block_on(jax.default_backend())
    batch, tokens, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    block = min(block, tokens)
    padded = -tokens % block
    segments, positions = mask.segments, mask.positions
    if padded:
        q, k, v = (jnp.pad(x, ((0, 0), (0, padded), (0, 0), (0, 0))) for x in (q, k, v))
        segments = jnp.pad(segments, ((0, 0), (0, padded)))
        positions = jnp.pad(positions, ((0, 0), (0, padded)), constant_values=-1)
    count = (tokens + padded) // block

    def blocks(x: Float[Array, "B T M H"]) -> Float[Array, "I B K Q H"]:
        x = x.reshape(batch, count, block, kv_heads, -1, head_dim).transpose(1, 0, 3, 4, 2, 5)
        return x.reshape(count, batch, kv_heads, -1, head_dim)

    where = tuple(x.reshape(batch, count, block).swapaxes(0, 1) for x in (segments, positions))
    out, log_total = _attend(blocks(q), blocks(k), blocks(v), *where, mask.mask, scale)
    out = out.reshape(count, batch, kv_heads, heads // kv_heads, block, head_dim)
    if sinks is not None:
        log_total = log_total.reshape(*out.shape[:-1], 1)
        sinks = sinks.astype(jnp.float32).reshape(kv_heads, -1, 1, 1)
        out = (out * jax.nn.sigmoid(log_total - sinks)).astype(out.dtype)
    out = out.transpose(1, 0, 4, 2, 3, 5)
    return out.reshape(batch, tokens + padded, heads * head_dim)[:, :tokens]


# Inside: I blocks of S tokens each; a block of queries has Q = G * S rows per key/value head. What comes out is the
# mean of the values and the log of the softmax's sum (0 where nothing is seen).


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(
    q: Float[Array, "I B K Q H"],
    k: Float[Array, "I B K S H"],
    v: Float[Array, "I B K S H"],
    segments: Int[Array, "I B S"],
    positions: Int[Array, "I B S"],
    mask: Mask,
    scale: float,
) -> tuple[Float[Array, "I B K Q H"], Float32[Array, "I B K Q"]]:
    return _forward(q, k, v, segments, positions, mask, scale)[0]


def _forward(q: Array, k: Array, v: Array, segments: Array, positions: Array, mask: Mask, scale: float) -> Any:
    count = q.shape[0]
    first = _first_block(positions, mask, count)

    def row(i: Int[Array, ""]) -> tuple[Array, Array]:
        def visit(j: Int[Array, ""], carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, out = carry
            scores, visible = _scores(q[i], k[j], i, j, segments, positions, mask, scale)
            new_top = jnp.maximum(top, scores.max(-1))
            weights = jnp.where(visible, jnp.exp(scores - new_top[..., None]), 0)
            shrink = jnp.exp(top - new_top)
            part = einsum("bkqs,bksh->bkqh", weights.astype(v.dtype), v[j], preferred_element_type=jnp.float32)
            return new_top, total * shrink + weights.sum(-1), out * shrink[..., None] + part

        shape = q.shape[1:]
        start = (jnp.full(shape[:-1], HIDDEN), jnp.zeros(shape[:-1]), jnp.zeros(shape, jnp.float32))
        top, total, out = lax.fori_loop(first[i], i + 1, visit, start)
        seen = total > 0
        total = jnp.where(seen, total, 1)
        return (out / total[..., None]).astype(q.dtype), jnp.where(seen, top + jnp.log(total), 0)

    out, log_total = lax.map(row, jnp.arange(count))
    return (out, log_total), (q, k, v, segments, positions, out, log_total)


def _backward(mask: Mask, scale: float, saved: Any, given: tuple[Array, Array]) -> tuple[Any, ...]:
    q, k, v, segments, positions, out, log_total = saved
    d_out, d_log_total = given
    count = q.shape[0]
    first = _first_block(positions, mask, count)
    f32 = jnp.float32

    def row(carry: tuple[Array, Array], i: Int[Array, ""]) -> tuple[tuple[Array, Array], Array]:
        d_out_i = d_out[i]
        inner = jnp.sum(d_out_i.astype(f32) * out[i].astype(f32), axis=-1, keepdims=True)
        inner -= d_log_total[i][..., None]  # d log_total / d scores = weights

        def visit(j: Int[Array, ""], carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            d_q, d_k, d_v = carry
            scores, visible = _scores(q[i], k[j], i, j, segments, positions, mask, scale)
            weights = jnp.where(visible, jnp.exp(scores - log_total[i][..., None]), 0)
            d_weights = einsum("bkqh,bksh->bkqs", d_out_i, v[j], preferred_element_type=f32)
            d_scores = (weights * (d_weights - inner) * scale).astype(q.dtype)
            d_q += einsum("bkqs,bksh->bkqh", d_scores, k[j], preferred_element_type=f32)
            d_k_j = einsum("bkqs,bkqh->bksh", d_scores, q[i], preferred_element_type=f32)
            d_v_j = einsum("bkqs,bkqh->bksh", weights.astype(q.dtype), d_out_i, preferred_element_type=f32)
            return d_q, d_k.at[j].add(d_k_j), d_v.at[j].add(d_v_j)

        d_q, d_k, d_v = lax.fori_loop(first[i], i + 1, visit, (jnp.zeros(q.shape[1:], f32), *carry))
        return (d_k, d_v), d_q.astype(q.dtype)

    (d_k, d_v), d_q = lax.scan(row, (jnp.zeros(k.shape, f32), jnp.zeros(v.shape, f32)), jnp.arange(count))
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_attend.defvjp(_forward, _backward)


def _scores(
    q: Float[Array, "B K Q H"],
    k: Float[Array, "B K S H"],
    i: Int[Array, ""],
    j: Int[Array, ""],
    segments: Int[Array, "I B S"],
    positions: Int[Array, "I B S"],
    mask: Mask,
    scale: float,
) -> tuple[Float32[Array, "B K Q S"], Bool[Array, "B K Q S"]]:
    """Scores of query block i against key block j, and which of them count; the others are as low as can be."""
    same = segments[i][:, :, None] == segments[j][:, None, :]
    visible = same & mask.visible(positions[i][:, :, None], positions[j][:, None, :])
    visible = jnp.tile(visible, (1, q.shape[2] // k.shape[2], 1))[:, None]
    scores = einsum("bkqh,bksh->bkqs", q, k, preferred_element_type=jnp.float32) * scale
    return jnp.where(visible, scores, HIDDEN), jnp.broadcast_to(visible, scores.shape)


def _first_block(positions: Int[Array, "I B S"], mask: Mask, count: int) -> Int[Array, " I"]:
    """The first block of keys that a query of each block may see: positions count from the start of its document."""
    block = positions.shape[2]
    index = jnp.arange(count * block).reshape(count, 1, block)
    reach = mask.reach(count * block)
    earliest = jnp.where(positions >= 0, index - jnp.minimum(positions, reach - 1), index)
    return jnp.maximum(earliest.min(axis=(1, 2)), 0) // block
