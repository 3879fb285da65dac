"""One optimizer step: forward, backward, clip, update. A pure function of (state, batch), jitted over a mesh or not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int32, Real

from tessy_jax import models
from tessy_jax.models.balance import Balance
from tessy_jax.models.blockwise import block_on
from tessy_jax.models.sharding import Dim
from tessy_jax.text_jax.arrays import Leaf
from tessy_jax.train.data.batches import Batch
from tessy_jax.train.data.examples import PARTS
from tessy_jax.train.lora import Full, Params, Tuning
from tessy_jax.train.loss import Losses, Objective, Targets, next_token
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.remat import in_turn


@dataclass(frozen=True)
class Compute:
    """How a step is computed. The result depends on `dtype` alone; the rest trades memory for time.

    Attributes:
        dtype: "bfloat16" or "float32": of the copy of the parameters that the model runs with, and of activations.
        remat: what is kept for the backward pass, a key of `remat.REMAT`.
        attention: implementation, see `models.Packed`.
        loss_chunk: tokens per device whose logits exist at once.
    """

    dtype: str = "bfloat16"
    remat: str = "block"
    attention: Literal["dense", "blocks"] = "blocks"
    loss_chunk: int = 1024


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a step changes. A step takes the arrays for itself (donation): use the state it returns.

    Attributes:
        step: number of steps done.
        params: what is trained, float32, by name.
        optimizer: moments and count, as optax keeps them.
        frozen: float32 parameters that are not trained, by HF name; empty in full fine-tuning. Never changes.
    """

    step: Int32[Array, ""]
    params: Params
    optimizer: optax.OptState
    frozen: Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Sums over the targets of a batch: float32 and int32 on the device. Those of several batches may be added, on the
    host in float64, then divided.

    Attributes:
        loss: of weights * nll, in nats. The loss that is minimised is loss / weight.
        weight: of weights.
        tokens: number of trained tokens (weight above 0).
        tokens_all: number of tokens that are not padding.
        nll: by part (its code in `train.data.examples.PARTS` is the index), in nats, whatever the weight; 0 for the
            context, as in `correct` and `count`.
        correct: by part: tokens than which none was likelier.
        count: by part: tokens.
    """

    loss: Real[Leaf, ""]
    weight: Real[Leaf, ""]
    tokens: Real[Leaf, ""]
    tokens_all: Real[Leaf, ""]
    nll: Real[Leaf, "P"]
    correct: Real[Leaf, "P"]
    count: Real[Leaf, "P"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metrics:
    """Numbers of one step.

    Attributes:
        loss: before the update, in nats.
        grad_norm: the gradient's global norm, before clipping.
        learning_rate: that of the update.
        sums: over the targets of the batch.
    """

    loss: Float[Leaf, ""]
    grad_norm: Float[Leaf, ""]
    learning_rate: Float[Leaf, ""]
    sums: Sums


Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Evaluation = Callable[[TrainState, Batch], Sums]


def init(
    config: models.DecoderConfig,
    params: Params,
    mesh: Mesh | None,
    optimizer: AdamW,
    tuning: Tuning | None = None,
    key: Array | None = None,
    rules: models.Rules = models.TRAINING,
) -> TrainState:
    """The state before the first step.

    Args:
        config: the model's shapes.
        params: all parameters, float32, by HF name, laid out by `rules`: `models.named_parameters(models.load(folder,
            mesh=mesh, rules=models.TRAINING, dtype="float32"))`. The state takes them over.
        mesh: the devices; None: one.
        optimizer: its moments begin at 0.
        tuning: what is trained; None: `Full()`.
        key: for the adapters of LoRA; None: `jax.random.key(0)`.
        rules: where parameters lie on the mesh.
    """
    tuning = tuning or Full()
    key = jax.random.key(0) if key is None else key
    trained, frozen = tuning.split(params, key)
    shardings = state_shardings(config, mesh, optimizer, tuning, rules)
    moments = jax.jit(optimizer.transform().init, out_shardings=shardings and shardings.optimizer)(trained)
    state = TrainState(jnp.zeros((), jnp.int32), trained, moments, frozen)
    return state if shardings is None else jax.device_put(state, shardings)


def abstract(config: models.DecoderConfig, optimizer: AdamW, tuning: Tuning | None = None) -> TrainState:
    """The state as shapes, to compile with."""
    weights = {name: jax.ShapeDtypeStruct(spec.shape, jnp.float32) for name, spec in models.describe(config).items()}
    trained, frozen = jax.eval_shape((tuning or Full()).split, weights, jax.random.key(0))
    moments = jax.eval_shape(optimizer.transform().init, trained)
    count: Any = jax.ShapeDtypeStruct((), jnp.int32)
    return TrainState(count, trained, moments, frozen)


def state_shardings(
    config: models.DecoderConfig,
    mesh: Mesh | None,
    optimizer: AdamW,
    tuning: Tuning | None = None,
    rules: models.Rules = models.TRAINING,
) -> Any:
    """A TrainState of shardings, None without a mesh. Moments lie where their parameters do.

    Raises:
        ShardingError: a dimension does not divide over its axes of the mesh.
    """
    if mesh is None:
        return None
    tuning = tuning or Full()

    def shard(named: dict[str, tuple[Dim, ...]]) -> Any:
        return {name: models.sharding_for(mesh, rules, dims, name) for name, dims in named.items()}

    everything = {name: spec.dims for name, spec in models.describe(config).items()}
    shapes = {name: jax.ShapeDtypeStruct(tuple(d.size for d in dims), jnp.float32) for name, dims in everything.items()}
    trained, frozen = jax.eval_shape(tuning.split, shapes, jax.random.key(0))
    replicated: Any = NamedSharding(mesh, PartitionSpec())
    params = shard(tuning.dims(config))
    moments = optax.tree.map_params(
        optimizer.transform(),
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.transform().init, trained),
        params,
        transform_non_params=lambda _: replicated,
    )
    return TrainState(replicated, params, moments, shard(everything) if frozen else {})


def batch_sharding(mesh: Mesh, rules: models.Rules = models.TRAINING) -> NamedSharding:
    """The sharding of every array [A, B, T] of a `Batch`: its rows are split over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, _row_axes(mesh, rules)))


