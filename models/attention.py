"""Softmax attention: one signature, its implementations, and the slow reference that tests compare them with.

N query heads share K key/value heads in groups of G = N / K. Scores, softmax and sums are in float32.

A head may have a sink s: a logit that takes part in the softmax's sum and in nothing else (arXiv 2309.17453; GPT-OSS).
With Z = sum_j exp(score_j) that scales what the head gets by Z / (Z + exp(s)) = sigmoid(log Z - s).
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Real

from tessy_jax.models.blockwise import blockwise
from tessy_jax.models.by_length import by_length
from tessy_jax.models.mask import HIDDEN, PackedMask, RingMask
from tessy_jax.models.pallas_gpu import pallas_gpu, pallas_gpu_pages
from tessy_jax.models.pallas_tpu import pallas_tpu
from tessy_jax.models.products import einsum


def attention(
    q: Float[Array, "B C N H"],
    k: Real[Array, "R _ _ H"],
    v: Real[Array, "R _ _ H"],
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
    implementation: str | Sequence[str] = "dense",
) -> Float[Array, "B C N*H"]:
    """For each query the mean of the values it sees, weighted by softmax(scale * q · k): heads side by side.

    Args:
        q: queries of C tokens.
        k, v: keys and values of S tokens, `[R, S, K, H]`; with `heads_first` `[R, K, S, H]`. R = B, or see `rows`.
        mask: what each query sees: an array, or the rule, for packed rows (S = C) and for those of a cache. What a
            query gets that sees nothing is finite and means nothing.
        scale: of the scores, before the softmax.
        sinks: a logit for each query head.
        k_scale, v_scale: factors of int8 keys and values; None: 1.
        heads_first: `k` and `v` have their heads before their tokens, as a cache holds them.
        rows: which row of `k` and `v` each row of queries looks at; None: the same.
        pages: which pages hold the keys and values of each row of queries, in order, with `heads_first`: `k` and `v`
            are then pages, `[R, K, page, H]`, and S = T * page. What a page past the last one would hold is not seen.
        block: tokens per block of "blocks" and "by_length"; None: what suits the platform. Of `pages`: a page.
        platform: what it will run on ("cpu", "gpu", "tpu"); None: this process's default.
        implementation: a key of `IMPLEMENTATIONS`; of several the first that can do what is asked.

    Raises:
        NotImplementedError: the implementation cannot do what is asked of it; the message names both.
        ValueError: there is no such implementation.
    """
    names = (implementation,) if isinstance(implementation, str) else implementation
    options: dict[str, Any] = {"sinks": sinks, "k_scale": k_scale, "v_scale": v_scale, "rows": rows, "pages": pages}
    options |= {"block": block, "heads_first": heads_first or None}
    given = {name: option for name, option in options.items() if option is not None}
    refusals = []
    for name in names:
        if name not in IMPLEMENTATIONS:
            raise ValueError(f"attention: there is no {name!r}. Use one of: {', '.join(IMPLEMENTATIONS)}.")
        try:
            with jax.named_scope(name):
                return _run(name, platform or jax.default_backend(), q, k, v, mask, scale=scale, **given)
        except NotImplementedError as refusal:
            refusals.append(str(refusal))
    raise NotImplementedError("\n".join(refusals))


def _run(name: str, platform: str, *args: Any, **options: Any) -> Float[Array, "B C NH"]:
    run = IMPLEMENTATIONS[name]
    known = inspect.signature(run).parameters.keys()
    if refused := options.keys() - known:
        raise NotImplementedError(f"attention: {name!r} does not take {', '.join(sorted(refused))}.")
    return run(*args, **options, **({"platform": platform} if "platform" in known else {}))


def dense(
    q: Float[Array, "B C N H"],
    k: Real[Array, "R _ _ H"],
    v: Real[Array, "R _ _ H"],
    mask: Bool[Array, "B C S"] | PackedMask | RingMask,
    *,
    scale: float,
    sinks: Float[Array, " N"] | None = None,
    k_scale: Float32[Array, "R K S 1"] | None = None,
    v_scale: Float32[Array, "R K S 1"] | None = None,
    heads_first: bool = False,
    rows: Int[Array, " B"] | None = None,
    pages: Int[Array, "B T"] | None = None,
) -> Float[Array, "B C N*H"]:
    """All [C, S] scores at once: for decoding, and for short rows. Arguments: see `attention`.

    Query heads are grouped by the key/value head they share and stacked with the chunk, so that the cache is read as it
    lies by two plain batched products: not repeated, not transposed, not converted.
    """
    visible = mask.visible() if isinstance(mask, PackedMask | RingMask) else mask
    if not heads_first:
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    k, v, k_scale, v_scale = _of_rows(rows, pages, k, v, k_scale, v_scale)
    batch, chunk, heads, head_dim = q.shape
    kv_heads, slots = k.shape[1:3]
    group = heads // kv_heads

    q = q.reshape(batch, chunk, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * chunk, head_dim)
    scores = einsum("bksh,bkqh->bksq", k.astype(q.dtype), q, preferred_element_type=jnp.float32) * scale
    if k_scale is not None:
        scores *= k_scale
    scores = scores.swapaxes(2, 3).reshape(batch, kv_heads, group, chunk, slots)
    scores = jnp.where(visible[:, None, None], scores, HIDDEN)

    weights = jax.nn.softmax(scores, axis=-1)
    if sinks is not None:
        log_total = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
        weights *= jax.nn.sigmoid(log_total - sinks.astype(jnp.float32).reshape(kv_heads, group, 1, 1))
    if v_scale is not None:
        weights *= v_scale[:, :, None, None, :, 0]

    weights = weights.astype(q.dtype).reshape(batch, kv_heads, group * chunk, slots)
    out = einsum("bkqs,bksh->bkqh", weights, v.astype(q.dtype)).reshape(batch, kv_heads, group, chunk, head_dim)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, chunk, heads * head_dim)


def reference(
    q: Float[Array, "B C N H"],
    k: Real[Array, "R _ _ H"],
    v: Real[Array, "R _ _ H"],
    mask: Bool[Array, "B C S"] | PackedMask | RingMask,
    *,
    scale: float,
    sinks: Float[Array, " N"] | None = None,
    k_scale: Float32[Array, "R K S 1"] | None = None,
    v_scale: Float32[Array, "R K S 1"] | None = None,
    heads_first: bool = False,
    rows: Int[Array, " B"] | None = None,
    pages: Int[Array, "B T"] | None = None,
) -> Float32[Array, "B C N*H"]:
    """What attention is, written down as the papers do, slow and in float32: for tests. A sink is one more score, whose
    weight is dropped. A query that sees nothing gets zero. Arguments: see `attention`.
    """
    visible = mask.visible() if isinstance(mask, PackedMask | RingMask) else mask
    k, v, k_scale, v_scale = _of_rows(rows, pages, k, v, k_scale, v_scale)
    keys, values = (x.astype(jnp.float32) if heads_first else x.astype(jnp.float32).swapaxes(1, 2) for x in (k, v))
    keys, values = keys * (1 if k_scale is None else k_scale), values * (1 if v_scale is None else v_scale)
    heads = q.shape[2]
    keys, values = (jnp.repeat(x, heads // x.shape[1], axis=1) for x in (keys, values))  # each query head its own

    scores = einsum("bcnh,bnsh->bncs", q.astype(jnp.float32), keys) * scale
    sink = jnp.full(heads, -jnp.inf) if sinks is None else sinks.astype(jnp.float32)
    column = jnp.broadcast_to(sink[:, None, None], (*scores.shape[:-1], 1))
    scores = jnp.concatenate([jnp.where(visible[:, None], scores, HIDDEN), column], axis=-1)
    weights = jnp.where(visible[:, None], jax.nn.softmax(scores, axis=-1)[..., :-1], 0)
    return einsum("bncs,bnsh->bcnh", weights, values).reshape(*q.shape[:2], -1)


def _of_rows(rows: Int[Array, " B"] | None, pages: Int[Array, "B T"] | None, *arrays: Array | None) -> Any:
    """The rows of each array that are looked at, their pages put together; indices beyond the last row mean it."""

    def part(x: Real[Array, "R K S _"]) -> Real[Array, "B K _ _"]:
        if pages is None:
            return x if rows is None else x.at[rows].get(mode="clip")
        found = jnp.moveaxis(x.at[pages].get(mode="clip"), 1, 2)
        return found.reshape(*found.shape[:2], -1, found.shape[-1])

    return tuple(None if x is None else part(x) for x in arrays)


IMPLEMENTATIONS: dict[str, Callable[..., Float[Array, "B C N*H"]]] = {
    "dense": dense,
    "blocks": blockwise,
    "by_length": by_length,
    "pallas_gpu": pallas_gpu,
    "pallas_gpu_pages": pallas_gpu_pages,
    "pallas_tpu": pallas_tpu,
}
"""Ways to compute `attention`. Each takes the options that it can do, and no others."""

TO_A_CACHE = {
    "gpu": ("pallas_gpu", "by_length", "dense"),
    "tpu": ("pallas_tpu", "by_length", "dense"),
}
"""What is tried in turn, by platform, where new tokens look at a cache. For 32 rows of 8,000
tokens in a bfloat16 cache of 40,960 slots, on an H200, the Pallas kernel reads what is in use at 97 % of the bandwidth,
"by_length" at 13 to 22 %, and "dense" at 18 %, for it reads all slots (docs/benchmarks.md). "pallas_gpu_pages" is not
among them before it has run on one. Nothing was measured on a
TPU: there the compiler's estimates decided (docs/scale.md).
"""

ON_OTHER_PLATFORMS = ("by_length", "dense")
"""The same on the other platforms: a ring as short as a block is looked at as a whole."""


def to_a_cache(platform: str) -> tuple[str, ...]:
    """Implementations to try in turn, on a platform, where new tokens look at a cache."""
    return TO_A_CACHE.get(platform, ON_OTHER_PLATFORMS)
