"""Qwen3, dense: students and boundary predictors. HF: transformers/models/qwen3/modeling_qwen3.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tessy_jax.models.config import DecoderConfig, Fields, rope_scaling_to_hf
from tessy_jax.models.context import Sliding
from tessy_jax.models.layers import ACTIVATIONS, Attention, GatedMLP, PreNormBlock, RMSNorm
from tessy_jax.models.sharding import Dim


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(DecoderConfig):
    """A pre-norm decoder with a norm on each query and key head; upper layers may have a window."""

    family = "Qwen3"
    model_type = "qwen3"

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> Self:
        fields = Fields(raw, where)
        layers = fields.size("num_hidden_layers")
        window = fields.size("sliding_window") if fields.get("use_sliding_window", False) else None
        first = fields.get("max_window_layers", 28) if window is not None else layers
        types = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
        return cls(
            **fields.common(),
            head_dim=fields.size("head_dim", 128),
            contexts=fields.contexts(fields.get("layer_types", types), window),
            ropes=(fields.rope(theta=10_000.0),) * layers,
            activation=fields.one_of("hidden_act", ACTIVATIONS, "silu"),
            tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        )

    def to_hf(self) -> dict[str, Any]:
        windows = [c.window if isinstance(c, Sliding) else None for c in self.contexts]
        window = next((w for w in windows if w is not None), None)
        return super().to_hf() | {
            "hidden_act": self.activation,
            "rope_theta": self.ropes[0].theta,
            "rope_scaling": rope_scaling_to_hf(self.ropes[0].scaling),
            "use_sliding_window": window is not None,
            "sliding_window": window,
            "layer_types": ["full_attention" if w is None else "sliding_attention" for w in windows],
        }

    def norm(self, size: int) -> RMSNorm:
        return RMSNorm(size, self.rms_norm_eps)

    def block(self, layer: int) -> PreNormBlock:
        embed = Dim(self.hidden_size, "embed")
        attention = Attention(
            layer,
            embed,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            bias=self.attention_bias,
            norm=self.norm,
        )
        mlp = GatedMLP(embed, Dim(self.intermediate_size, "ff"), self.activation, bias=False)
        return PreNormBlock(attention, mlp, lambda: self.norm(self.hidden_size))
