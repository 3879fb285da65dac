"""Where a layer's keys and values come from: the one call between the layers and what they attend to.

A layer hands its new queries, keys and values to a `KeyValues` and gets back what each new token sees. There are two:
`Cache` (cache.py) has all tokens so far, to generate; `Packed` has the new tokens alone, to train.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol, Self

import jax
from jaxtyping import Array, Float, Int

from tessy_jax.models.attention import attention
from tessy_jax.models.balance import Balance
from tessy_jax.models.mask import Mask, PackedMask


class AttentionInputs(NamedTuple):
    """What a layer has computed of a chunk of new tokens when it attends.

    Attributes:
        layer: index of the layer.
        q, k, v: queries, keys and values of the new tokens. Without values (None) the keys are the values: DeepSeek's
            latents, of which a layer keeps one array.
        positions: of the new tokens in their rows; negative: padding.
        scale: of the scores, before the softmax.
        sinks: a logit per query head, see attention.py; None: no sinks.
    """

    layer: int
    q: Float[Array, "B C N H"]
    k: Float[Array, "B C K H"]
    v: Float[Array, "B C K H"] | None
    positions: Int[Array, "B C"]
    scale: float
    sinks: Float[Array, " N"] | None = None


class KeyValues(Protocol):
    """The keys and values that a model's layers look at: a `Cache` of all tokens so far, or a `Packed` chunk alone."""

    def attend(self, new: AttentionInputs) -> tuple[Float[Array, "B C NH"], Self]:
        """Takes in a layer's new keys and values and shows its queries what they may see.

        Returns what each new token gets, and the keys and values afterwards.
        """
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """No cache: the chunk itself is the whole text. For training on rows that hold several documents.

    Attributes:
        segments: [B, C] document number of each token; tokens see their own document only. Positions restart in each.
        masks: one per layer (static): `config.masks`.
        implementation: "dense" holds all [C, C] scores of a layer; "blocks" never does, forward or backward (static).
        block: tokens per block of "blocks" (static); None: what suits this machine.
        balance: what the routers chose so far, where that is counted.
    """

    segments: Int[Array, "B C"]
    masks: tuple[Mask, ...] = field(metadata={"static": True})
    implementation: Literal["dense", "blocks"] = field(default="dense", metadata={"static": True})
    block: int | None = field(default=None, metadata={"static": True})
    balance: Balance | None = None

    def count(self, logits: Float[Array, "B C E"], each: int) -> "Packed":
        """Takes in the scores of a layer's router, which sends each token to `each` experts."""
        assert self.balance is not None, "nobody asked for the routers' choices"
        return replace(self, balance=self.balance.add(logits, each, self.segments > 0))

    def attend(self, new: AttentionInputs) -> tuple[Float[Array, "B C NH"], Self]:
        """Look at the chunk's own keys and values, within a document."""
        out = attention(
            new.q,
            new.k,
            new.k if new.v is None else new.v,
            PackedMask(self.masks[new.layer], self.segments, new.positions),
            scale=new.scale,
            sinks=new.sinks,
            block=self.block if self.implementation == "blocks" else None,
            implementation=self.implementation,
        )
        return out, self
