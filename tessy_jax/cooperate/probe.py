"""A probe: the pass that samples a token also predicts whether it is style. No second model, no second tokenisation.

    P(style) = sigmoid(w · h + b + u[token])

h is the writing model's hidden state after one of its layers, at the position before the token: the pass that samples
the token computes it anyway. u is a bias per token of its vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Float32, Int

from tessy_jax.cooperate.state import Leaf
from tessy_jax.models import call_block
from tessy_jax.models.decoder import BlockCall
from tessy_jax.text.tokenizer import ContentTokenizer


class ProbeParams(struct.PyTreeNode):
    """What a probe has learned, float32: `weight` w, `bias` b, `token_bias` u."""

    weight: Float32[Leaf, " D"]
    bias: Float32[Leaf, ""]
    token_bias: Float32[Leaf, " V"]


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """A probe of one model.

    Attributes:
      tokenizer: the model's.
      params: see the module's text; V is at least the tokenizer's size.
      layer: whose output it reads, from 0.
      threshold: a token is style if P(style) is at least this.
    """

    tokenizer: ContentTokenizer
    params: ProbeParams
    layer: int
    threshold: float

    def init_cache(self, *_: Any) -> tuple[()]:
        """A probe remembers nothing."""
        return ()

    @staticmethod
    def style(params: ProbeParams, hidden: Float[Array, "B D"], tokens: Int[Array, " B"]) -> Float32[Array, " B"]:
        """P(style) of `tokens`, sampled at positions with these hidden states of the probe's layer."""
        logits = hidden.astype(jnp.float32) @ params.weight + params.bias
        return jax.nn.sigmoid(logits + params.token_bias[tokens])


def listen(heard: list[Array]) -> BlockCall:
    """How to call the blocks of a model so that their outputs are also put in `heard`, in the order of layers."""

    def call(block: nnx.Module, x: Array, rotation: Any, positions: Array, memory: Any) -> tuple[Array, Any]:
        x, memory = call_block(block, x, rotation, positions, memory)
        heard.append(x)
        return x, memory

    return call
