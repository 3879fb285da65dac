"""Attention of new tokens to a cache in pages that multiplies all pages as they lie, each by its own row's queries.

Nothing is gathered: the pool goes through two batched products, and the pages' parts of a softmax are put together by
row (split attention, as in Flash-Decoding). A pool is as large as what rows hold together, not as the longest of them.
On two CPU cores a block that is copied out of a cache first, as `by_length` does, costs what three read in place do.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Real

from tessy_jax.models.mask import HIDDEN, Full, PackedMask, RingMask

LARGEST_CHUNK = 16
"""New tokens of a row, at most: prompts are of few rows, and all pages would be multiplied for these."""


def by_page(
    q: Float[Array, "B C N H"],
    k: Real[Array, "R K _ H"],
    v: Real[Array, "R K _ H"],
    mask: Bool[Array, "B C S"] | PackedMask | RingMask,
    *,
    scale: float,
    sinks: Float[Array, " N"] | None = None,
    k_scale: Float32[Array, "R K _ 1"] | None = None,
    v_scale: Float32[Array, "R K _ 1"] | None = None,
    heads_first: bool = False,
    pages: Int[Array, "B T"] | None = None,
) -> Float[Array, "B C N*H"]:
    """Attention that reads the pool of pages once. The output of tokens at negative positions is zero. No two rows
    share a page. The arguments are those of `attention.attention`.

    Raises:
        NotImplementedError: it is no cache in pages that is looked at, or by many tokens of a row.
    """
    if pages is None or not isinstance(mask, RingMask) or not heads_first or not isinstance(mask.mask, Full):
        raise NotImplementedError("attention: 'by_page' takes caches in pages (RingMask, heads_first, Full) only.")
    batch, chunk, heads, head_dim = q.shape
    if chunk > LARGEST_CHUNK:
        raise NotImplementedError(
            f"attention: 'by_page' takes {LARGEST_CHUNK} new tokens per row at most, not {chunk}."
        )
    count, kv_heads, page, _ = k.shape
    group = heads // kv_heads

    # Whose page it is, and which of the row's; nobody's: `batch`, which is past the last row.
    row = jnp.full(count, batch).at[pages].set(jnp.arange(batch)[:, None], mode="drop")
    place = jnp.zeros(count, int).at[pages].set(jnp.arange(pages.shape[1]), mode="drop")
    at = place[:, None] * page + jnp.arange(page)
    positions = mask.positions.at[row].get(mode="fill", fill_value=-1)
    visible = mask.mask.visible(positions[:, :, None], at[:, None])
    visible = jnp.tile(visible, (1, group, 1))[:, None]

    q = q.reshape(batch, chunk, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * chunk, head_dim)
    mine = q.at[row].get(mode="clip")

    # Each page's softmax, from the highest of its scores.
    scores = jnp.einsum("pksh,pkqh->pksq", k.astype(q.dtype), mine, preferred_element_type=jnp.float32) * scale
    if k_scale is not None:
        scores *= k_scale
    scores = jnp.where(visible, scores.swapaxes(2, 3), HIDDEN)
    top = scores.max(-1)
    weights = jnp.where(visible, jnp.exp(scores - top[..., None]), 0)
    total = weights.sum(-1)
    if v_scale is not None:
        weights *= v_scale.swapaxes(2, 3)
    weights = weights.astype(q.dtype)
    out = jnp.einsum("pkqs,pksh->pkqh", weights, v.astype(q.dtype), preferred_element_type=jnp.float32)

    # All pages of a row, from the highest of all.
    highest = jnp.full((batch, *top.shape[1:]), HIDDEN).at[row].max(top, mode="drop")
    shrink = jnp.exp(top - highest.at[row].get(mode="clip"))
    total = jnp.zeros_like(highest).at[row].add(total * shrink, mode="drop")
    out = jnp.zeros(q.shape, jnp.float32).at[row].add(out * shrink[..., None], mode="drop")

    seen = total > 0
    total = jnp.where(seen, total, 1)
    if sinks is not None:
        sink = jnp.repeat(sinks.astype(jnp.float32).reshape(kv_heads, group), chunk, axis=1)
        total /= jax.nn.sigmoid(jnp.where(seen, highest + jnp.log(total), 0) - sink)
    out = (out / total[..., None]).astype(q.dtype).reshape(batch, kv_heads, group, chunk, head_dim)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, chunk, heads * head_dim)
