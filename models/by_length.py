"""Attention of new tokens to a cache's rows that reads what is there, block by block, to the longest row's end.

A cache holds room for the longest text, and most of it is empty most of the time. The number of blocks is known at run
time alone, so this is a loop with a running softmax (FlashAttention, arXiv 2205.14135) in plain JAX.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, Real

from tessy_jax.models.mask import HIDDEN, PackedMask, RingMask
from tessy_jax.models.products import einsum

BLOCKS = {"cpu": 128}
"""Slots per block by platform, at most. A round of the loop costs more on accelerators: their blocks are larger."""

ACCELERATOR_BLOCK = 512
"""Slots per block on the other platforms."""

CPU_CACHE, SMALLEST = 2 << 20, 32
"""Bytes, and slots. A CPU copies a block, then multiplies it: a block of all rows' keys should stay in its caches. 16
rows of 3 heads of 64 take 85 ms in 30 layers with 600 slots in use, with blocks of 256 slots 170 to 260; 32 rows 260 ms
with 900 in use instead of 750 (two cores, 1 MiB of second-level cache, 32 of third). No block has fewer slots.
"""


def block_on(platform: str, slot: int = 0) -> int:
    """Slots per block that suit a platform ("cpu", "gpu", "tpu"); `slot`: bytes of the keys of all rows in one."""
    block = BLOCKS.get(platform, ACCELERATOR_BLOCK)
    while platform == "cpu" and block > SMALLEST and block * slot > CPU_CACHE:
        block //= 2
    return block


def pages_on(platform: str, page: int, most: int) -> int:
    """Pages of a row, of `page` slots each, that suit a platform as a block; `most`: as many as a row has."""
    return 1 if platform == "cpu" else min(most, max(1, ACCELERATOR_BLOCK // page))


def by_length(
    q: Float[Array, "B C N H"],
    k: Real[Array, "R K S H"],
    v: Real[Array, "R K S H"],
    mask: Bool[Array, "B C S"] | PackedMask | RingMask,
    *,
    scale: float,
    sinks: Float[Array, " N"] | None = None,
    k_scale: Float32[Array, "R K S 1"] | None = None,
    v_scale: Float32[Array, "R K S 1"] | None = None,
    heads_first: bool = False,
    rows: Int[Array, " B"] | None = None,
    pages: Int[Array, "B T"] | None = None,
    block: int | None = None,
    platform: str | None = None,
) -> Float[Array, "B C N*H"]:
    """Attention that reads as many blocks of slots as the longest row has in use.

    A row whose tokens all have negative positions has no length; the output of such tokens is zero. What a row gets
    does not depend on the others: blocks behind its end change nothing, not by a bit. The other arguments are those of
    `attention.attention`.

    Raises:
        NotImplementedError: it is no cache that is looked at, or one of a single block.
    """
    if not isinstance(mask, RingMask) or not heads_first:
        raise NotImplementedError("attention: 'by_length' takes the rows of a cache (RingMask, heads_first) only.")
    platform = platform or jax.default_backend()
    if pages is not None:
        together = pages_on(platform, k.shape[2], pages.shape[1])
        pages = jnp.pad(pages, ((0, 0), (0, -pages.shape[1] % together)))
        block, slots = k.shape[2] * together, k.shape[2] * pages.shape[1]
    else:
        block = block or block_on(platform, q.shape[0] * k.shape[1] * k.shape[3] * k.itemsize)
        slots = k.shape[2]
        if slots <= block:
            raise NotImplementedError(f"attention: 'by_length' takes more slots than those of one block, {block}.")
    batch, chunk, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    q = q.reshape(batch, chunk, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * chunk, head_dim)

    def visit(i: Int[Array, ""], carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, out = carry
        start = jnp.minimum(i * block, slots - block)  # the last block lies over the one before it
        at = start + jnp.arange(block)
        visible = mask.visible(at) & (at >= i * block)
        visible = jnp.tile(visible, (1, group, 1))[:, None]

        scores = einsum("bkqh,bksh->bkqs", q, part(k, start), preferred_element_type=jnp.float32) * scale
        if k_scale is not None:
            scores *= part(k_scale, start).swapaxes(2, 3)
        scores = jnp.where(visible, scores, HIDDEN)
        new_top = jnp.maximum(top, scores.max(-1))
        weights = jnp.where(visible, jnp.exp(scores - new_top[..., None]), 0)
        shrink = jnp.exp(top - new_top)
        total = total * shrink + weights.sum(-1)

        if v_scale is not None:
            weights *= part(v_scale, start).swapaxes(2, 3)
        weights = weights.astype(q.dtype)
        new = einsum("bkqs,bksh->bkqh", weights, part(v, start), preferred_element_type=jnp.float32)
        return new_top, total, out * shrink[..., None] + new

    def part(x: Real[Array, "R K S _"], start: Int[Array, ""]) -> Real[Array, "B K _ _"]:
        sizes = (1, kv_heads, block, x.shape[3])
        if pages is not None:
            found = x.at[lax.dynamic_slice_in_dim(pages, start // x.shape[2], together, axis=1)].get(mode="clip")
            x = found.swapaxes(1, 2).reshape(batch, kv_heads, block, x.shape[3])
        elif rows is None:
            x = lax.dynamic_slice_in_dim(x, start, block, axis=2)
        else:
            x = jax.vmap(lambda row: lax.dynamic_slice(x, (row, 0, start, 0), sizes)[0])(rows)
        return x.astype(q.dtype) if x.shape[3] > 1 else x

    used = jnp.minimum(mask.positions.max() + 1, slots)
    shape = q.shape[:-1]
    start = (jnp.full(shape, HIDDEN), jnp.zeros(shape, jnp.float32), jnp.zeros(q.shape, jnp.float32))
    top, total, out = lax.fori_loop(0, (used + block - 1) // block, visit, start)

    seen = total > 0
    total = jnp.where(seen, total, 1)
    if sinks is not None:
        sink = jnp.repeat(sinks.astype(jnp.float32).reshape(kv_heads, group), chunk, axis=1)
        total /= jax.nn.sigmoid(jnp.where(seen, top + jnp.log(total), 0) - sink)
    out = (out / total[..., None]).astype(q.dtype).reshape(batch, kv_heads, group, chunk, head_dim)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, chunk, heads * head_dim)
