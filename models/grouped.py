"""Products of rows that are sorted by expert, each row with its expert's matrix.

Matrices of the model's dtype go through one kernel. Packed ones are opened one expert at a time: a decoded form of all
experts would be made once, before a loop of decode steps, and for all layers, since XLA moves what does not change out
of loops, even what takes far more memory than it is made from.
"""

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from tessy_jax.models.config import ModelConfigError
from tessy_jax.models.products import precision_of

Stacks = TypeVar("Stacks")

Kernel = Callable[[Float[Array, "M I"], Float[Array, "E I O"], Int[Array, " E"]], Float[Array, "M O"]]
"""(rows [M, I] sorted by expert, matrices [E, I, O], number of rows of each expert [E]) -> [M, O]."""

Product = Callable[[Float[Array, "P I"]], Float[Array, "P O"]]
"""Rows [P, I] -> [P, O]: the product with one expert's matrix."""

ROWS = 128
"""Rows that one product takes at most: fewer read a matrix again, more are computed in vain where experts have few."""


def _tokamax(rows: Float[Array, "M I"], weights: Float[Array, "E I O"], sizes: Int[Array, " E"]) -> Array:
    """github.com/openxla/tokamax: Mosaic on TPU, Mosaic or Triton on GPU, its own XLA form elsewhere."""
    import tokamax  # takes seconds to import, and few need it
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # or tokamax would read the command's arguments as its own
    return tokamax.ragged_dot(rows, weights, sizes, precision=precision_of(rows, weights))


def _xla(rows: Float[Array, "M I"], weights: Float[Array, "E I O"], sizes: Int[Array, " E"]) -> Array:
    return lax.ragged_dot(rows, weights, sizes, precision=precision_of(rows, weights))


KERNELS: dict[str, Kernel] = {"xla": _xla, "tokamax": _tokamax}
"""Kernels by name. What they give for rows beyond the sum of the sizes means nothing."""


def kernel_named(name: str) -> Kernel:
    """The kernel of KERNELS. Raises ModelConfigError."""
    if name not in KERNELS:
        raise ModelConfigError(f"experts: {name}: there is no such kernel. Use one of: {', '.join(KERNELS)}.")
    return KERNELS[name]


def check_kernel(kernel: str, experts: Iterable[nnx.Param]) -> None:
    """Raises ModelConfigError: the kernel, not XLA's, is not installed, or has nothing to do with these parameters."""
    stored = [param.get_metadata()["own_dtype"] for param in experts]
    if not stored:
        raise ModelConfigError(f"experts: {kernel}: the model has no experts. Leave it out.")
    if any(dtype is not None for dtype in stored):
        raise ModelConfigError(
            f"experts: {kernel}: the experts are packed, in 8 bits or fewer; only xla multiplies those."
        )
    if importlib.util.find_spec(kernel) is None:
        raise ModelConfigError(f"experts: {kernel}: it is not installed: pip install 'tessy_jax[kernels]'")


def one_by_one(
    rows: Float[Array, "M I"],
    stacks: Stacks,
    sizes: Int[Array, " E"],
    outside: int,
    opened: Callable[[Stacks], Product],
) -> Float[Array, "M O"]:
    """What a `Kernel` computes, for packed matrices: one matrix at a time is opened, and those of experts without rows
    are not read. For inference: it has no gradient.

    Args:
        stacks: a pytree of arrays `[E, …]`, of which the matrices are made.
        outside: O.
        opened: takes one expert's part of `stacks` and returns the product with its matrix.
    """
    size = min(ROWS, rows.shape[0])
    starts = jnp.cumsum(sizes) - sizes
    padded = jnp.pad(rows, ((0, size), (0, 0)))
    out = _like(jnp.zeros((padded.shape[0], outside), rows.dtype), rows, sizes, *jax.tree.leaves(stacks))

    def expert(e: Int[Array, ""], out: Float[Array, "P O"]) -> Float[Array, "P O"]:
        product = opened(jax.tree.map(lambda stack: stack[e], stacks))

        def part(i: Int[Array, ""], out: Float[Array, "P O"]) -> Float[Array, "P O"]:
            here = starts[e] + i * size
            result = product(lax.dynamic_slice_in_dim(padded, here, size))
            mine = here + jnp.arange(size) < starts[e] + sizes[e]
            # What lies behind this expert's rows is written by the next ones.
            return lax.dynamic_update_slice_in_dim(out, jnp.where(mine[:, None], result, 0), here, 0)

        if rows.shape[0] <= ROWS:  # of a decode step: without a loop, decoding can be a part of the product itself
            return part(jnp.zeros_like(sizes[e]), out)
        return lax.fori_loop(0, -(-sizes[e] // size), part, out)

    def step(e: Int[Array, ""], out: Float[Array, "P O"]) -> Float[Array, "P O"]:
        return lax.cond(sizes[e] > 0, lambda: expert(e, out), lambda: out)

    return lax.fori_loop(0, len(sizes), step, out)[: rows.shape[0]]


def _like(x: Shaped[Array, "..."], *others: Any) -> Shaped[Array, "..."]:
    """x as an array that may differ between devices wherever one of `others` does (inside `shard_map`)."""
    axes = frozenset[str]().union(*(jax.typeof(other).manual_axis_type.varying for other in others))
    return lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x