def make_step(
    config: models.DecoderConfig,
    mesh: Mesh | None,
    optimizer: AdamW,
    compute: Compute,
    tuning: Tuning | None = None,
    rules: models.Rules = models.TRAINING,
    objective: Objective = next_token,
    router_loss: float = 0.0,
) -> Step:
    """The jitted step. It donates the state.

    The loss is sum(weights * nll) / sum(weights) over all micro-batches together, so how a batch is cut into them
    changes nothing but memory. Gradients are accumulated in float32. A batch without weight gives NaN.

    Args:
        config: the model's shapes.
        mesh: the devices; None: one.
        optimizer: what makes an update of a gradient.
        compute: dtype, and how memory is traded for time.
        tuning: what of the model is trained; None: `Full()`.
        rules: where parameters lie on the mesh.
        objective: what is learned.
        router_loss: factor of the loss that spreads tokens over experts (models/balance.py). It is added to the other:
            a micro-batch's own, of several their mean. The numbers of a step are without it.
    """
    tuning = tuning or Full()
    transform = optimizer.transform()
    forward = _forward(config, mesh, compute, rules, objective, router_loss)
    shardings = state_shardings(config, mesh, optimizer, tuning, rules)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        scale = 1 / jnp.sum(batch.weights)

        def loss(params: Params, micro: Batch) -> tuple[Float32[Array, ""], Sums]:
            return forward(tuning.merge(params, state.frozen), micro, scale, 1 / batch.tokens.shape[0])

        def accumulate(grads: Params, micro: Batch) -> tuple[Params, Sums]:
            new, sums = jax.grad(loss, has_aux=True)(state.params, micro)
            return jax.tree.map(jnp.add, grads, new), sums

        start = jax.tree.map(jnp.zeros_like, state.params)
        if shardings is not None:
            start = jax.lax.with_sharding_constraint(start, shardings.params)
        grads, sums = jax.lax.scan(accumulate, start, batch)
        sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)

        updates, moments = transform.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)

        rate = optimizer.learning_rate(state.step).astype(jnp.float32)
        metrics = Metrics(sums.loss * scale, optax.tree.norm(grads), rate, sums)
        return TrainState(state.step + 1, params, moments, state.frozen), metrics

    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh, rules)),
        out_shardings=(shardings, replicated),
    )


