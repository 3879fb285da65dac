"""Decoding with the Pallas kernels that JAX ships for GPUs: each row reads its slots in use, several parts at once.

https://github.com/jax-ml/jax/blob/main/jax/experimental/pallas/ops/gpu/decode_attention.py, for caches in pages
https://github.com/jax-ml/jax/blob/main/jax/experimental/pallas/ops/gpu/paged_attention.py
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Real

from tessy_jax.models.mask import Full, PackedMask, RingMask

BLOCK = 128
"""Slots that the kernel reads at a time."""

LARGEST_PARTS = 16
"""Parts of a row that are read at once, at most: small batches would leave most of a GPU idle."""


def pallas_gpu(
    q: Float[Array, "B C N H"],
    k: Real[Array, "R K S H"],
    v: Real[Array, "R K S H"],
    mask: Bool[Array, "B C _"] | PackedMask | RingMask,
    *,
    scale: float,
    k_scale: Float32[Array, "R K S 1"] | None = None,
    v_scale: Float32[Array, "R K S 1"] | None = None,
    heads_first: bool = False,
    pages: Int[Array, "B T"] | None = None,
    platform: str | None = None,
) -> Float[Array, "B C N*H"]:
    """One token of each row looks at a cache. Arguments: see `attention.attention`.

    Raises:
        NotImplementedError: the kernels have no such form.
    """
    if not isinstance(mask, RingMask) or not heads_first or not isinstance(mask.mask, Full):
        raise _refusal("only the rows of a cache (RingMask, heads_first) whose tokens see all before them")
    if q.shape[1] != 1:
        raise _refusal(f"only one new token per row, not {q.shape[1]}")
    held = k.dtype if k_scale is None else q.dtype  # numbers of 8 bits become queries' numbers as they are read
    if not q.dtype == held or k.dtype != v.dtype or q.dtype not in (jnp.bfloat16, jnp.float16):
        raise _refusal(f"only bfloat16 or float16 throughout, not {q.dtype} and {k.dtype}")
    if q.shape[3] not in (64, 128):
        raise _refusal(f"only heads of 64 or 128, not {q.shape[3]}")
    platform = platform or jax.default_backend()
    if platform not in ("gpu", "cpu"):
        raise _refusal(f"only GPUs, not {platform!r}")

    lengths = jnp.minimum(mask.positions[:, 0] + 1, mask.slots).astype(jnp.int32)
    interpret = platform == "cpu"  # for tests
    if pages is not None:
        out = _of_pages(q[:, 0], k, v, k_scale, v_scale, pages, lengths, scale, interpret)
    elif k_scale is not None:
        raise _refusal("numbers of 8 bits in pages only")
    else:
        out = _of_rows(q[:, 0], k, v, lengths, scale, interpret)
    return out.reshape(*q.shape[:2], -1)


def _of_rows(
    q: Float[Array, "B N H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    lengths: Int[Array, " B"],
    scale: float,
    interpret: bool,
) -> Float[Array, "B N H"]:
    slots = k.shape[2]
    parts = next((n for n in range(LARGEST_PARTS, 0, -1) if slots % (n * BLOCK) == 0), None)
    if parts is None:
        raise _refusal(f"only multiples of {BLOCK} slots, not {slots}")
    from jax.experimental.pallas.ops.gpu.decode_attention import gqa  # late: it takes Triton's half of Pallas along

    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)  # the kernel swaps them back: nothing moves
    return gqa(q, keys, values, None, lengths, scale, block_k=BLOCK, k_splits=parts, interpret=interpret)


def _of_pages(
    q: Float[Array, "B N H"],
    k: Real[Array, "R K P H"],
    v: Real[Array, "R K P H"],
    k_scale: Float32[Array, "R K P 1"] | None,
    v_scale: Float32[Array, "R K P 1"] | None,
    pages: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    scale: float,
    interpret: bool,
) -> Float[Array, "B N H"]:
    """The kernel's pages are [K, R, P, H]. Ours become so without a copy: each head of a row is a row of its own, and
    its pages are those of one head; page r, head h is page r * K + h of R * K.
    """
    (count, kv_heads, page, head_dim), (batch, heads, _) = k.shape, q.shape
    if page > BLOCK or BLOCK % page:
        raise _refusal(f"only pages of a power of two of at most {BLOCK} slots, not {page}")
    from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

    # As many parts as there are blocks, at most; a row's pages fill them up. What is past its end is not read.
    together = BLOCK // page
    parts = min(LARGEST_PARTS, -(-pages.shape[1] // together))
    pages = jnp.pad(jnp.minimum(pages, count - 1), ((0, 0), (0, -pages.shape[1] % (parts * together))))
    tables = pages[:, None] * kv_heads + jnp.arange(kv_heads, dtype=pages.dtype)[:, None]

    def flat(x: Real[Array, "R K P _"] | None) -> Real[Array, "1 _ P _"] | None:
        return None if x is None else x.reshape(1, count * kv_heads, page, x.shape[3])

    factors = [None if x is None else x.reshape(1, count * kv_heads, page) for x in (k_scale, v_scale)]
    out = paged_attention(
        (q * scale).reshape(batch * kv_heads, heads // kv_heads, head_dim),
        flat(k),
        flat(v),
        tables.reshape(batch * kv_heads, -1),
        jnp.repeat(lengths, kv_heads),
        *factors,
        pages_per_compute_block=together,
        k_splits=parts,
        interpret=interpret,
    )
    return out.reshape(batch, heads, head_dim)


def _refusal(what: str) -> NotImplementedError:
    return NotImplementedError(f"attention: 'pallas_gpu' takes {what}.")
