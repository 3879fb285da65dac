"""Where arrays live on a mesh: logical axis names, two presets, and errors that say what would fit.

Mesh axes: "data" and "fsdp" split the rows of a batch, "fsdp" also the parameters while training, "tensor" splits
heads, feed-forward width and vocabulary, and experts together with "expert". A mesh may lack any of them. Its axes must
be Auto, and `jax.make_mesh` makes Explicit ones by default since jax 0.9:

    jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
"""

import dataclasses
import functools
import logging
import math
from dataclasses import dataclass

from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from tessy_jax.errors import UserError

log = logging.getLogger(__name__)


class ShardingError(UserError, ValueError):
    """An array cannot be laid out on the mesh as the rules say."""


@dataclass(frozen=True)
class Dim:
    """One dimension of an array: its size, its logical axis (None: never split), and the size of what must stay whole.

    The output dimension of a query projection is `Dim(N * H, "heads", unit=H)`: it may be split between heads only.
    `of` is what errors call these units; None: the axis.
    """

    size: int
    axis: str | None = None
    unit: int = 1
    of: str | None = None


@dataclass(frozen=True)
class Rules:
    """Logical axis name -> mesh axes that split it (none: replicated). Change one with `rules.replace(heads=())`."""

    batch: tuple[str, ...] = ("data", "fsdp")
    embed: tuple[str, ...] = ()
    heads: tuple[str, ...] = ("tensor",)
    kv_heads: tuple[str, ...] = ("tensor",)
    ff: tuple[str, ...] = ("tensor",)
    vocab: tuple[str, ...] = ("tensor",)
    experts: tuple[str, ...] = ("expert", "tensor")
    expert_ff: tuple[str, ...] = ("tensor",)

    def replace(self, **axes: tuple[str, ...]) -> "Rules":
        """These rules with some logical axes mapped otherwise."""
        return dataclasses.replace(self, **axes)


INFERENCE = Rules()
"""To generate: parameters are whole along "fsdp", which only splits rows, so that no decode step gathers weights."""

TRAINING = Rules(embed=("fsdp",))
"""To train: parameters (and so gradients and moments) are also split along "fsdp" and gathered layer by layer."""

_WHOLE_IF_EVEN = {"experts": ("expert",)}
"""The axes that remain where a dimension does not divide over all that the rules give it: experts are split over
"expert" and "tensor" if they divide over both, so that each device has whole experts, else over "expert" alone.
"""

_IF_FREE = ("expert_ff",)
"""Dimensions that are split only over axes that the array's earlier ones leave: an expert's width is split over
"tensor" where the experts are not. The experts come first, as GPT-OSS's width has 90 groups of MXFP4, which divide by
no more than 2.
"""

_REPLICATED_IF_UNEVEN = ("kv_heads",)
"""Dimensions that are replicated where they do not divide, rather than refused: a model with fewer key/value heads than
"tensor" is common (Qwen3-235B has 4), and their projections are small.
"""


def ways_of(mesh: Mesh | AbstractMesh, rules: Rules, dim: Dim) -> int:
    """How many parts the rules would cut a dimension into."""
    return math.prod(mesh.shape[a] for a in (getattr(rules, dim.axis) if dim.axis else ()) if a in mesh.axis_names)


def sharding_for(mesh: Mesh | AbstractMesh, rules: Rules, dims: tuple[Dim, ...], name: str) -> NamedSharding:
    """The sharding of an array with these dimensions.

    Dimensions that do not divide raise ShardingError, naming `name`, the dimension, the mesh axes and what would fit;
    key/value heads are replicated instead, with one warning.
    """
    parts: list[tuple[str, ...] | None] = []
    used: set[str] = set()
    for index, dim in enumerate(dims):
        wanted = getattr(rules, dim.axis) if dim.axis else ()
        axes = tuple(a for a in wanted if a in mesh.axis_names and mesh.shape[a] > 1)
        ways = math.prod(mesh.shape[a] for a in axes)
        units = dim.size // dim.unit
        if dim.axis in _WHOLE_IF_EVEN and units % ways:
            axes = tuple(a for a in axes if a in _WHOLE_IF_EVEN[dim.axis])
            ways = math.prod(mesh.shape[a] for a in axes)
        if dim.axis in _IF_FREE:
            axes = tuple(a for a in axes if a not in used)
            ways = math.prod(mesh.shape[a] for a in axes)
        if units % ways and dim.axis in _REPLICATED_IF_UNEVEN:
            _warn_replicated(units, "*".join(axes), ways)
            axes = ()
        elif units % ways:
            raise ShardingError(
                f"{name}: dimension {index} ({units} {dim.of or dim.axis}) does not divide over mesh axis "
                f"{'*'.join(axes)!r} of size {ways}. Use a size of {_divisors(units)}."
            )
        if used & set(axes):
            raise ShardingError(
                f"{name}: the rules split two of its dimensions over mesh axis {min(used & set(axes))!r}. "
                f"Map {dim.axis!r} to another axis."
            )
        used |= set(axes)
        parts.append(axes or None)
    return NamedSharding(mesh, PartitionSpec(*parts))


def in_rows(sharding: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
    """The layout of the same devices in which each has some rows of its own, where their number divides.

    For P(None, "tensor") over ("data", "tensor") it is P(("tensor", "data")): the axes that split the array come first.
    """
    parts = ((part,) if isinstance(part, str) else part or () for part in sharding.spec)
    axes = dict.fromkeys([axis for part in parts for axis in part] + list(sharding.mesh.axis_names))
    rows = shape[0] if shape else 1
    over: list[str] = []
    for axis in axes:
        if (ways := sharding.mesh.shape[axis]) > 1 and rows % ways == 0:
            rows //= ways
            over.append(axis)
    return NamedSharding(sharding.mesh, PartitionSpec(tuple(over) or None) if shape else PartitionSpec())


def _divisors(n: int) -> str:
    divisors = [str(d) for d in range(1, min(n, 64) + 1) if n % d == 0]
    return divisors[0] if len(divisors) == 1 else f"{', '.join(divisors[:-1])} or {divisors[-1]}"


@functools.cache
def _warn_replicated(units: int, axes: str, ways: int) -> None:
    log.warning("%d key/value heads do not divide over mesh axis %r of size %d: replicating them.", units, axes, ways)
