"""A cache in pages holds what rings hold, wherever the pages lie and whoever had them before."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType

from tessy_jax import models
from tessy_jax.engine.pages import Pages, RowPages
from tessy_jax.models.cache import Pool
from tests.kit import tiny

B, LENGTH, PAGE = 4, 40, 8
MESH = {"data": 2, "fsdp": 1, "tensor": 2}
FORMS: dict[str, tuple[Any, dict[str, int]]] = {
    "qwen3": (jnp.int8, {}),  # grouped heads
    "gemma3": (jnp.float32, {}),  # windows beside
    "gpt_oss": (jnp.float32, MESH),  # sinks; keys and values side by side, as on TPUs
    "deepseek_v3": (jnp.float32, MESH),  # latents
}


@pytest.mark.parametrize("family", FORMS)
def test_pages_hold_what_rings_hold(family: str, tmp_path: Any) -> None:
    """Prompts, some rows alone, a rollback, and a row whose pages go to others while it begins again."""
    dtype, axes = FORMS[family]
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * 3) if axes else None
    getattr(tiny, family)(tmp_path, vocab_size=90)
    model = models.load(tmp_path, mesh=mesh)
    graph, params = nnx.split(model)
    ways = axes.get("data", 1)
    pool = Pool(pages=ways * 10, page=PAGE, lanes=2 * model.config.head_dim if family == "gpt_oss" else 0)
    pages = Pages(pool, B, LENGTH, ways, ways)
    ring = models.init_cache(model.config, B, LENGTH, 24, dtype, mesh=mesh)
    paged = models.init_cache(model.config, B, LENGTH, 24, dtype, pool=pool, mesh=mesh)
    assert sum(x.nbytes for x in jax.tree.leaves(paged)) != sum(x.nbytes for x in jax.tree.leaves(ring))
    assert any(layer.paged for layer in paged.layers)
    assert any(layer.joined for layer in paged.layers) == (family == "gpt_oss")
    where = None if paged.table is None else paged.table.sharding

    @jax.jit
    def feed(params: Any, tokens: Any, positions: Any, cache: Any, rows: Any) -> Any:
        hidden, cache = nnx.merge(graph, params)(tokens, positions, cache.of_rows(rows))
        return hidden, cache.of_rows(None)

    rng = np.random.default_rng(1)

    def both(first: list[int], chunk: int, rows: list[int] | None = None) -> None:
        """Feeds `chunk` tokens from these positions on; -1: padding."""
        nonlocal ring, paged
        at = np.asarray(first)[:, None]
        positions = np.where(at < 0, -1, at + np.arange(chunk))
        tokens = rng.integers(0, 90, positions.shape)
        paged = paged.with_table(jax.device_put(pages.table, where))
        some = None if rows is None else jnp.asarray(rows)
        expected, ring = feed(params, tokens, positions, ring, some)
        found, paged = feed(params, tokens, positions, paged, some)
        live = (positions >= 0)[..., None]
        assert np.any(live)
        np.testing.assert_allclose(np.where(live, found, 0), np.where(live, expected, 0), atol=2e-5)

    for row in (2, 0, 3, 1):  # no row's pages lie in order
        pages.hold(row, 9)
    for row in range(B):
        pages.hold(row, 14 + row)
    both([0, 0, 0, 0], 12, rows=[0, 1, 2, 3])
    both([12, -1, 12, 12], 1)
    both([9, 12, -1, 13], 1)  # row 0 goes on from an earlier place
    pages.hold(2, 0)
    pages.hold(3, 30)
    both([10, 13, -1, 14], 1)
    pages.hold(3, 20)
    pages.hold(2, 20)  # pages that two other rows have had
    both([-1, -1, 0, -1], 12, rows=[B, B, 2, B])
    both([11, 14, 12, 15], 1)
    for layer in paged.layers:  # of two rows of 9 tokens
        assert paged.in_use(layer, 9, 2) == (4 / pool.pages if layer.paged else 9 / paged.slots(layer))
    assert np.array_equal(paged.room(), PAGE * np.asarray([pages.held(row) for row in range(B)]))


def test_what_a_row_has_no_page_for_is_not_written(tmp_path: Any) -> None:
    tiny.qwen3(tmp_path, vocab_size=90)
    model = models.load(tmp_path)
    cache = models.init_cache(model.config, 2, LENGTH, 8, pool=Pool(6, PAGE))
    table = np.full((2, 5), 6, np.int32)
    table[0, 0] = 4
    positions = jnp.asarray([np.arange(12), np.arange(12)])
    _, cache = model(jnp.ones((2, 12), int), positions, cache.with_table(jnp.asarray(table)))
    for layer in cache.layers:
        written = np.flatnonzero(np.asarray(layer.k).any(axis=(1, 2, 3)))
        assert written.tolist() == [4]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=60), st.sampled_from([1, 2, 3]))
def test_no_page_is_lost_or_dealt_out_twice(moves: list[tuple[int, int]], ways: int) -> None:
    """Two caches of which one is smaller: a row gets what it needs of both, or nothing."""
    pools = [Pool(ways * 6, 8), Pool(ways * 11, 4)]
    both = [Pages(pool, 6, 40, ways, ways) for pool in pools]
    rows = RowPages([both[0], None, both[1]])
    for row, tokens in moves:
        before = [pages.table.copy() for pages in both]
        sizes = [tokens, 10**6, min(40, 2 * tokens)]
        if not rows.hold(row, sizes):
            assert all(np.array_equal(pages.table, old) for pages, old in zip(both, before, strict=True))
        else:
            assert [pages.held(row) for pages in both] == [-(-tokens // 8), -(-sizes[2] // 4)]
        for pages, pool in zip(both, pools, strict=True):
            each = pool.pages // ways
            for shard in range(ways):
                mine = [r for r in range(6) if pages.shard(r) == shard]
                dealt = pages.table[mine][pages.table[mine] < pool.pages].tolist()
                assert len(set(dealt)) == len(dealt) == each - pages.free(mine[0])
                assert all(page < each for page in dealt)
        assert rows.taken == sum(pages.held(row) for row in range(6) for pages in both)
    for row in range(6):
        rows.release(row)
    assert [pages.free(0) for pages in both] == [6, 11]
    assert rows.taken == 0


PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=14)


@given(st.lists(st.tuples(st.integers(0, 5), PROMPTS, st.integers(0, 20)), max_size=40), st.sampled_from([1, 2]))
def test_prompts_that_begin_alike_share_pages(moves: list[tuple[int, list[int], int]], ways: int) -> None:
    """Rows begin, grow and go. A page is shared where all tokens up to its end are, by rows of one part of the batch,
    and nobody writes it; a page is free when nobody has it.
    """
    pages = Pages(Pool(ways * 15, 3), 6, 40, ways, ways)
    rows, prompts = RowPages([pages]), dict[int, list[int]]()
    for row, prompt, more in moves:
        if row in prompts and more % 2:
            rows.release(row)
            del prompts[row]
        elif row in prompts:
            rows.hold(row, [len(prompts[row]) + more])
        else:
            longest = max(
                (_alike(prompt, p) for r, p in prompts.items() if pages.shard(r) == pages.shard(row)), default=0
            )
            found = rows.begin(row, [prompt], [len(prompt) + more])
            if found is None:
                assert not pages.held(row)
                continue
            assert found == [min(longest, len(prompt) - 1) // 3 * 3]
            assert np.sum(pages.writable[row] < ways * 15) == pages.held(row) - found[0] // 3
            prompts[row] = prompt
            rows.seal()
        for shard in range(ways):
            mine = [r for r in range(6) if pages.shard(r) == shard]
            dealt = pages.table[mine][pages.table[mine] < ways * 15]
            assert len(set(dealt.tolist())) == 15 - pages.free(mine[0])
            writable = pages.writable[mine][pages.writable[mine] < ways * 15].tolist()
            assert all(np.sum(dealt == page) == 1 for page in writable)
        for row, prompt in prompts.items():
            sealed = pages.table[row][pages.table[row] != pages.writable[row]]
            assert len(sealed) == (len(prompt) - 1) // 3
    for row in range(6):
        rows.release(row)
    assert [pages.free(row) for row in range(6)] == [15] * 6


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens are the same up to the first difference; the last one of `other` is not shared."""
    same = np.asarray([a == b for a, b in zip(one, other[:-1], strict=False)], bool)
    return int(np.cumprod(same).sum())
