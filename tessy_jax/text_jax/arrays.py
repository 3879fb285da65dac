"""Arrays of rows: the first axis of every one is B, and each row is read and written at indices of its own."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

if TYPE_CHECKING:  # as a union, every use on the device would have to say that it is not NumPy's
    Leaf = Any
else:
    Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct
"""An array of a pytree: `jax.Array` on the device, NumPy on the host, a shape where a program is only compiled."""


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
    """The items with `item` in place of the one at `index`."""
    return (*items[:index], item, *items[index + 1 :])


def pick(where: Bool[Array, " B"], new: Array, old: Array) -> Array:
    """`new` for the rows in `where`, `old` for the others."""
    return jnp.where(where.reshape(-1, *([1] * (old.ndim - 1))), new, old)
