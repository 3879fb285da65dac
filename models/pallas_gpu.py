"""Decoding with the Pallas kernels that JAX ships for GPUs: each row reads its slots in use, several parts at once.

https://github.com/jax-ml/jax/blob/main/jax/experimental/pallas/ops/gpu/decode_attention.py, for caches in pages
https://github.com/jax-ml/jax/blob/main/jax/experimental/pallas/ops/gpu/paged_attention.py
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Real

from tessy_jax.models.mask import Full, PackedMask, RingMask

BLOCK = 128
"""Slots that the kernel reads at a time."""

LARGEST_PARTS = 16
"""Parts of a row that are read at once, at most: small batches would leave most of a GPU idle."""


def pallas_gpu(
    q: Float[Array, "B C N H"],
    k: Real[Array, "B K S H"],
    v: Real[Array, "B K S H"],
    mask: Bool[Array, "B C S"] | PackedMask | RingMask,
    *,
    scale: float,
    heads_first: bool = False,
    platform: str | None = None,
) -> Float[Array, "B C N*H"]:
    """One token of each row looks at its own slots. Arguments: see `attention.attention`.

    Raises:
        NotImplementedError: the kernel has no such form.
    """
    platform = platform or jax.default_backend()
    lengths, slots = _lengths(q, mask, heads_first, platform), k.shape[2]
    parts = next((n for n in range(LARGEST_PARTS, 0, -1) if slots % (n * BLOCK) == 0), None)
    if not q.dtype == k.dtype == v.dtype:
        raise _refusal(f"only one dtype throughout, not {q.dtype} and {k.dtype}")
    if parts is None:
        raise _refusal(f"only multiples of {BLOCK} slots, not {slots}")
    from jax.experimental.pallas.ops.gpu.decode_attention import gqa  # late: it takes Triton's half of Pallas along

    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)  # the kernel swaps them back: nothing moves
    interpret = platform == "cpu"  # for tests
    out = gqa(q[:, 0], keys, values, None, lengths, scale, block_k=BLOCK, k_splits=parts, interpret=interpret)
    return out.reshape(*q.shape[:2], -1)


def pallas_gpu_pages(
    q: Float[Array, "B C N H"],
    k: Real[Array, "R K P H"],
    v: Real[Array, "R K P H"],
    mask: Bool[Array, "B C S"] | PackedMask | RingMask,
    *,
    scale: float,
    k_scale: Float32[Array, "R K P 1"] | None = None,
    v_scale: Float32[Array, "R K P 1"] | None = None,
    heads_first: bool = False,
    pages: Int[Array, "B T"] | None = None,
    platform: str | None = None,
) -> Float[Array, "B C N*H"]:
    """One token of each row looks at a cache in pages. Arguments: see `attention.attention`.

    The kernel's pages are [K, R, P, H]. Ours become so without a copy: each head of a row is a row of its own, and its
    pages are those of one head; page r, head h is page r * K + h of R * K.

    Raises:
        NotImplementedError: the kernel has no such form.
    """
    if pages is None:
        raise _refusal("only caches in pages", "pallas_gpu_pages")
    platform = platform or jax.default_backend()
    lengths = _lengths(q, mask, heads_first, platform)
    (count, kv_heads, page, head_dim), (batch, _, heads, _) = k.shape, q.shape
    if k.dtype != v.dtype or k.dtype != (q.dtype if k_scale is None else jnp.int8):
        raise _refusal(f"only the queries' dtype or numbers of 8 bits, not {k.dtype}", "pallas_gpu_pages")
    if page > BLOCK or BLOCK % page:
        raise _refusal(f"only pages of a power of two of at most {BLOCK} slots, not {page}", "pallas_gpu_pages")
    from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention  # late, as above

    # As many parts as there are blocks, at most; a row's pages fill them up. What is past its end is not read.
    together = BLOCK // page
    parts = min(LARGEST_PARTS, -(-pages.shape[1] // together))
    pages = jnp.pad(jnp.minimum(pages, count - 1), ((0, 0), (0, -pages.shape[1] % (parts * together))))
    tables = pages[:, None] * kv_heads + jnp.arange(kv_heads, dtype=pages.dtype)[:, None]

    out = paged_attention(
        (q * scale).reshape(batch * kv_heads, heads // kv_heads, head_dim),
        k.reshape(1, count * kv_heads, page, head_dim),
        v.reshape(1, count * kv_heads, page, head_dim),
        tables.reshape(batch * kv_heads, -1),
        jnp.repeat(lengths, kv_heads),
        *(None if x is None else x.reshape(1, count * kv_heads, page) for x in (k_scale, v_scale)),
        pages_per_compute_block=together,
        k_splits=parts,
        interpret=platform == "cpu",  # for tests
    )
    return out.reshape(batch, 1, heads * head_dim)


def _lengths(
    q: Float[Array, "B C N H"], mask: Bool[Array, "B C S"] | PackedMask | RingMask, heads_first: bool, platform: str
) -> Int32[Array, " B"]:
    """How many tokens each row sees. Raises NotImplementedError for what both kernels do not do."""
    if not isinstance(mask, RingMask) or not heads_first or not isinstance(mask.mask, Full):
        raise _refusal("only the rows of a cache (RingMask, heads_first) whose tokens see all before them")
    if q.shape[1] != 1:
        raise _refusal(f"only one new token per row, not {q.shape[1]}")
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise _refusal(f"only bfloat16 or float16, not {q.dtype}")
    if q.shape[3] not in (64, 128):
        raise _refusal(f"only heads of 64 or 128, not {q.shape[3]}")
    if platform not in ("gpu", "cpu"):
        raise _refusal(f"only GPUs, not {platform!r}")
    return jnp.minimum(mask.positions[:, 0] + 1, mask.slots).astype(jnp.int32)


def _refusal(what: str, name: str = "pallas_gpu") -> NotImplementedError:
    return NotImplementedError(f"attention: '{name}' takes {what}.")
