"""Helpers of the training tests: batches of random documents, and an optimizer that shows the gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tessy_jax.train.data.batches import Batch


def batch_of(rows: list[list[np.ndarray]], weights: list[list[np.ndarray]], length: int, micro: int = 1) -> Batch:
    """Documents by row -> a batch of `micro` micro-batches. `weights[row][document][t]` is that of token t as a target.

    Codes of parts go 1, 2, 3, 1, … over the targets.
    """
    zeros = np.zeros((len(rows), length), np.int32)
    fields = {name: zeros.copy() for name in ("tokens", "targets", "segments", "parts")}
    fields |= {"positions": zeros - 1, "weights": zeros.astype(np.float32)}
    for row, documents in enumerate(rows):
        start = 0
        for number, document in enumerate(documents):
            end = start + len(document)
            fields["tokens"][row, start:end] = document
            fields["targets"][row, start : end - 1] = document[1:]
            fields["segments"][row, start:end] = number + 1
            fields["positions"][row, start:end] = np.arange(len(document))
            fields["parts"][row, start : end - 1] = 1 + np.arange(len(document) - 1) % 3
            fields["weights"][row, start : end - 1] = weights[row][number][1:]
            start = end
    fields["parts"] = fields["parts"].astype(np.int8)
    return Batch(**{name: value.reshape(micro, -1, length) for name, value in fields.items()})


def documents(lengths: list[int], vocabulary: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(random documents, weights of their tokens: the first third 0, then 1 or 0.5)."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, vocabulary, n).astype(np.int32) for n in lengths]
    weights = [np.where(np.arange(n) < n // 3, 0, rng.choice([1.0, 0.5], n)).astype(np.float32) for n in lengths]
    return tokens, weights


@dataclasses.dataclass(frozen=True)
class Recorder:
    """In place of an optimizer: changes nothing and keeps the gradient as its state."""

    def learning_rate(self, step: jax.Array) -> jax.Array:
        return jnp.zeros(())

    def transform(self) -> optax.GradientTransformation:
        def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
            return jax.tree.map(jnp.zeros_like, params), grads

        return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def distance(ours: Any, theirs: Any) -> float:
    """Norm of the difference by norm of `theirs`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
