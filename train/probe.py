"""Training a probe: P(style of a token) = sigmoid(w · h + b + u[token]), h the writing model's state before the token.

The model reads its prompts and responses once, teacher-forced and in its own tokens, and the outputs of all layers at
the places before labelled tokens are kept. Then one logistic regression is fitted per layer, in seconds. It is convex,
so the result depends on the data alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from tessy_jax import models
from tessy_jax.config.train_probe import ProbeFitConfig
from tessy_jax.models.products import matmul
from tessy_jax.predictors.probe import record_hidden_states
from tessy_jax.train.data.examples import CONTEXT
from tessy_jax.train.data.packing import pack
from tessy_jax.train.data.probe_data import Response, labelled_tokens

# -- features ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Features:
    """The model's hidden states before each labelled token.

    Attributes:
        layers: numbers of the layers.
        hidden: their outputs minus `centre`, bfloat16; a memory-mapped file.
        centre: taken from the states of each layer, so that rounding to bfloat16 loses less of their differences.
        tokens: the labelled tokens.
    """

    layers: list[int]
    hidden: Float[np.ndarray, "L N D"]
    centre: Float32[np.ndarray, "L D"]
    tokens: Int[np.ndarray, " N"]

    def of(self, layer: int) -> Float32[np.ndarray, "N D"]:
        """The centred states of one layer (an index of `layers`)."""
        return np.asarray(self.hidden[layer], np.float32)


def read_features(
    model: models.Model, responses: Sequence[Response], layers: list[int], length: int, at_once: int, file: Path
) -> Features:
    """Runs the model over the responses, and keeps its hidden states before labelled tokens.

    Args:
        model: the writer.
        responses: in its tokens.
        layers: numbers of the layers to keep.
        length: tokens of a row, which holds several responses.
        at_once: rows that the model reads at a time.
        file: for the states; it takes len(layers) x labelled tokens x width x 2 bytes.
    """
    graph, params = nnx.split(model)
    masks = model.config.masks
    packed = pack(np.array([len(r.ids) for r in responses]), length, 0, 0)
    groups = [packed[start : start + at_once] for start in range(0, len(packed), at_once)]
    places = [_places(responses, group, length) for group in groups]
    width = max(len(place.flat) for place in places)

    @jax.jit
    def read(params: Any, tokens: Array, positions: Array, segments: Array, at: Array) -> Float32[Array, "L M D"]:
        states: list[Array] = []
        memory = models.Packed(segments, masks, "blocks")
        nnx.merge(graph, params)(tokens, positions, memory, record_hidden_states(states))
        return jnp.stack([states[n].reshape(-1, states[n].shape[-1])[at] for n in layers], dtype=jnp.float32)

    total = sum(response.labels for response in responses)
    shape = (len(layers), total, model.config.hidden_size)
    hidden = np.memmap(file, ml_dtypes.bfloat16, "w+", shape=shape)
    centre: np.ndarray | None = None
    for group, place in zip(groups, places, strict=True):
        rows, count = _rows(responses, group, length, at_once), len(place.flat)
        found = np.asarray(read(params, *rows, np.pad(place.flat, (0, width - count))))[:, :count]
        if centre is None:
            centre = found.mean(axis=1)
        hidden[:, place.number] = (found - centre[:, None]).astype(ml_dtypes.bfloat16)
    assert centre is not None, "there are responses"
    return Features(layers, hidden, centre, labelled_tokens(responses))


class _Places(NamedTuple):
    """The places before labelled tokens, in the rows of a group.

    Attributes:
        flat: of each in the flattened rows.
        number: of its labelled token among all of them.
    """

    flat: Int[np.ndarray, " M"]
    number: Int[np.ndarray, " M"]


def _places(responses: Sequence[Response], group: list[list[int]], length: int) -> _Places:
    firsts = np.cumsum([0] + [response.labels for response in responses])
    flat: list[np.ndarray] = []
    number: list[np.ndarray] = []
    for r, row in enumerate(group):
        start = r * length
        for i in row:
            response = responses[i]
            for segment in response.segments:
                labelled = np.flatnonzero(segment.classes != CONTEXT)
                flat.append(start + response.prompt + segment.first + labelled - 1)
            number.append(firsts[i] + np.arange(response.labels))
            start += len(response.ids)
    return _Places(np.concatenate(flat), np.concatenate(number))


def _rows(responses: Sequence[Response], group: list[list[int]], length: int, at_once: int) -> tuple[np.ndarray, ...]:
    """(tokens, positions, segments) of a group, each [at_once, length]."""
    tokens, segments = (np.zeros((at_once, length), np.int32) for _ in range(2))
    positions = np.full((at_once, length), -1, np.int32)
    for r, row in enumerate(group):
        start = 0
        for number, response in enumerate(row, start=1):
            ids = responses[response].ids
            there = slice(start, start + len(ids))
            tokens[r, there], segments[r, there], positions[r, there] = ids, number, np.arange(len(ids))
            start += len(ids)
    return tokens, positions, segments


# -- fitting -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Fit:
    """A logistic regression: logits are weight · h + bias + token_bias[token]."""

    weight: Float32[np.ndarray, " D"]
    bias: float
    token_bias: Float32[np.ndarray, " V"]

    def p(self, hidden: Float32[np.ndarray, "N D"], tokens: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """P(style) of tokens, given the hidden states before them."""
        logits = hidden @ self.weight + self.bias + self.token_bias[tokens]
        return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))

    def moved(self, centre: Float32[np.ndarray, " D"]) -> "Fit":
        """The fit that says of states `h` what this one says of `h - centre`."""
        return Fit(self.weight, float(self.bias - np.dot(self.weight.astype(np.float64), centre)), self.token_bias)


def fit(
    hidden: Float32[np.ndarray, "N D"],
    tokens: Int[np.ndarray, " N"],
    style: Bool[np.ndarray, " N"],
    vocabulary: int,
    config: ProbeFitConfig,
) -> Fit:
    """Minimises the mean cross-entropy + l2 / 2 |w|² + token_bias_l2 / 2 |u|², with w for features of variance 1.

    Tokens with fewer than `min_count` labels have no bias of their own.

    Args:
        hidden: states before the tokens.
        tokens: their ids.
        style: their labels.
        vocabulary: how many ids there are.
        config: both l2, min_count, and the most steps to take.
    """
    mean, std = hidden.mean(axis=0), hidden.std(axis=0)
    std = np.where(std > 0, std, 1)
    seen = np.bincount(tokens, minlength=vocabulary) >= config.min_count
    own = np.flatnonzero(seen) if config.token_bias else np.zeros(0, np.int64)
    number = np.full(vocabulary, len(own))  # one more for all others; it stays 0
    number[own] = np.arange(len(own))
    # Their count is rounded up, so that similar data share a compiled function.
    size = -(-(len(own) + 1) // 256) * 256
    w, b, u = _minimise(
        jnp.asarray((hidden - mean) / std),
        jnp.asarray(number[tokens]),
        jnp.asarray(style, jnp.float32),
        jnp.asarray(np.arange(size) < len(own), jnp.float32),
        config.l2,
        config.token_bias_l2,
        config.steps,
    )
    weight = np.asarray(w) / std
    biases = np.zeros(vocabulary, np.float32)
    biases[own] = np.asarray(u)[: len(own)]
    return Fit(weight, float(b - np.dot(weight.astype(np.float64), mean)), biases)


@partial(jax.jit, static_argnums=6)
def _minimise(
    x: Float32[Array, "N D"],
    number: Int[Array, " N"],
    style: Float32[Array, " N"],
    free: Float32[Array, " K"],
    l2: float,
    token_l2: float,
    steps: int,
) -> tuple[Float32[Array, " D"], Float32[Array, ""], Float32[Array, " K"]]:
    """L-BFGS on the whole data (Liu & Nocedal, 1989), until the gradient is small; biases that are not `free` stay."""

    def loss(params: Any) -> Float32[Array, ""]:
        w, b, u = params
        logits = matmul(x, w) + b + (u * free)[number]
        nll = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, style))
        return nll + 0.5 * l2 * jnp.sum(w**2) + 0.5 * token_l2 * jnp.sum(u**2)

    solver = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def advance(carry: Any) -> Any:
        params, state, count, _ = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state, count + 1, optax.tree.norm(grad)

    start = (jnp.zeros(x.shape[1]), jnp.zeros(()), jnp.zeros(free.shape[0]))
    carry = (start, solver.init(start), 0, jnp.inf)
    params, *_ = jax.lax.while_loop(lambda c: (c[2] < steps) & (c[3] > 1e-6), advance, carry)
    w, b, u = params
    return w, b, u * free
