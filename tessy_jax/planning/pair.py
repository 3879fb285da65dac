"""The plan of a synthesis: the programs that the engine would run, from shapes."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from tessy_jax.config.sections import EngineConfig
from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.cooperate.host_callback import ROWS
from tessy_jax.cooperate.loop import Loop
from tessy_jax.cooperate.params import Params
from tessy_jax.cooperate.state import Role
from tessy_jax.cooperate.stream import PassShape, StreamSchedule
from tessy_jax.cooperate.turn import Carry, Schedule
from tessy_jax.devices.mesh import asked, check_rows
from tessy_jax.engine.build import build_schedule
from tessy_jax.engine.rows import Keeps
from tessy_jax.engine.sizes import make_caches, make_params, make_rows, pool_of, prefill_rows, prompt_room, shards
from tessy_jax.errors import ConfigError
from tessy_jax.models import Cache
from tessy_jax.models.by_length import block_on
from tessy_jax.planning.abstract import AbstractModel, PlannedShapes, abstract_model
from tessy_jax.planning.compile import TooLarge, chip_bytes, compile_program, made, placed
from tessy_jax.planning.hlo_traffic import repetition, traffic
from tessy_jax.planning.limits import largest
from tessy_jax.planning.pair_rate import TYPICAL, PairRate, SpanLengths, pair_rate
from tessy_jax.planning.report import Plan, RowsInFlight, Step
from tessy_jax.planning.topology import Topology
from tessy_jax.predictors.base import JudgedModel, Predictor
from tessy_jax.predictors.registry import abstract_predictor

NAMES = tuple(role.name.lower() for role in Role)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Everything that an engine of a configuration is made of, as shapes on a mesh."""

    config: SynthesisConfig
    mesh: Mesh
    models: tuple[AbstractModel, ...]
    predictors: tuple[Predictor, ...]

    @classmethod
    def of(cls, config: SynthesisConfig, mesh: Mesh) -> "Shapes":
        """Raises what `read_shapes` does, and ShardingError: a model does not divide over the mesh."""
        dtype = jnp.dtype(config.engine.dtype)
        models = tuple(abstract_model(getattr(config, name), f"{name}.model", dtype, mesh) for name in NAMES)
        predictors = tuple(
            abstract_predictor(
                getattr(config.predictors, name),
                f"predictors.{name}",
                JudgedModel(model.chat.tokenizer, model.config),
                PlannedShapes(mesh, dtype),
            )
            for name, model in zip(NAMES, models, strict=True)
        )
        return cls(config, mesh, models, predictors)

    @cached_property
    def schedule(self) -> Schedule:
        """What the engine would run."""
        config = self.config
        more = config.cooperation, config.engine, self.mesh
        return build_schedule(self.models, self.predictors, *more, schedule=config.schedule)

    @cached_property
    def params(self) -> Params:
        """What its programs would read."""
        return placed(make_params(self.models, self.predictors), self.mesh)

    def carry(self, sizes: EngineConfig) -> Carry:
        """What an engine of these sizes writes to."""
        config = self.config
        more = config.cooperation, sizes, self.schedule, config.seed
        keeps = Keeps(config.keep_dropped, config.keep_scores)
        rows = make_rows(self.models, self.predictors, *more, keeps=keeps)
        pool = pool_of(sizes, self.mesh)
        caches = made(lambda mesh: make_caches(self.models, self.predictors, sizes, pool, mesh), self.mesh)
        return Carry(placed(rows.empty(sizes.batch), self.mesh, ROWS), caches)

    def resident(self, sizes: EngineConfig) -> dict[str, int]:
        """Bytes of a chip that stay in use, by kind."""
        carry, kinds = self.carry(sizes), {}
        for name, model, predictor in zip(NAMES, self.params.models, self.params.predictors, strict=True):
            kinds[f"weights, {name}"] = chip_bytes(model)
            kinds[f"weights, {name}'s predictor"] = chip_bytes(predictor)
        for name, caches in zip(NAMES, carry.caches, strict=True):
            kinds[f"cache, {name}"] = chip_bytes(caches.model)
            kinds[f"cache, {name}'s predictor"] = chip_bytes(caches.predictor)
        kinds["vocabularies"] = chip_bytes(self.params.vocabs)
        kinds["rows"] = chip_bytes(carry.state)
        return {kind: size for kind, size in kinds.items() if size}

    def weights(self, role: Role) -> int:
        """Bytes of a chip's weights that a decode step of `role` must read."""
        config, params = self.models[role].config, nnx.to_flat_state(self.params.models[role])
        return sum(
            chip_bytes(leaf) for path, leaf in params if config.tie_word_embeddings or "embed_tokens" not in path
        )


