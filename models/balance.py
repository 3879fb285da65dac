"""How evenly routers spread tokens over experts, and the loss that keeps them from choosing few."""

from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from tessy_jax.models.products import einsum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Balance:
    """Sums over the routers' tokens of all layers; padding does not count.

    Attributes:
        chosen: by expert: tokens that went to it.
        probabilities: by expert: of the softmax over all experts.
        tokens: in all layers together.
    """

    chosen: Float32[Array, " E"]
    probabilities: Float32[Array, " E"]
    tokens: Float32[Array, ""]

    @classmethod
    def empty(cls, experts: int) -> Self:
        """Before the first layer."""
        return cls(jnp.zeros(experts), jnp.zeros(experts), jnp.zeros(()))

    def add(self, logits: Float[Array, "B C E"], each: int, real: Bool[Array, "B C"]) -> Self:
        """With a layer's tokens, each of which goes to `each` experts."""
        p = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        _, chosen = jax.lax.top_k(p, each)
        went = jax.nn.one_hot(chosen, p.shape[-1]).sum(axis=-2)
        counts = real.astype(jnp.float32)
        return type(self)(
            self.chosen + einsum("bce,bc->e", went, counts),
            self.probabilities + einsum("bce,bc->e", p, counts),
            self.tokens + counts.sum(),
        )

    @property
    def loss(self) -> Float32[Array, ""]:
        """E * sum over experts of (share of the tokens that went there) * (mean probability): Switch Transformer, arXiv
        2101.03961, §2.2, as `load_balancing_loss_func` in transformers has it. Even routers make it as
        many as a token has experts.
        """
        shares = (self.chosen / self.tokens) * (self.probabilities / self.tokens)
        return self.chosen.shape[0] * shares.sum()
