"""Arrays of rows: every one leads with B, and a row is looked at through indices of its own."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

Leaf = Any
"""An array of a pytree: `jax.Array` on the device, NumPy on the host."""


def gather(values: Array, index: Int[Array, "B W"]) -> Array:
    """`values[b, index[b, w]]`, indices clipped to the array."""
    index = jnp.clip(index, 0, values.shape[1] - 1)
    return jnp.take_along_axis(values, index, axis=1, mode="promise_in_bounds")  # or JAX checks them once more


def scatter(values: Array, index: Int[Array, "B W"], new: Array, where: Bool[Array, "B #W"]) -> Array:
    """`values[b, index[b, w]] = new[b, w]` where `where`; indices outside the array are dropped."""
    rows = jnp.arange(values.shape[0])[:, None]
    outside = values.shape[1]
    return values.at[rows, jnp.where(where & (index >= 0), index, outside)].set(new, mode="drop")


def behind(x: Shaped[Array, "B X"], n: int) -> Shaped[Array, "B X"]:
    """What stands n places before each; zeros before the first."""
    return jnp.pad(x, ((0, 0), (n, 0)))[:, : x.shape[1]]


def ahead(x: Shaped[Array, "B X"], n: int) -> Shaped[Array, "B X"]:
    """What stands n places after each; zeros after the last."""
    return jnp.pad(x, ((0, 0), (0, n)))[:, n:]


def replace_at(items: tuple, index: int, item: Any) -> tuple:
    return (*items[:index], item, *items[index + 1 :])


def pick(where: Bool[Array, " B"], new: Array, old: Array) -> Array:
    """`new` for the rows in `where`, `old` for the others."""
    return jnp.where(where.reshape(-1, *([1] * (old.ndim - 1))), new, old)
