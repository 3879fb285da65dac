"""Visits to the host are counted where they are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxtyping import Array

from tessy_jax.config.sections import MeshConfig
from tessy_jax.cooperate.host_callback import ROWS, Host, TokenEdits, Visits
from tessy_jax.devices.mesh import make_mesh


def edit(token: int) -> TokenEdits:
    return TokenEdits(0, np.array([token]), np.array([1]), 1, 1)


@pytest.mark.parametrize(("ways", "calls"), [(1, 3), (2, 4)])
def test_visits_are_counted_by_task(ways: int, calls: int) -> None:
    """4 rows in 3 rounds: two rows of different parts of the batch, one, and two of the same part."""
    mesh = make_mesh(MeshConfig(data=ways), batch=4) if ways > 1 else None
    host = Host(mesh)
    asked = jnp.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], bool)

    @jax.jit
    def rounds(tokens: Array) -> Array:
        def one(i: Array, total: Array) -> Array:
            rows = asked[i]
            if mesh is not None:
                rows = lax.with_sharding_constraint(rows, jax.sharding.NamedSharding(mesh, ROWS))

            def ask(total: Array) -> Array:
                return total + host.call("text", edit, TokenEdits.shape(1), rows, tokens).ids[:, 0]

            return lax.cond(jnp.any(rows), ask, lambda total: total, total)

        return lax.fori_loop(0, len(asked), one, jnp.zeros_like(tokens))

    for _ in range(2):
        assert rounds(jnp.array([1, 10, 100, 1000])).tolist() == [1, 10, 100, 2000]
        assert host.take_visits() == {"words": Visits(0, 0), "text": Visits(calls, 5)}
    assert host.take_visits()["text"] == Visits(0, 0)
