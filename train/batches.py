"""What one optimizer step sees."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Int, Int8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """One step: A micro-batches of B rows, each with the tokens of one or more documents (examples) one after another.

    What is learned at place `t` is its target: the next token of the same document. So `weights` and `parts` at `t`
    are those of `targets[t]`.

    Attributes:
        tokens: ids; 0 on padding.
        targets: the id after this one in its document; 0 where there is none.
        segments: the document within its row, counted from 1; 0 on padding.
        positions: of the token in its document, from 0; -1 on padding.
        parts: codes of the targets (`train.examples.PARTS`); 0 where there is no target.
        weights: of the targets in the loss; 0: not trained.
    """

    tokens: Int[Array, "A B T"]
    targets: Int[Array, "A B T"]
    segments: Int[Array, "A B T"]
    positions: Int[Array, "A B T"]
    parts: Int8[Array, "A B T"]
    weights: Float[Array, "A B T"]
