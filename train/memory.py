"""What a training step needs of a device's memory, before one is run."""

from typing import Any

from jax.sharding import Mesh

from tessy_jax import models
from tessy_jax.train.data import batches
from tessy_jax.train.lora import Tuning
from tessy_jax.train.loss import Objective
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.step import Compute, abstract, make_step


def step_memory(
    model: models.DecoderConfig,
    mesh: Mesh | None,
    optimizer: AdamW,
    compute: Compute,
    tuning: Tuning,
    objective: Objective,
    router_loss: float,
    shape: tuple[int, int, int],
) -> dict[str, float]:
    """GiB of one device in a training step, from the compiler: it is compiled here, and not run.

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
    sizes = {"weights, moments, batch": kept, "temporaries": found.temp_size_in_bytes + more}
    return {name: size / 2**30 for name, size in (sizes | {"sum": sum(sizes.values())}).items()}


def memory_lines(gib: dict[str, float]) -> str:
    """The sizes, for people."""
    return "\n".join(f"{what:<28}{size:8.2f}" for what, size in gib.items())
