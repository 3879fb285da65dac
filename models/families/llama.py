"""Llama: SmolLM2, Llama 3.x, R1-Distill-Llama. Follows HF's transformers/models/llama/modeling_llama.py.

The forward pass: `Decoder.__call__` (decoder.py) calls each layer's `PreNormBlock` (layers.py), which calls `Attention`
and `GatedMLP` there. Attention rotates queries and keys (rope.py) and attends through a `KeyValues` (key_values.py).
This file says only with what sizes, norms and biases.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from jax.sharding import Mesh

from tessy_jax.models.config import DecoderConfig, Fields, rope_scaling_to_hf
from tessy_jax.models.layers import ACTIVATIONS, Attention, GatedMLP, PreNormBlock, RMSNorm
from tessy_jax.models.mask import Full
from tessy_jax.models.sharding import Dim, Rules


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """A decoder with pre-norm blocks, optional biases and full attention."""

    mlp_bias: bool

    family = "Llama"
    model_type = "llama"

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> Self:
        fields = Fields(raw, where)
        common = fields.common()
        layers = fields.layers()
        return cls(
            **common,
            head_dim=fields.size("head_dim", common["hidden_size"] // common["num_attention_heads"]),
            masks=(Full(),) * layers,
            ropes=(fields.rope(theta=10_000.0),) * layers,
            activation=fields.one_of("hidden_act", ACTIVATIONS, "silu"),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            mlp_bias=fields.flag("mlp_bias", False),
        )

    def to_hf(self) -> dict[str, Any]:
        return super().to_hf() | {
            "hidden_act": self.activation,
            "mlp_bias": self.mlp_bias,
            "rope_theta": self.ropes[0].theta,
            "rope_scaling": rope_scaling_to_hf(self.ropes[0].scaling),
        }

    def norm(self, size: int) -> RMSNorm:
        return RMSNorm(size, self.rms_norm_eps)

    def block(self, layer: int, mesh: Mesh | None, rules: Rules) -> PreNormBlock:
        embed = Dim(self.hidden_size, "embed")
        attention = Attention(
            layer,
            embed,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            bias=self.attention_bias,
        )
        mlp = GatedMLP(embed, Dim(self.intermediate_size, "ff"), self.activation, bias=self.mlp_bias)
        return PreNormBlock(attention, mlp, lambda: self.norm(self.hidden_size))
