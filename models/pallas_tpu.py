"""Decoding on TPUs with a Pallas kernel of our own: each row reads the pages that hold its tokens, and no others.

The grid goes over rows and, within a row, over its pages; the table of pages and the rows' lengths are there before the
kernel starts, so that the next page is on its way while one is multiplied. Behind a row's last page the grid names that
page again, and what has been fetched is not fetched twice: a short row costs little in a table for long ones.
https://docs.jax.dev/en/latest/pallas/tpu/sparse.html
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real

from tessy_jax.models.mask import HIDDEN, Full, PackedMask, RingMask
from tessy_jax.models.products import precision_of

LANES = 128
"""Numbers of a register's row: those of a head must fill it."""

SUBLANES = 16
"""Rows of a tile of 16-bit numbers: a kernel's queries are filled up to a multiple."""


def pallas_tpu(
    q: Float[Array, "B C N H"],
    k: Real[Array, "R K _ H"],
    v: Real[Array, "R K _ H"],
    mask: Bool[Array, "B C S"] | PackedMask | RingMask,
    *,
    scale: float,
    sinks: Float[Array, " N"] | None = None,
    heads_first: bool = False,
    pages: Int[Array, "B T"] | None = None,
    platform: str | None = None,
) -> Float[Array, "B C N*H"]:
    """One token of each row looks at a cache in pages, which are fetched once where `v` is `k`. Arguments: see
    `attention.attention`.

    Raises:
        NotImplementedError: the kernel has no such form.
    """
    if pages is None or not isinstance(mask, RingMask) or not heads_first or not isinstance(mask.mask, Full):
        raise _refusal("only caches in pages (RingMask, heads_first) whose tokens see all before them")
    if q.shape[1] != 1:
        raise _refusal(f"only one new token per row, not {q.shape[1]}")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (jnp.bfloat16, jnp.float32):
        raise _refusal(f"only bfloat16 or float32 throughout, not {q.dtype} and {k.dtype}")
    if q.shape[3] % LANES:  # or the compiler copies all pages into wider ones, at every step
        raise _refusal(f"only heads of a multiple of {LANES}, not {q.shape[3]}")
    platform = platform or jax.default_backend()
    if platform not in ("tpu", "cpu"):
        raise _refusal(f"only TPUs, not {platform!r}")
    from jax.experimental import pallas as pl  # late: it takes a second
    from jax.experimental.pallas import tpu as pltpu

    batch, _, heads, head_dim = q.shape
    count, kv_heads, page, _ = k.shape
    group = heads // kv_heads
    rows = -(-group // SUBLANES) * SUBLANES
    grouped = jnp.pad(q.reshape(batch, kv_heads, group, head_dim), ((0, 0), (0, 0), (0, rows - group), (0, 0)))
    logits = jnp.full(heads, -jnp.inf, jnp.float32) if sinks is None else sinks.astype(jnp.float32)
    logits = jnp.pad(logits.reshape(kv_heads, group, 1), ((0, 0), (0, rows - group), (0, 0)))
    lengths = jnp.minimum(mask.positions[:, 0] + 1, mask.slots).astype(jnp.int32)

    def of_row(row: Any, *_: Any) -> tuple[Any, ...]:
        return row, 0, 0, 0

    def of_page(row: Any, at: Any, pages: Any, lengths: Any) -> tuple[Any, ...]:
        last = lax.div(jnp.maximum(lengths[row] - 1, 0), page)  # `//` asks for the chip, which a plan has none of
        return jnp.minimum(pages[row, jnp.minimum(at, last)], count - 1), 0, 0, 0

    def of_heads(*_: Any) -> tuple[int, ...]:
        return 0, 0, 0

    whole = pl.BlockSpec((1, kv_heads, rows, head_dim), of_row)
    keys = pl.BlockSpec((1, kv_heads, page, head_dim), of_page)
    column = pltpu.VMEM((kv_heads, rows, 1), jnp.float32)
    read = (k,) if v is k else (k, v)
    out = pl.pallas_call(
        functools.partial(_of_one if v is k else _kernel, scale=scale, page=page),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, pages.shape[1]),
            in_specs=[whole, *([keys] * len(read)), pl.BlockSpec((kv_heads, rows, 1), of_heads)],
            out_specs=whole,
            scratch_shapes=[column, column, pltpu.VMEM((kv_heads, rows, head_dim), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct(grouped.shape, q.dtype),
        interpret=platform == "cpu",  # for tests
        name="paged_attention",
    )(pages, lengths, grouped, *read, logits)
    return out[:, :, :group].reshape(batch, 1, heads * head_dim)


def _kernel(
    pages: Any, lengths: Any, q: Any, k: Any, v: Any, sinks: Any, out: Any, top: Any, total: Any, sums: Any, *,
    scale: float, page: int,
) -> None:  # fmt: skip
    """One page of one row; `top`, `total` and `sums` are the running softmax of the row."""
    from jax.experimental import pallas as pl

    row, at = pl.program_id(0), pl.program_id(1)

    @pl.when(at == 0)
    def _begin() -> None:
        top[...] = jnp.full(top.shape, HIDDEN, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        sums[...] = jnp.zeros(sums.shape, jnp.float32)

    @pl.when(at * page < lengths[row])
    def _take() -> None:
        scores = _product(q[0], k[0], ((2,), (2,))) * scale
        seen = at * page + lax.broadcasted_iota(jnp.int32, scores.shape, 2) < lengths[row]
        scores = jnp.where(seen, scores, HIDDEN)
        highest = jnp.maximum(top[...], scores.max(axis=-1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(scores - highest), 0)
        shrink = jnp.exp(top[...] - highest)
        total[...] = total[...] * shrink + weights.sum(axis=-1, keepdims=True)
        sums[...] = sums[...] * shrink + _product(weights.astype(q.dtype), v[0], ((2,), (1,)))
        top[...] = highest

    @pl.when(at == pl.num_programs(1) - 1)
    def _end() -> None:
        # A row that is not fed has no length, and gets zero.
        all_of_it = total[...] + jnp.where(total[...] > 0, jnp.exp(sinks[...] - top[...]), 1)
        out[0] = (sums[...] / all_of_it).astype(out.dtype)


def _of_one(pages: Any, lengths: Any, q: Any, k: Any, *rest: Any, **options: Any) -> None:
    """The same where a page's keys are its values."""
    _kernel(pages, lengths, q, k, k, *rest, **options)


def _product(a: Any, b: Any, contracted: tuple[tuple[int, ...], tuple[int, ...]]) -> Any:
    return lax.dot_general(
        a, b, (contracted, ((0,), (0,))), precision=precision_of(a, b), preferred_element_type=jnp.float32
    )


def _refusal(what: str) -> NotImplementedError:
    return NotImplementedError(f"attention: 'pallas_tpu' takes {what}.")