def plan_pair(
    name: str, config: SynthesisConfig, topology: Topology, tokens: int | None = None, spans: SpanLengths = TYPICAL
) -> Plan:
    """Compiles the programs of the configuration `name` for a topology.

    Args:
      tokens: of a row, on average; None: it is full.
      spans: of the thinking, for the rate of the pair.

    Raises:
      ConfigError: the mesh is not the topology's, a size does not divide, a model is not known, or rows of so many
        tokens are none.
      models.ModelConfigError, ShardingError, PlanError: see `Shapes.of` and `Topology.mesh`.
    """
    check_rows(config.mesh, config.engine.batch, "engine.batch")
    mesh = topology.mesh(config.mesh)
    shapes = Shapes.of(config, mesh)
    prompt_room(config.cooperation, config.engine, max(turn.generate.k for turn in shapes.schedule.turns))
    rows = _rows(config.engine, mesh, tokens)
    resident = shapes.resident(shapes.config.engine)
    plan = Plan(name, topology, mesh.size, asked(config.mesh), resident, (), (), rows=rows)
    if not plan.fits:  # the compiler would only say the same
        return dataclasses.replace(plan, limits=_limits(shapes, plan), savings=_savings(shapes))
    programs, too_large, steps = [], [], []
    for compiled in _programs(shapes):
        try:
            programs.append(compiled()[0])
        except TooLarge as error:
            too_large.append(error.refusal)
    for role in Role:
        try:
            steps.append(_step(shapes, role, rows))
        except TooLarge as error:
            too_large.append(error.refusal)
    plan = dataclasses.replace(plan, programs=tuple(programs), too_large=tuple(too_large), steps=tuple(steps))
    plan = dataclasses.replace(plan, rate=_rate(shapes.schedule, plan, spans))
    return dataclasses.replace(plan, limits=_limits(shapes, plan), savings={} if plan.fits else _savings(shapes))


