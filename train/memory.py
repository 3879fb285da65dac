"""What a training step needs of a device's memory, before one is run."""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import DTypeLike

from tessy_jax import models
from tessy_jax.train.batches import Batch
from tessy_jax.train.lora import Tuning
from tessy_jax.train.loss import Objective
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.step import Compute, TrainState, make_step


def step_memory(
    model: models.DecoderConfig,
    mesh: Mesh | None,
    optimizer: AdamW,
    compute: Compute,
    tuning: Tuning,
    objective: Objective,
    shape: tuple[int, int, int],
) -> dict[str, float]:
    """GiB of one device in a training step, from the compiler: it is compiled here, and not run.

    Args:
        shape: of a batch: micro-batches, rows, tokens of a row.
    """
    weights = {name: _abstract(spec.shape) for name, spec in models.describe(model).items()}
    trained, frozen = jax.eval_shape(tuning.split, weights, jax.random.key(0))
    moments = jax.eval_shape(optimizer.transform().init, trained)
    state = TrainState(_abstract((), jnp.int32), trained, moments, frozen)
    types = {"parts": jnp.int8, "weights": jnp.float32}
    rows = Batch(**{field.name: _abstract(shape, types.get(field.name, jnp.int32)) for field in fields(Batch)})
    train: Any = make_step(model, mesh, optimizer, compute, tuning, objective=objective)
    found = train.lower(state, rows).compile().memory_analysis()
    kept, more = found.argument_size_in_bytes, found.output_size_in_bytes - found.alias_size_in_bytes
    sizes = {"weights, moments, batch": kept, "temporaries": found.temp_size_in_bytes + more}
    return {name: size / 2**30 for name, size in (sizes | {"sum": sum(sizes.values())}).items()}


def memory_lines(gib: dict[str, float]) -> str:
    """The sizes, for people."""
    return "\n".join(f"{what:<28}{size:8.2f}" for what, size in gib.items())


def _abstract(shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Any:
    """Stands for an array, to compile with."""
    return jax.ShapeDtypeStruct(shape, dtype)
