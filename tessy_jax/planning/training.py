"""The plan of a training run: one optimizer step, from shapes."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from tessy_jax import models
from tessy_jax.config.sft import SftConfig
from tessy_jax.devices.mesh import asked, check_rows
from tessy_jax.planning.compile import TooLarge, chip_bytes, compile_program
from tessy_jax.planning.limits import largest
from tessy_jax.planning.report import Plan
from tessy_jax.planning.shapes import read_shapes
from tessy_jax.planning.topology import Topology
from tessy_jax.train import step
from tessy_jax.train.data import batches
from tessy_jax.train.learner import adamw, compute
from tessy_jax.train.mfu import Arithmetic
from tessy_jax.train.student import tuning

STEPS = 1000
"""Of the run; the schedule's length changes no program's size."""


def plan_sft(name: str, config: SftConfig, topology: Topology) -> Plan:
    """Compiles the train step of the configuration `name` for a topology; raises as `plan_pair` does."""
    pieces = config.batch.rows // config.batch.accumulate
    check_rows(config.mesh, pieces, "batch.rows / batch.accumulate")
    mesh = topology.mesh(config.mesh)
    model, optimizer, trained = read_shapes(config.model, "model"), adamw(config.optimizer, STEPS), tuning(config.lora)
    shardings = step.state_shardings(model, mesh, optimizer, trained)
    state = _placed(step.abstract(model, optimizer, trained), shardings)
    rows = batches.abstract(config.batch.accumulate, pieces, config.data.length)
    rows = _placed(rows, jax.tree.map(lambda _: step.batch_sharding(mesh), rows))
    resident = {
        "weights, float32": chip_bytes((state.params, state.frozen)),
        "moments": chip_bytes(state.optimizer),
        "batch": chip_bytes((state.step, rows)),
    }
    plan = Plan(name, topology, mesh.size, asked(config.mesh), resident, (), ())
    if not plan.fits:
        return plan
    train = step.make_step(model, mesh, optimizer, compute(config.compute), trained)
    try:
        program, _ = compile_program("train step", train, state, rows)
    except TooLarge as error:
        return dataclasses.replace(plan, too_large=(error.refusal,))
    plan = dataclasses.replace(plan, programs=(program,), notes=_notes(model, config, plan))
    return dataclasses.replace(plan, limits=_limits(config, plan, model))


def _placed(tree: Any, shardings: Any) -> Any:
    def place(leaf: Any, where: NamedSharding) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(place, tree, shardings)


def _notes(model: models.DecoderConfig, config: SftConfig, plan: Plan) -> tuple[str, ...]:
    """The step's arithmetic; the compiler counts the bodies of its loops once, so its own sum is of no use here."""
    positions = np.broadcast_to(np.arange(config.data.length), (1, 1, config.data.length))
    operations = Arithmetic(model, frozen=config.lora is not None).operations(positions) * config.batch.rows
    note = f"a step of {config.batch.rows} full rows needs {operations:.3g} operations"
    if plan.topology.chip is None:
        return (note,)
    seconds = operations / (plan.topology.chip.peak * 1e12 * plan.chips)
    return (f"{note}: {seconds:.1f} s at the peak of {plan.chips} chips, twice that at an MFU of 50 %",)


def _limits(config: SftConfig, plan: Plan, model: models.DecoderConfig) -> dict[str, int | None]:
    """The longest rows that fit. Temporaries are taken to be the gradient, float32, and what grows with the length."""
    capacity = plan.capacity
    if capacity is None:
        return {}
    fixed = plan.resident["weights, float32"]
    growing = max(plan.temporaries - fixed, 0) + plan.resident["batch"]
    rest = sum(plan.resident.values()) - plan.resident["batch"] + plan.code + fixed

    def fits(length: int) -> bool:
        return rest + growing * length / config.data.length <= capacity

    return {"data.length": largest(fits, 1024, model.max_position_embeddings)}
