"""What a training run needs of memory, before it begins: of a device, from the compiler, and of the host."""

import math
import resource
import sys
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from tessy_jax import models
from tessy_jax.engine.dry_run import GIB
from tessy_jax.train.data import batches
from tessy_jax.train.lora import Tuning
from tessy_jax.train.loss import Objective
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.step import Compute, abstract, make_step, state_shardings


class Memory(NamedTuple):
    """Bytes that a run needs, by kind.

    Attributes:
        device: of one device.
        host: of this process, what its devices need included where they are the host's processors.
    """

    device: dict[str, int]
    host: dict[str, int]


def run_memory(
    model: models.DecoderConfig,
    mesh: Mesh | None,
    optimizer: AdamW,
    compute: Compute,
    tuning: Tuning,
    objective: Objective,
    router_loss: float,
    shape: tuple[int, int, int],
) -> Memory:
    """What a training run needs: its step is compiled here, and not run.

    Args:
        model: its shapes.
        mesh: the devices; None: one.
        optimizer, compute, tuning, objective, router_loss: see `make_step`.
        shape: micro-batches of a step, rows of a micro-batch, tokens of a row.
    """
    state = abstract(model, optimizer, tuning)
    rows = batches.abstract(*shape)
    train: Any = make_step(model, mesh, optimizer, compute, tuning, objective=objective, router_loss=router_loss)
    found = train.lower(state, rows).compile().memory_analysis()
    kept, more = found.argument_size_in_bytes, found.output_size_in_bytes - found.alias_size_in_bytes

    shardings = state_shardings(model, mesh, optimizer, tuning)

    def held(part: str) -> int:
        """Of a part of the state, by one device."""
        return _bytes(getattr(state, part), None if shardings is None else getattr(shardings, part))

    trained, moments = held("params"), held("optimizer")
    params = trained + held("frozen")
    device = {
        "weights": params,
        "moments": moments,
        "batch": kept - params - moments,
        "temporaries of a step": found.temp_size_in_bytes + more,
    }
    devices = jax.devices()[:1] if mesh is None else list(mesh.local_devices)
    platform, here = devices[0].platform, len(devices)
    # A checkpoint holds what is trained and its moments, once; while it is written, a host has it encoded besides.
    saved = min(here * (trained + moments), _bytes(state.params) + _bytes(state.optimizer))
    host = {"this process": peak_bytes(), "checkpoint being written": saved if platform == "cpu" else 2 * saved}
    if platform == "cpu":
        host = {name: here * size for name, size in device.items()} | host
    return Memory(device, host)


def _bytes(arrays: Any, shardings: Any = None) -> int:
    """Of arrays that are shapes: what one device holds of them; without shardings: all."""
    leaves = jax.tree.leaves(arrays)
    shapes = [leaf.shape for leaf in leaves]
    if shardings is not None:
        where = jax.tree.leaves(shardings)
        shapes = [sharding.shard_shape(shape) for sharding, shape in zip(where, shapes, strict=True)]
    return sum(math.prod(shape) * leaf.dtype.itemsize for shape, leaf in zip(shapes, leaves, strict=True))


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_lines(sizes: dict[str, int]) -> str:
    """The sizes and their sum in GiB, for people."""
    return "\n".join(f"{what:<28}{size / GIB:8.2f}" for what, size in (sizes | {"sum": sum(sizes.values())}).items())
