"""Programs, compiled and not run: what the compiler says of them. All numbers are of one chip."""

import dataclasses
import logging
import math
import re
import time
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from tessy_jax.planning.topology import PlanError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of a program.

    Attributes:
        name: what it does.
        compile_seconds: on this machine, tracing included.
        arguments: bytes of what it is given, as laid out on the chip.
        temporaries: bytes beyond its arguments while it runs, results that are not written over arguments included.
        code: bytes of the program itself.
        operations: floating-point operations; a loop's body counts once.
        moved: bytes that its operations read and write, in whatever memory of the chip; a loop's body counts once.
        seconds: the compiler's own estimate, a loop's body once; None where it gives none.
        unestimated: operations that it gives no time for.
    """

    name: str
    compile_seconds: float
    arguments: int
    temporaries: int
    code: int
    operations: float
    moved: float
    seconds: float | None
    unestimated: int


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A program that the compiler cannot place in a chip's memory.

    Attributes:
        name: what it does.
        reason: the compiler's words.
        temporaries: bytes that it would need beyond its arguments, by these words; 0 if they do not say.
    """

    name: str
    reason: str
    temporaries: int


class TooLarge(PlanError):
    """The compiler cannot place a program in a chip's memory; `refusal` says which and why."""

    def __init__(self, refusal: Refusal):
        super().__init__(f"{refusal.name}: {refusal.reason}")
        self.refusal = refusal


def compile_program(name: str, function: Any, *args: Any, **static: Any) -> tuple[Program, str]:
    """Compiles a jitted function for arguments that are shapes with shardings; also returns the compiled text.

    Raises:
        TooLarge: it does not fit a chip's memory.
    """
    log.info("compiling: %s", name)
    start = time.perf_counter()
    lowered = function.lower(*args, **static)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(_refusal(name, str(error))) from None
    took = time.perf_counter() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    seconds, unestimated = _seconds(cost.get("optimal_seconds"))
    program = Program(
        name=name,
        compile_seconds=took,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        operations=cost.get("flops", 0.0),
        moved=cost.get("bytes accessed", 0.0),
        seconds=seconds,
        unestimated=unestimated,
    )
    return program, compiled.as_text()


def _seconds(value: float | None) -> tuple[float | None, int]:
    """The known part of XLA's estimate, which counts -1 second for each operation that has none.

    Good for programs of less than a second: beyond that the two cannot be told apart.
    """
    if not value:
        return None, 0
    unknown = math.ceil(-value) if value < 0 else 0
    return value + unknown, unknown


def _refusal(name: str, message: str) -> Refusal:
    """XLA's message, such as "… required for HLO temporaries (39.00G) exceeds …" or "… program 9.1G, arguments …"."""
    found = re.search(r"Ran out of memory.*", message)
    size = re.search(r"(?:HLO temporaries \(|\bprogram\s+)([\d.]+)([KMG])", message)
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    needed = int(float(size[1]) * units[size[2]]) if size else 0
    return Refusal(name, " ".join((found[0] if found else message).split())[:300], needed)


# -- shapes on a mesh --------------------------------------------------------------------------------------------------


def chip_bytes(tree: Any) -> int:
    """Bytes that one chip holds of arrays that are shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def placed(tree: Any, mesh: Mesh, spec: PartitionSpec | None = None) -> Any:
    """The arrays of `tree` as shapes on the mesh: those that say nowhere else are laid out by `spec` (None: copies)."""
    default = NamedSharding(mesh, spec or PartitionSpec())

    def place(leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        where = sharding if isinstance(sharding, NamedSharding) else default
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(place, tree)


def made(make: Any, mesh: Mesh) -> Any:
    """What `make(mesh)` would make, as shapes with the shardings that it asks for; nothing is allocated.

    Only a mesh with Explicit axes carries shardings through `jax.eval_shape`, so the layout is read off a copy that has
    them, and what is static in the result comes from the mesh itself.
    """
    explicit = AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=(AxisType.Explicit,) * len(mesh.axis_names))
    layout = [leaf.sharding for leaf in jax.tree.leaves(jax.eval_shape(lambda: make(explicit)))]
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda: make(mesh)))
    return jax.tree.unflatten(
        tree,
        [
            jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, where.spec if where else PartitionSpec())
            )
            for leaf, where in zip(leaves, layout, strict=True)
        ],
    )
