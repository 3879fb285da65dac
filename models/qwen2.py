"""Qwen2 and 2.5, R1-Distill-Qwen. HF: transformers/models/qwen2/modeling_qwen2.py.

Llama's blocks with biases on queries, keys and values, none on the output; upper layers may have a window.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from jax.sharding import Mesh

from tessy_jax.models.config import DecoderConfig, Fields, rope_scaling_to_hf, windows_to_hf
from tessy_jax.models.layers import ACTIVATIONS, Attention, GatedMLP, PreNormBlock, RMSNorm
from tessy_jax.models.sharding import Dim, Rules


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(DecoderConfig):
    """A pre-norm decoder; `attention_bias` is that of queries, keys and values, and always on in checkpoints."""

    family = "Qwen2"
    model_type = "qwen2"

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> Self:
        fields = Fields(raw, where)
        common = fields.common()
        return cls(
            **common | {"attention_bias": True},
            head_dim=fields.size("head_dim", common["hidden_size"] // common["num_attention_heads"]),
            contexts=fields.windows_above(),
            ropes=(fields.rope(theta=10_000.0),) * fields.size("num_hidden_layers"),
            activation=fields.one_of("hidden_act", ACTIVATIONS, "silu"),
            tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        )

    def to_hf(self) -> dict[str, Any]:
        return super().to_hf() | {
            "hidden_act": self.activation,
            "rope_theta": self.ropes[0].theta,
            "rope_scaling": rope_scaling_to_hf(self.ropes[0].scaling),
            **windows_to_hf(self.contexts),
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
            output_bias=False,
        )
        mlp = GatedMLP(embed, Dim(self.intermediate_size, "ff"), self.activation, bias=False)
        return PreNormBlock(attention, mlp, lambda: self.norm(self.hidden_size))
