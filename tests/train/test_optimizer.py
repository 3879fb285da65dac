"""AdamW, clipping and schedules against torch and transformers, given the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from tessy_jax.config.training import OptimizerConfig
from tessy_jax.train.learner import adamw
from tessy_jax.train.optimizer import AdamW

STEPS = 20
SCHEDULES = {
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "linear": transformers.get_linear_schedule_with_warmup,
    "constant": lambda optimizer, warmup, _: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
}


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_learning_rates_are_those_of_transformers(schedule: str, warmup: int) -> None:
    """But in the warm-up: it is a step ahead, so that the first step trains."""
    torchs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = SCHEDULES[schedule](torchs, warmup, STEPS)
    expected = []
    for _ in range(STEPS):
        expected.append(scheduler.get_last_lr()[0])
        torchs.step()
        scheduler.step()
    ahead = expected[1 : warmup + 1] + expected[warmup:]
    for begin, rates in ((0, expected), (1, ahead)):
        optimizer = AdamW(peak=0.3, steps=STEPS, schedule=schedule, warmup=warmup, warmup_from=begin)
        ours = jax.vmap(optimizer.learning_rate)(jnp.arange(STEPS))
        np.testing.assert_allclose(ours, rates, rtol=1e-5, atol=1e-8)
    assert (np.asarray(ours) > 0).all()


@pytest.mark.parametrize("steps", [1, 2, 15, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.1, 0.9])
def test_every_step_trains(steps: int, warmup: float) -> None:
    """The first and the last too, also where there is only one."""
    config = OptimizerConfig(lr=0.5, warmup=warmup, schedule="linear")
    rates = np.asarray(jax.vmap(adamw(config, steps).learning_rate)(jnp.arange(steps)))
    assert (rates > 0).all()
    assert rates.max() == 0.5
    before = adamw(config, steps, rules=1)
    assert float(before.learning_rate(jnp.asarray(0))) == (0.0 if warmup else 0.5)


def test_twenty_steps_are_torchs() -> None:
    """Decay, clipping (some gradients are above it, some below), warm-up, cosine and bias correction together."""
    rng = np.random.default_rng(0)
    shapes = {"mlp.weight": (11, 7), "norm.weight": (7,), "proj.bias": (5,)}
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    sizes = [0.01, 1.0, 30.0, 0.2]
    grads = [
        {name: (sizes[i % 4] * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
        for i in range(STEPS)
    ]

    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    matrices = [theirs["mlp.weight"]]
    vectors = [theirs["norm.weight"], theirs["proj.bias"]]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    torchs = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    rising = torch.optim.lr_scheduler.LinearLR(torchs, start_factor=1 / 3, total_iters=2)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(torchs, STEPS - 3)
    scheduler = torch.optim.lr_scheduler.SequentialLR(torchs, [rising, falling], milestones=[3])

    settings = AdamW(peak=0.01, steps=STEPS, warmup=3, weight_decay=0.1, b2=0.95, clip=1.0)
    transform = settings.transform()
    params = jax.tree.map(jnp.asarray, start)
    state = transform.init(params)

    @jax.jit
    def step(params: dict, state: optax.OptState, grads: dict) -> tuple[dict, optax.OptState]:
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for grad in grads:
        for name, tensor in theirs.items():
            tensor.grad = torch.tensor(grad[name])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        torchs.step()
        scheduler.step()
        params, state = step(params, state, grad)
        for name, tensor in theirs.items():
            np.testing.assert_allclose(params[name], tensor.detach().numpy(), rtol=0, atol=1e-6, err_msg=name)
    assert float(np.abs(params["norm.weight"] - start["norm.weight"]).max()) > 0.01  # they did move
