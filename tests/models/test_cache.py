"""What a cache costs beside the memory it takes: nothing that grows with its room."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType

from tessy_jax import models
from tessy_jax.models.by_length import BLOCKS
from tests.kit import tiny

B = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("qwen3")
    tiny.qwen3(folder, vocab_size=90, max_position_embeddings=50_000)
    return models.load(folder)


def test_steps_and_prefill_hold_nothing_that_grows_with_the_cache(model: Any) -> None:
    """A loop of decode steps, and a pass of two of the rows, change the cache in place and copy no part of it."""
    graph, params = nnx.split(model)

    def decode(params: Any, tokens: Any, positions: Any, cache: Any) -> Any:
        def step(carry: Any) -> Any:
            positions, cache = carry
            return positions + 1, nnx.merge(graph, params)(tokens, positions, cache)[1]

        return lax.while_loop(lambda carry: jnp.all(carry[0] < 9), step, (positions, cache))[1]

    def prefill(params: Any, tokens: Any, positions: Any, cache: Any) -> Any:
        return nnx.merge(graph, params)(tokens, positions, cache.of_rows(jnp.asarray([5, 2])))[1].of_rows(None)

    def temporaries(program: Any, rows: int, chunk: int, length: int) -> int:
        cache = jax.eval_shape(lambda: models.init_cache(model.config, B, length, 64))
        tokens = jax.ShapeDtypeStruct((rows, chunk), jnp.int32)
        compiled = jax.jit(program, donate_argnums=3).lower(params, tokens, tokens, cache).compile()
        memory = compiled.memory_analysis()
        assert memory.alias_size_in_bytes == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
        return memory.temp_size_in_bytes

    for program, rows, chunk in ((decode, B, 1), (prefill, 2, 32)):
        short, long = (temporaries(program, rows, chunk, length) for length in (1024, 40_960))
        assert long < short + 200_000, "a slot of all rows takes 192 bytes in each of the arrays"


@pytest.mark.parametrize("axes", [{}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=["one device", "mesh"])
def test_some_rows_are_fed_where_they_lie(model: Any, axes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 6, 3 and 1 of 8, in parts of the list that are their shards', equal those of a pass of all rows; the others
    keep what they hold.
    """
    monkeypatch.setitem(BLOCKS, "cpu", 8)
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * 3) if axes else None
    graph, params = nnx.split(model)
    tokens = np.random.default_rng(3).integers(0, 90, (B, 12))
    positions = np.broadcast_to(np.arange(12), (B, 12))

    @jax.jit
    def feed(params: Any, tokens: Any, positions: Any, cache: Any, rows: Any) -> Any:
        hidden, cache = nnx.merge(graph, params)(tokens, positions, cache.of_rows(rows))
        return hidden, cache.of_rows(None)

    def empty() -> Any:
        return models.init_cache(model.config, B, 40, 16, mesh=mesh)

    whole, all_rows = feed(params, tokens, positions, empty(), None)
    rows = jnp.asarray([1, 3, 8, 6])  # of the shards 0 1 2 3; the third has none
    fed = np.asarray([1, 3, 0, 6])
    where = np.where(rows[:, None] < B, positions[fed], -1)
    some, cache = feed(params, tokens[fed], where, empty(), rows)
    np.testing.assert_allclose(np.asarray(some)[[0, 1, 3]], np.asarray(whole)[[1, 3, 6]], atol=1e-5)
    for layer, expected in zip(cache.layers, all_rows.layers, strict=True):
        k = np.asarray(layer.k)
        np.testing.assert_allclose(k[[1, 3, 6]], np.asarray(expected.k)[[1, 3, 6]], atol=1e-5)
        assert not np.any(k[[0, 2, 4, 5, 7]])