def _programs(shapes: Shapes) -> Iterator[Any]:
    """The engine's programs, each as a call that compiles it."""
    loop, carry, sizes = Loop(shapes.schedule), shapes.carry(shapes.config.engine), shapes.config.engine
    longest = sizes.prompt_buckets[-1]
    width = prefill_rows(sizes, longest, shapes.mesh).many
    number = placed(jax.ShapeDtypeStruct((), jnp.int32), shapes.mesh)
    slots = placed(jax.ShapeDtypeStruct((width,), jnp.int32), shapes.mesh)
    new = placed(jax.ShapeDtypeStruct((sizes.batch,), jnp.bool_), shapes.mesh, ROWS)
    calls: list[tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = [
        ("dispatch", loop.dispatch, (shapes.params, carry, number, number), {}),
        ("admit", loop.admit, (carry.state, new, carry.state), {}),
    ]
    for role in Role:
        static = {"role": role, "chunk": longest}
        title = f"prefill, {NAMES[role]}, {width} x {longest}"
        read = (shapes.params.models[role], carry.state.streams[role], carry.caches[role].model, slots)
        calls.append((title, loop.prefill, read, static))
    for title, function, args, static in calls:
        yield functools.partial(compile_program, title, function, *args, **static)


def _rows(sizes: EngineConfig, mesh: Mesh, tokens: int | None) -> RowsInFlight:
    """Rows of so many tokens."""
    tokens, pool = sizes.context if tokens is None else tokens, pool_of(sizes, mesh)
    if not 1 <= tokens <= sizes.context:
        raise ConfigError(f"--tokens {tokens}: a row has 1 token at least, and engine.context {sizes.context} at most")
    ways = shards(mesh)
    held = None if pool is None else ways * (pool.pages // ways // pool.of(tokens))
    return RowsInFlight(tokens, sizes.batch, held)


def _step(shapes: Shapes, role: Role, rows: RowsInFlight) -> Step:
    """A decode step of `role`: the loop in which the engine takes them; it costs what its body does, with such rows."""
    carry, params = shapes.carry(shapes.config.engine), shapes.params
    cache = carry.caches[role].model
    blocks = math.ceil(rows.tokens / _block(cache))
    layers = [
        (chip_bytes((layer.k, layer.v, layer.k_scale, layer.v_scale)), cache.in_use(layer, rows.tokens, rows.number))
        for layer in cache.layers
    ]
    paged = next((used for layer, (_, used) in zip(cache.layers, layers, strict=True) if layer.paged), 1.0)
    program, text = compile_program(
        f"decode step, {NAMES[role]}",
        jax.jit(shapes.schedule.turns[role].generate, donate_argnums=(1, 2)),
        *(params.of(role), carry.state, cache),
    )
    return Step(
        role=NAMES[role],
        program=program,
        tokens=rows.number,
        main=traffic(text, blocks, paged),
        repetition=repetition(text, blocks),
        weights=shapes.weights(role),
        cache=round(sum(size * used for size, used in layers)),
    )


def _rate(schedule: Schedule, plan: Plan, spans: SpanLengths) -> PairRate | None:
    """Of the pair, by its policy and the steps' seconds."""
    if not isinstance(schedule, StreamSchedule) or len(plan.steps) < len(Role) or plan.rows is None:
        return None
    whole = schedule.shapes[0].rows
    costs = [plan.pass_seconds(step, s.rows / whole, s.width) for step in plan.steps for s in schedule.shapes]
    alone = plan.seconds(plan.steps[Role.TEACHER])
    seconds = [cost for cost in costs if cost is not None]
    if alone is None or len(seconds) < len(costs):
        return None
    rows = plan.rows.number
    shapes = [PassShape(max(1, s.rows * rows // whole), s.width) for s in schedule.shapes]
    return pair_rate(schedule.policy, shapes, seconds, spans, rows, rows / alone)


def _block(cache: Cache) -> int:
    """Slots that a round of attention reads of a row."""
    if cache.pool:
        return cache.pool.page
    keys = cache.layers[0].k
    rows, heads, _, size = keys.shape if cache.sharding is None else cache.sharding.shard_shape(keys.shape)
    return block_on(cache.platform, rows * heads * size * keys.dtype.itemsize)


def _limits(shapes: Shapes, plan: Plan) -> dict[str, int | None]:
    """The largest batch and context that fit, one at a time. Temporaries are taken to grow with batch x context."""
    sizes, capacity = shapes.config.engine, plan.capacity
    if capacity is None:
        return {}

    def fits(changed: EngineConfig) -> bool:
        growth = changed.batch * changed.context / (sizes.batch * sizes.context)
        return sum(shapes.resident(changed).values()) + plan.code + plan.temporaries * growth <= capacity

    rows = shapes.config.mesh.data * shapes.config.mesh.fsdp
    longest = min(model.config.max_position_embeddings for model in shapes.models)
    grain = 1024
    return {
        "engine.batch": largest(lambda n: fits(sizes.model_copy(update={"batch": n})), rows),
        "engine.context": largest(
            lambda n: fits(sizes.model_copy(update={"context": n})), min(grain, longest), longest
        ),
    }


def _savings(shapes: Shapes) -> dict[str, int]:
    """What 8 bits would save of a chip's memory, for each model and cache that they would make smaller."""
    resident, savings = sum(shapes.resident(shapes.config.engine).values()), {}
    for name in NAMES:
        for key in ("weights", "cache"):
            role = getattr(shapes.config, name).model_copy(update={key: "int8"})
            smaller = Shapes.of(shapes.config.model_copy(update={name: role}), shapes.mesh)
            savings[f"{name}.{key}=int8"] = resident - sum(smaller.resident(smaller.config.engine).values())
    return {key: saved for key, saved in savings.items() if saved > 0}
