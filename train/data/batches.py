"""What one optimizer step sees, and the stream of such batches."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Generic, Protocol, TypeVar

import grain
import jax
import numpy as np
from jaxtyping import Float, Float32, Int, Int8, Int32

from tessy_jax.errors import UserError
from tessy_jax.train.data.corpus import Document
from tessy_jax.train.data.packing import BatchPlan

Leaf = jax.Array | np.ndarray
"""An array of a batch: JAX's on the device, NumPy's on the host."""

_SHOWN = 5
"""Examples named in an error."""


class BatchError(UserError, ValueError):
    """A batch that cannot be trained on; the message is meant for the user."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """One step: A micro-batches of B rows, each with the tokens of one or more documents (examples) one after another.
    One micro-batch is a Batch too, without A.

    What is learned at place `t` is its target: the next token of the same document, or for a token classifier a label.
    `weights` and `parts` at `t` are those of `targets[t]`.

    Attributes:
        tokens: ids; 0 on padding.
        targets: the id after this one in its document, or a label; 0 where there is none.
        segments: the document within its row, counted from 1; 0 on padding.
        positions: of the token in its document, from 0; -1 on padding.
        parts: codes of the targets (`examples.PARTS`); 0 where there is no target.
        weights: of the targets in the loss; 0: not trained.
    """

    tokens: Int[Leaf, "*A B T"]
    targets: Int[Leaf, "*A B T"]
    segments: Int[Leaf, "*A B T"]
    positions: Int[Leaf, "*A B T"]
    parts: Int8[Leaf, "*A B T"]
    weights: Float[Leaf, "*A B T"]


def abstract(pieces: int, rows: int, length: int) -> Batch:
    """A batch of shapes without values, to compile with: micro-batches, rows of each, tokens of a row."""
    types = {"parts": np.int8, "weights": np.float32}
    shape = (pieces, rows, length)
    shapes: Any = {f.name: jax.ShapeDtypeStruct(shape, types.get(f.name, np.int32)) for f in fields(Batch)}
    return Batch(**shapes)


class Documents(Protocol):
    """Examples by number; a `Corpus` is one.

    Attributes:
        counts: targets of each example, by part.
    """

    @property
    def counts(self) -> Int32[np.ndarray, "N P"]: ...

    def document(self, i: int) -> Document: ...

    def names(self, which: Iterable[int]) -> list[str]:
        """The ids of some examples, for messages."""
        ...


DocumentsT = TypeVar("DocumentsT", bound=Documents)


@dataclass(frozen=True)
class Weights:
    """The weight in the loss of a token of each part; the prompt has none."""

    style: float = 1.0
    capability: float = 1.0
    answer: float = 1.0
    assistant: float = 1.0

    def table(self) -> Float32[np.ndarray, " P"]:
        """Weights by code of the part."""
        return np.array([0.0, *astuple(self)], np.float32)


class Batches(Generic[DocumentsT]):
    """The batches of a plan, as one process sees them.

    A step's rows are a function of the corpus and the plan alone. Micro-batches divide them in order, and processes
    divide each micro-batch in blocks: who computes a row changes with them, never which rows are in a step.
    """

    def __init__(
        self,
        corpus: DocumentsT,
        plan: BatchPlan,
        weights: Weights = Weights(),
        *,
        accumulate: int = 1,
        process: tuple[int, int] = (0, 1),
    ):
        """
        Args:
            corpus: the examples that the plan was made for.
            plan: the rows of every step.
            weights: of the parts.
            accumulate: micro-batches of a step.
            process: the index of this one, and how many there are.

        Raises:
            ValueError: the rows of a step are not micro-batches of equal blocks.
        """
        pieces = accumulate * process[1]
        if plan.rows % pieces:
            raise ValueError(f"{plan.rows} rows are not {accumulate} micro-batches for {process[1]} processes each")
        self.corpus, self.plan, self.weights = corpus, plan, weights
        self._accumulate, self._process = accumulate, process
        self._worth = corpus.counts @ weights.table()  # sum of weights of each example

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> grain.DatasetIterator:
        """Grain's iterator, a few batches ahead in threads; `get_state` gives JSON, from which `set_state` goes on.

        It raises BatchError as `batch` does.
        """
        steps = grain.MapDataset.range(len(self)).map(self.batch)
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))

    def names(self, step: int) -> list[str]:
        """The ids of all examples of a step."""
        return self.corpus.names(np.concatenate(self.plan[step]))

    def batch(self, step: int) -> Batch:
        """This process's rows of a step, as NumPy arrays.

        Raises:
            BatchError: no token of the step, over all processes, has a weight.
        """
        rows = self.plan[step]
        if not self._worth[np.concatenate(rows)].any():
            raise BatchError(self._nothing(step))
        index, count = self._process
        width = len(rows) // self._accumulate // count
        starts = [(a * count + index) * width for a in range(self._accumulate)]
        mine = [row for start in starts for row in rows[start : start + width]]
        arrays = self._assemble(mine)
        shape = (self._accumulate, width, self.plan.length)
        return Batch(**{name: array.reshape(shape) for name, array in arrays.items()})

    def _assemble(self, rows: Sequence[Int32[np.ndarray, " N"]]) -> dict[str, np.ndarray]:
        shape = (len(rows), self.plan.length)
        tokens, targets, segments = (np.zeros(shape, np.int32) for _ in range(3))
        positions, parts = np.full(shape, -1, np.int32), np.zeros(shape, np.int8)
        for r, row in enumerate(rows):
            start = 0
            for number, example in enumerate(row.tolist(), start=1):
                document = self.corpus.document(example)
                end = start + len(document.tokens)
                tokens[r, start:end] = document.tokens
                targets[r, start:end] = document.targets
                parts[r, start:end] = document.parts
                segments[r, start:end] = number
                positions[r, start:end] = np.arange(end - start)
                start = end
        values: dict[str, Any] = {"tokens": tokens, "targets": targets, "segments": segments, "positions": positions}
        return values | {"parts": parts, "weights": self.weights.table()[parts]}

    def _nothing(self, step: int) -> str:
        names = self.names(step)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return (
            f"nothing to train on in step {step + 1}: all tokens of its examples ({', '.join(names[:_SHOWN])}{more})"
            f" have weight 0; the weights are {self.weights}: raise one, take out these examples, or more rows a step"
        )
