"""What the loop only reads: weights and vocabularies, by role."""

from typing import Any, NamedTuple

from flax import struct
from jaxtyping import Int, UInt8

from tessy_jax.cooperate.state import Role
from tessy_jax.text_jax.arrays import Leaf
from tessy_jax.text_jax.canonical import Canonical


class Vocab(struct.PyTreeNode):
    """What the loop must know of a writing model's vocabulary, on the device.

    Letters: Q two phases (thinking, answer) times the states of the UTF-8 automaton, V vocabulary, L longest token.

    Attributes:
        next_utf8: per (answer?, automaton state) and token the next automaton state, 255 where the token is not
            allowed: bytes that break UTF-8, padding rows, special tokens other than the declared events.
        token_bytes, token_len: the bytes each token stands for.
        event: the structural event each token is (a `Finish`), NONE for text.
        canonical: how it encodes text; None where the device does not know that, or need not.
    """

    next_utf8: UInt8[Leaf, "Q V"]
    token_bytes: UInt8[Leaf, "V L"]
    token_len: Int[Leaf, " V"]
    event: Int[Leaf, " V"]
    canonical: Canonical | None = None


class RoleParams(NamedTuple):
    """What one role's turn reads: its model's weights, its vocabulary, and its predictor's parameters."""

    model: Any
    vocab: Vocab
    predictor: Any


class Params(struct.PyTreeNode):
    """All that is only read, by role."""

    models: tuple[Any, ...]
    vocabs: tuple[Vocab, ...]
    predictors: tuple[Any, ...]

    def of(self, role: Role) -> RoleParams:
        """What the turn of `role` reads."""
        return RoleParams(self.models[role], self.vocabs[role], self.predictors[role])