def make_eval(
    config: models.DecoderConfig,
    mesh: Mesh | None,
    compute: Compute,
    tuning: Tuning | None = None,
    rules: models.Rules = models.TRAINING,
    objective: Objective = next_token,
) -> Evaluation:
    """The jitted evaluation of a batch; it changes nothing. The arguments are those of `make_step`."""
    tuning = tuning or Full()
    forward = _forward(config, mesh, compute, rules, objective)

    @jax.jit
    def evaluate(state: TrainState, batch: Batch) -> Sums:
        params = tuning.merge(state.params, state.frozen)
        sums = jax.lax.map(lambda micro: forward(params, micro, jnp.ones(()))[1], batch)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)

    return evaluate


def _forward(
    config: models.DecoderConfig,
    mesh: Mesh | None,
    compute: Compute,
    rules: models.Rules,
    objective: Objective,
    router_loss: float = 0.0,
) -> Any:
    """The forward pass: (float32 params, micro-batch [B, T], scale, its share of the batch) -> (scale * sum of weights
    * nll, plus the share of the routers' loss; sums).
    """
    dtype = jnp.dtype(compute.dtype)
    rows = () if mesh is None else _row_axes(mesh, rules)
    # By where it will run: a step may be compiled for devices that are not there.
    block = None if mesh is None else block_on(mesh.devices.flat[0].platform)

    def forward(
        params: Params, micro: Any, scale: Float32[Array, ""], share: float = 1.0
    ) -> tuple[Float32[Array, ""], Sums]:
        model = models.with_parameters(config, {n: p.astype(dtype) for n, p in params.items()}, mesh, rules)
        balance = Balance.empty(config.balanced_experts) if router_loss else None
        memory = models.Packed(micro.segments, config.masks, compute.attention, block, balance)
        hidden, memory = model(micro.tokens, micro.positions, memory, in_turn(compute.remat, mesh, rules))
        weights = micro.weights * scale
        losses = objective(model, hidden, Targets(micro.targets, weights, compute.loss_chunk, mesh, rows))
        total = losses.total
        if memory.balance is not None:
            total += share * router_loss * memory.balance.loss
        return total, _sums(micro, losses)

    return forward


def _sums(micro: Any, losses: Losses) -> Sums:
    parts = (micro.parts[..., None] == jnp.arange(len(PARTS))) & (micro.parts[..., None] > 0)

    def per_part(values: Array) -> Array:
        return jnp.sum(jnp.where(parts, values[..., None], 0), axis=(0, 1))

    return Sums(
        loss=jnp.sum(micro.weights * losses.nll),
        weight=jnp.sum(micro.weights),
        tokens=jnp.sum(micro.weights > 0, dtype=jnp.int32),
        tokens_all=jnp.sum(micro.segments > 0, dtype=jnp.int32),
        nll=per_part(losses.nll),
        correct=per_part(losses.correct.astype(jnp.int32)),
        count=per_part(jnp.ones_like(micro.segments)),
    )


def _row_axes(mesh: Mesh, rules: models.Rules) -> tuple[str, ...]:
    return tuple(axis for axis in rules.batch if mesh.shape.get(axis, 1) > 1)
