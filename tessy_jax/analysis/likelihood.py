"""How likely the student finds a text: -log p of each token, as the loss before the first training step has it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from tessy_jax import models
from tessy_jax.train.data.batches import Batches
from tessy_jax.train.data.corpus import Document
from tessy_jax.train.data.examples import CONTEXT, PARTS, Example
from tessy_jax.train.data.packing import BatchPlan
from tessy_jax.train.loss import token_losses

_CHUNK = 128
"""Tokens whose logits exist at the same time. On CPUs they had better fit the cache."""

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
            return _losses(hidden, model.output_weight(), batch.targets, batch.parts != CONTEXT)

        self._read = read

    def nll(self, examples: Sequence[Example], seen: Callable[[int], None] = lambda tokens: None) -> list[Nll]:
        """-log p of every token that would be learned, given those before it, in nats; 0 for the prompt's.

        Texts share rows of `batch_tokens`: attention skips what is of another text, and long rows leave little room
        empty (1,000 texts of about 270 tokens fill 98 % of rows of 4096, and 68 % of rows of 512). Longer texts have
        rows of the next power of two, so that a few compiled shapes read everything.

        Args:
            seen: told how many tokens have been read, after each batch.
        """
        found = [np.zeros(len(one.tokens), np.float32) for one in examples]
        for length, numbers in self._by_length(examples).items():
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

    def _by_length(self, examples: Sequence[Example]) -> dict[int, list[int]]:
        """The numbers of the examples for each length of rows, short ones first. All are multiples of a chunk."""
        lengths = np.array([len(one.tokens) for one in examples])
        short = -(-self._batch_tokens // _CHUNK) * _CHUNK
        short = min(short, max(_CHUNK, _power_of_two(int(lengths[lengths <= short].sum()))))
        found: dict[int, list[int]] = {}
        for number, length in enumerate(lengths.tolist()):
            if length > 1:  # of a single token nothing is predicted
                found.setdefault(short if length <= short else _power_of_two(length), []).append(number)
        return dict(sorted(found.items()))


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _losses(
    hidden: Float[Array, "B T D"], weight: Float[Array, "V D"], targets: Int[Array, "B T"], learned: Bool[Array, "B T"]
) -> Float32[Array, "B T"]:
    """Losses of the targets that are learned, and 0 for the others, whose logits are not computed."""
    first = jnp.argsort(~learned.reshape(-1), stable=True).reshape(-1, _CHUNK)
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), jnp.where(learned, targets, 0).reshape(-1)

    def chunk(at: Int[Array, " C"]) -> Float32[Array, " C"]:
        def read() -> Float32[Array, " C"]:
            return token_losses(flat[at][None], weight, wanted[at][None], _CHUNK)[0][0]

        return jax.lax.cond(learned.reshape(-1)[at[0]], read, lambda: jnp.zeros(_CHUNK, jnp.float32))

    found = jnp.zeros(wanted.shape, jnp.float32).at[first.reshape(-1)].set(jax.lax.map(chunk, first).reshape(-1))
    return jnp.where(learned, found.reshape(targets.shape), 0)


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
