"""The decoder and its two heads, for all families. HF names: `model.*`, `lm_head.*`, `score.*`."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int

from tessy_jax.models.config import DecoderConfig
from tessy_jax.models.formats.int8 import in_int8
from tessy_jax.models.grouped import check_kernel
from tessy_jax.models.key_values import KeyValues
from tessy_jax.models.layers import Embedding, Linear
from tessy_jax.models.products import einsum
from tessy_jax.models.rope import Rotation
from tessy_jax.models.sharding import Dim, Rules, sharding_for

KV = TypeVar("KV", bound=KeyValues)
BlockCall = Callable[
    [nnx.Module, Float[Array, "B C D"], Rotation, Int[Array, "B C"], KV], tuple[Float[Array, "B C D"], KV]
]


def call_block(
    block: nnx.Module, x: Float[Array, "B C D"], rotation: Rotation, positions: Int[Array, "B C"], kv: KV
) -> tuple[Float[Array, "B C D"], KV]:
    """Apply one block. A function of pytrees: `jax.checkpoint(call_block)` rematerialises it in a train step."""
    return block(x, rotation, positions, kv)


class Decoder(nnx.Module):
    """Embedding, blocks and final norm. Layers are unrolled: a scan over stacked layers decodes up to 1.4x slower."""

    def __init__(self, config: DecoderConfig, mesh: Mesh | None, rules: Rules):
        self.config, self.mesh, self.rules = config, mesh, rules
        self.embed_tokens = Embedding(Dim(config.vocab_size, "vocab"), Dim(config.hidden_size, "embed"))
        self.layers = nnx.List([config.block(i, mesh, rules) for i in range(config.num_hidden_layers)])
        if config.int8:
            for block in self.layers:
                in_int8(block)
        if config.kernel != "xla":
            params = (param for _, param in nnx.to_flat_state(nnx.state(self.layers, nnx.Param)))
            check_kernel(config.kernel, [p for p in params if p.get_metadata()["dims"][0].axis == "experts"])
        self.norm = config.norm(config.hidden_size)

    def __call__(
        self, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], kv: KV, apply: BlockCall = call_block
    ) -> tuple[Float[Array, "B C D"], KV]:
        x = self.embed_tokens(tokens)
        if self.config.embedding_scale != 1.0:
            x = x * jnp.asarray(self.config.embedding_scale, x.dtype)  # rounded to the weights' dtype, as HF does
        rotations = {r: r.rotation(positions, self.config.rotary_dim, x.dtype) for r in set(self.config.ropes)}
        for block, rope in zip(self.layers, self.config.ropes, strict=True):
            x, kv = apply(block, self._on_mesh(x), rotations[rope], positions, kv)
        return self.norm(x), kv

    def _on_mesh(self, x: Float[Array, "B C D"]) -> Float[Array, "B C D"]:
        """Pin rows to their devices, so that the compiler moves split weights to the rows and not the other way."""
        if self.mesh is None:
            return x
        dims = (Dim(x.shape[0], "batch"), Dim(x.shape[1]), Dim(x.shape[2]))
        return jax.lax.with_sharding_constraint(x, sharding_for(self.mesh, self.rules, dims, "hidden states"))


class CausalLM(nnx.Module):
    """A language model (HF: …ForCausalLM).

    `model(tokens[B, C], positions[B, C], kv) -> (hidden[B, C, D], kv)` serves prefill, catch-up and decode.
    Positions may differ from row to row and ascend by one within a row. A token at a negative position is padding: it
    has no place in the cache, and its output is finite but means nothing. `kv` is a Cache (or Packed, to train);
    `apply` calls each block: pass `jax.checkpoint(call_block)` to recompute activations in a train step.
    """

    def __init__(self, config: DecoderConfig, mesh: Mesh | None, rules: Rules):
        self.config = config
        self.model = Decoder(config, mesh, rules)
        vocab, embed = Dim(config.vocab_size, "vocab"), Dim(config.hidden_size, "embed")
        self.lm_head = None if config.tie_word_embeddings else Linear(embed, vocab, bias=False)

    def __call__(
        self, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], kv: KV, apply: BlockCall = call_block
    ) -> tuple[Float[Array, "B C D"], KV]:
        return self.model(tokens, positions, kv, apply)

    def logits(self, hidden: Float[Array, "... D"]) -> Float32[Array, "... V"]:
        """Unnormalised log-probabilities of the next token, accumulated in float32."""
        with jax.named_scope("logits"):
            weight = self.output_weight()
            return einsum("...d,vd->...v", hidden, weight, preferred_element_type=jnp.float32)

    def output_weight(self) -> Float[Array, "V D"]:
        """The output matrix: the embeddings where they are tied. For losses that never form all logits at once."""
        return (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight[...]


class TokenClassifier(nnx.Module):
    """A decoder with a linear head on every token (HF: …ForTokenClassification). Called like CausalLM."""

    def __init__(self, config: DecoderConfig, mesh: Mesh | None, rules: Rules):
        self.config = config
        self.model = Decoder(config, mesh, rules)
        self.score = Linear(Dim(config.hidden_size, "embed"), Dim(len(config.labels)), bias=True)

    def __call__(
        self, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], kv: KV, apply: BlockCall = call_block
    ) -> tuple[Float[Array, "B C D"], KV]:
        return self.model(tokens, positions, kv, apply)

    def scores(self, hidden: Float[Array, "... D"]) -> Float32[Array, "... L"]:
        """Unnormalised log-probabilities of the labels, in the order of `config.labels`."""
        return self.score(hidden).astype(jnp.float32)


Model = CausalLM | TokenClassifier
