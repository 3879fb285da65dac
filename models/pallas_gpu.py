"""Decoding with the Pallas kernel that JAX ships for GPUs: each row reads its slots in use, several parts at once.

https://github.com/jax-ml/jax/blob/main/jax/experimental/pallas/ops/gpu/decode_attention.py
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

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
    """One token of each row looks at a cache. Arguments: see `attention.attention`.

    Raises:
        NotImplementedError: the kernel has no such form.
    """
    if not isinstance(mask, RingMask) or not heads_first or not isinstance(mask.mask, Full):
        raise _refusal("only the rows of a cache (RingMask, heads_first) whose tokens see all before them")
    slots, head_dim = k.shape[2:]
    parts = next((n for n in range(LARGEST_PARTS, 0, -1) if slots % (n * BLOCK) == 0), None)
    if q.shape[1] != 1:
        raise _refusal(f"only one new token per row, not {q.shape[1]}")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (jnp.bfloat16, jnp.float16):
        raise _refusal(f"only bfloat16 or float16 throughout, not {q.dtype} and {k.dtype}")
    if parts is None or head_dim not in (64, 128):
        raise _refusal(f"only multiples of {BLOCK} slots and heads of 64 or 128, not {slots} and {head_dim}")
    platform = platform or jax.default_backend()
    if platform not in ("gpu", "cpu"):
        raise _refusal(f"only GPUs, not {platform!r}")
    from jax.experimental.pallas.ops.gpu.decode_attention import gqa  # late: it takes Triton's half of Pallas along

    lengths = jnp.minimum(mask.positions[:, 0] + 1, slots)
    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)  # the kernel swaps them back: nothing moves
    interpret = platform == "cpu"  # for tests
    out = gqa(q[:, 0], keys, values, None, lengths, scale, block_k=BLOCK, k_splits=parts, interpret=interpret)
    return out.reshape(*q.shape[:2], -1)


def _refusal(what: str) -> NotImplementedError:
    return NotImplementedError(f"attention: 'pallas_gpu' takes {what}.")
