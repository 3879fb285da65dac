"""How likely the student finds a text: -log p of each token, as the loss before the first training step has it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Int32

from tessy_jax import models
from tessy_jax.train.data.batches import Batches
from tessy_jax.train.data.corpus import Document
from tessy_jax.train.data.examples import PARTS, Example
from tessy_jax.train.data.packing import BatchPlan
from tessy_jax.train.loss import token_losses

_SHORTEST = 512
"""Tokens of the shortest rows: several short texts share one."""

_CHUNK = 512
"""Tokens whose logits exist at the same time."""

Nll = Float32[np.ndarray, " T"]


@dataclass(frozen=True, eq=False)
class Documents:
    """Examples as `Batches` takes them."""

    examples: Sequence[Example]

    @property
    def counts(self) -> Int32[np.ndarray, "N P"]:
        parts = [np.bincount(one.parts[1:], minlength=len(PARTS)) for one in self.examples]
        return np.stack(parts).astype(np.int32)

    def document(self, i: int) -> Document:
        one = self.examples[i]
        return Document(one.tokens, np.append(one.tokens[1:], 0), np.append(one.parts[1:], 0))

    def names(self, which: Iterable[int]) -> list[str]:
        return [self.examples[i].id for i in which]


class Likelihood:
    """A language model that reads texts. Memory is bounded: it reads `batch_tokens` at a time."""

    def __init__(self, model: models.CausalLM, batch_tokens: int = 4096):
        graph, self._params = nnx.split(model)
        self._batch_tokens = batch_tokens
        masks = model.config.masks

        @jax.jit
        def read(params: nnx.State, batch: Any) -> Float32[Array, "B T"]:
            model = nnx.merge(graph, params)
            hidden, _ = model(batch.tokens, batch.positions, models.Packed(batch.segments, masks, "blocks"))
            return token_losses(hidden, model.output_weight(), batch.targets, _CHUNK)[0]

        self._read = read

    def nll(self, examples: Sequence[Example], seen: Callable[[int], None] = lambda tokens: None) -> list[Nll]:
        """-log p of every token given those before it, in nats; 0 for the first of each example, which has none.

        Texts are put together by length: those of up to 512 tokens share rows of 512, longer ones rows of 1024, 2048, …
        tokens, so that a few compiled shapes read everything.

        Args:
            seen: told how many tokens have been read, after each batch.
        """
        found = [np.zeros(len(one.tokens), np.float32) for one in examples]
        for length, numbers in _by_length(examples).items():
            documents = Documents([examples[i] for i in numbers])
            lengths = np.array([len(one.tokens) for one in documents.examples])
            plan = BatchPlan(lengths, length, max(1, self._batch_tokens // length), epochs=1, seed=0)
            batches = Batches(documents, plan)
            for step in range(plan.steps):
                batch = jax.tree.map(lambda array: array[0], batches.batch(step))
                losses = np.asarray(self._read(self._params, batch))
                for example, values in _unpack(plan[step], lengths, losses):
                    found[numbers[example]][1:] = values[:-1]
                seen(int((batch.segments > 0).sum()))
        return found


def _by_length(examples: Sequence[Example]) -> dict[int, list[int]]:
    """The numbers of the examples for each length of rows, short ones first."""
    found: dict[int, list[int]] = {}
    for number, one in enumerate(examples):
        if len(one.tokens) > 1:  # of a single token nothing is predicted
            found.setdefault(max(_SHORTEST, 1 << (len(one.tokens) - 1).bit_length()), []).append(number)
    return dict(sorted(found.items()))


def _unpack(
    rows: Sequence[Int32[np.ndarray, " N"]], lengths: np.ndarray, losses: Float32[np.ndarray, "B T"]
) -> Iterator[tuple[int, Nll]]:
    """Each example of a batch with the values at its places."""
    for row, values in zip(rows, losses, strict=False):
        start = 0
        for example in row.tolist():
            end = start + int(lengths[example])
            yield example, values[start:end]
            start = end
