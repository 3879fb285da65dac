"""Chunked cross-entropy: torch's values and gradients, and never the logits of all tokens."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tessy_jax.train.loss import token_losses, weighted_loss

B, T, D, V = 3, 37, 16, 211


@pytest.fixture(scope="module")
def inputs() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(B, T, D)).astype(np.float32)
    weight = rng.normal(size=(V, D)).astype(np.float32)
    targets = rng.integers(0, V, (B, T)).astype(np.int32)
    weights = (rng.integers(0, 3, (B, T)) / 2).astype(np.float32)
    return hidden, weight, targets, weights


@pytest.mark.parametrize("chunk", [1, 24, 1000])
def test_values_and_gradients_are_torchs(inputs: tuple[np.ndarray, ...], chunk: int) -> None:
    """Chunks of one token, of a size that does not divide the rows, and larger than everything."""
    hidden, weight, targets, weights = inputs
    h, w = torch.tensor(hidden, requires_grad=True), torch.tensor(weight, requires_grad=True)
    logits = h @ w.T
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(targets).long().flatten(), reduction="none"
    )
    (nll * torch.tensor(weights).flatten()).sum().backward()

    def loss(hidden: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        value, nll, correct = weighted_loss(hidden, weight, jnp.asarray(targets), jnp.asarray(weights), chunk)
        return value, (nll, correct)

    (value, (ours, correct)), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(hidden, weight)
    expected = nll.detach().numpy().reshape(B, T)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(value, (expected * weights).sum(), rtol=1e-6)
    np.testing.assert_allclose(grads[0], h.grad.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grads[1], w.grad.numpy(), rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(correct, (logits.argmax(-1) == torch.tensor(targets)).numpy())
    again, _ = jax.jit(token_losses, static_argnames="chunk")(hidden, weight, targets, chunk=chunk)
    np.testing.assert_array_equal(again, ours)


def test_gradients_scale_with_what_comes_after(inputs: tuple[np.ndarray, ...]) -> None:
    hidden, weight, targets, weights = map(jnp.asarray, inputs)

    def loss(hidden: jax.Array, factor: float) -> jax.Array:
        return factor * weighted_loss(hidden, weight, targets, weights, 16)[0]

    once, thrice = (jax.grad(loss)(hidden, factor) for factor in (1.0, 3.0))
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-6)


def test_the_gradient_of_the_weights_is_the_loss_of_each_token(inputs: tuple[np.ndarray, ...]) -> None:
    hidden, weight, targets, weights = map(jnp.asarray, inputs)
    grad = jax.grad(lambda w: weighted_loss(hidden, weight, targets, w, 16)[0])(weights)
    np.testing.assert_array_equal(grad, token_losses(hidden, weight, targets, 16)[0])


def test_logits_of_all_tokens_are_never_held() -> None:
    """Shapes in the compiled program, and its memory: a chunk's logits, not those of all tokens."""
    tokens, width, vocabulary, chunk = 4096, 8, 5000, 128
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((1, tokens, width), jnp.float32),
            ((vocabulary, width), jnp.float32),
            ((1, tokens), jnp.int32),
            ((1, tokens), jnp.float32),
        )
    ]

    def compiled(chunk: int) -> jax.stages.Compiled:
        def loss(hidden: jax.Array, weight: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
            return weighted_loss(hidden, weight, targets, weights, chunk)[0]

        return jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile()

    def largest(program: jax.stages.Compiled) -> int:
        found = re.findall(r"(?:f32|bf16|s32|pred)\[([\d,]+)\]", program.as_text())
        return max(int(np.prod([int(d) for d in shape.split(",")])) for shape in found)

    small, whole = compiled(chunk), compiled(tokens)
    assert largest(whole) == tokens * vocabulary  # the search sees what it looks for
    assert largest(small) == chunk * vocabulary
    logits = 4 * vocabulary * chunk
    assert small.memory_analysis().temp_size_in_bytes < 6 * logits < 4 * vocabulary * tokens
