"""Mixtures of experts: who routes a token to which experts, and how only those are computed.

Tokens are sorted by expert, so that each expert's rows lie together and one grouped product (grouped.py) does all of
them. On a mesh each device does the rows of its own experts, or its part of their width, and the results are
summed: tokens are never sent, as every device along "expert" and "tensor" holds the same rows.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tessy_jax.models.grouped import Kernel, kernel_named
from tessy_jax.models.layers import ACTIVATIONS, Linear, Transposed, parameter
from tessy_jax.models.sharding import Dim, Rules, sharding_for

Apply = Callable[[Float[Array, "M D"], Int[Array, " E"], Int[Array, " M"]], Float[Array, "M D"]]
"""(rows [M, D] sorted by expert, number of rows of each expert [E], expert of each row [M]) -> [M, D]."""


def mix(
    x: Float[Array, "T D"],
    chosen: Int[Array, "T k"],
    weights: Float[Array, "T k"],
    experts: int,
    apply: Apply,
    first: Int[Array, ""] | int = 0,
) -> Float[Array, "T D"]:
    """sum over k of weights[t, k] * expert chosen[t, k] of x[t], for the experts first … first + experts - 1 alone."""
    count = chosen.shape[1]
    local = chosen.reshape(-1) - first
    here = (local >= 0) & (local < experts)
    local = jnp.where(here, local, experts)  # others go to the end
    order = jnp.argsort(local)
    sizes = jnp.bincount(local, length=experts)
    out = apply(x[order // count], sizes, jnp.minimum(local[order], experts - 1))
    out = out[jnp.argsort(order)] * weights.reshape(-1, 1).astype(out.dtype)
    return jnp.where(here[:, None], out, 0).reshape(*chosen.shape, -1).sum(axis=1)


class Router(Linear):
    """Scores of the experts. A class of its own, as it is never quantised: small differences decide."""


class Experts(nnx.Module):
    """What all kinds of experts share: their place on a mesh. Subclasses have parameters and `apply`.

    Every parameter's first dimension is the experts'. Where another one is split, `apply` gives partial sums.
    """

    def __init__(self, kernel: str, mesh: Mesh | None, rules: Rules):
        """`kernel`: key of `grouped.KERNELS`, for matrices of the model's dtype."""
        self.kernel, self.mesh, self.rules = kernel_named(kernel), mesh, rules

    def apply(
        self, rows: Float[Array, "M D"], sizes: Int[Array, " E"], which: Int[Array, " M"], first_part: Any
    ) -> Float[Array, "M D"]:
        """Each row's expert. `first_part`: whether this device adds what is not a partial sum (biases)."""
        raise NotImplementedError

    def __call__(
        self, x: Float[Array, "B C D"], chosen: Int[Array, "B C k"], weights: Float[Array, "B C k"]
    ) -> Float[Array, "B C D"]:
        with jax.named_scope("experts"):
            if self.mesh is None:
                return self._mix(x, chosen, weights, 0, True)
            return self._on_mesh(x, chosen, weights)

    def _mix(self, x: Array, chosen: Array, weights: Array, first: Any, first_part: Any) -> Array:
        def apply(rows: Array, sizes: Array, which: Array) -> Array:
            return self.apply(rows, sizes, which, first_part)

        here = jax.tree.leaves(nnx.state(self, nnx.Param))[0].shape[0]
        rows, chosen, weights = (a.reshape(-1, a.shape[-1]) for a in (x, chosen, weights))
        return mix(rows, chosen, weights, here, apply, first).reshape(x.shape)

    def _on_mesh(self, x: Array, chosen: Array, weights: Array) -> Array:
        assert self.mesh is not None
        graph, params = nnx.split(self)
        # Parameters split along "fsdp" while training are gathered here, as for every other product.
        rules = self.rules.replace(embed=())
        flat, tree = jax.tree.flatten(params, is_leaf=lambda p: isinstance(p, nnx.Param))
        specs = [sharding_for(self.mesh, rules, p.get_metadata()["dims"], "experts").spec for p in flat]
        rows = sharding_for(self.mesh, rules, (Dim(x.shape[0], "batch"),), "tokens").spec
        expert = _axes(spec[0] for spec in specs)
        width = _axes(part for spec in specs for part in spec[1:])

        def local(arrays: list[Array], x: Array, chosen: Array, weights: Array) -> Array:
            mine = nnx.merge(graph, jax.tree.unflatten(tree, [p.replace(a) for p, a in zip(flat, arrays, strict=True)]))
            first = lax.axis_index(expert) * arrays[0].shape[0] if expert else 0
            first_part = lax.axis_index(width) == 0 if width else True
            if expert:  # jax 0.10's transposed gather forgets this, and the gradient of x its sum over the axis
                x, weights = lax.pcast((x, weights), expert, to="varying")
            out = mine._mix(x, chosen, weights, first, first_part)
            return lax.psum(out, (*expert, *width)) if expert or width else out

        split = jax.shard_map(local, mesh=self.mesh, in_specs=(specs, rows, rows, rows), out_specs=rows)
        return split([p[...] for p in flat], x, chosen, weights)


def _axes(parts: Iterable[Any]) -> tuple[str, ...]:
    """The mesh axes in parts of specs, each once, in order."""
    named = ((part,) if isinstance(part, str) else part or () for part in parts)
    return tuple(dict.fromkeys(axis for axes in named for axis in axes))


class StackedLinear(nnx.Module):
    """One matrix per expert, stored in checkpoints as `experts.{e}.….weight`.

    In memory they are `[in, out]`: to multiply by the transpose, XLA makes a copy of all matrices on a TPU.
    """

    def __init__(self, experts: Dim, inside: Dim, outside: Dim):
        self.dims = experts, inside, outside
        stored = Transposed("weight", outside.size, inside.size)
        self.weight = parameter(*self.dims, by_expert=True, derived_from=stored)

    def __call__(self, rows: Float[Array, "M I"], sizes: Int[Array, " E"], kernel: Kernel) -> Float[Array, "M O"]:
        """The rows of expert e times weight[e]; subclasses that pack their matrices do without the kernel."""
        return kernel(rows, self.weight[...], sizes)


class GatedExperts(Experts):
    """Experts that are gated MLPs without biases: down(act(gate(x)) * up(x)). `linear` makes their matrices."""

    def __init__(
        self,
        embed: Dim,
        ff: Dim,
        count: int,
        activation: str,
        kernel: str,
        mesh: Mesh | None,
        rules: Rules,
        linear: Callable[[Dim, Dim, Dim], StackedLinear] = StackedLinear,
    ):
        super().__init__(kernel, mesh, rules)
        experts = Dim(count, "experts")
        self.gate_proj = linear(experts, embed, ff)
        self.up_proj = linear(experts, embed, ff)
        self.down_proj = linear(experts, ff, embed)
        self.activation = activation

    def apply(
        self, rows: Float[Array, "M D"], sizes: Int[Array, " E"], which: Int[Array, " M"], first_part: Any
    ) -> Float[Array, "M D"]:
        gate, up = (proj(rows, sizes, self.kernel) for proj in (self.gate_proj, self.up_proj))
        return self.down_proj(ACTIVATIONS[self.activation](gate) * up, sizes, self.kernel)
