"""Qwen3, dense: students and boundary predictors. Follows HF's transformers/models/qwen3/modeling_qwen3.py.

The forward pass: `Decoder.__call__` (decoder.py) calls each layer's `PreNormBlock` (layers.py), which calls `Attention`
(here with a norm on each query and key head) and `GatedMLP` there. Attention rotates queries and keys (rope.py) and
attends through a `KeyValues` (key_values.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from jax.sharding import Mesh

from tessy_jax.models.config import DecoderConfig, Fields, rope_scaling_to_hf, windows_to_hf
from tessy_jax.models.layers import ACTIVATIONS, Attention, GatedMLP, PreNormBlock, RMSNorm
from tessy_jax.models.mask import Mask
from tessy_jax.models.sharding import Dim, Rules


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(DecoderConfig):
    """A pre-norm decoder with a norm on each query and key head; upper layers may have a window."""

    family = "Qwen3"
    model_type = "qwen3"

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> Self:
        return cls(**cls._fields(Fields(raw, where)))

    @classmethod
    def _fields(cls, fields: Fields) -> dict[str, Any]:
        layers = fields.layers()
        return fields.common() | {
            "head_dim": fields.size("head_dim", 128),
            "masks": cls._masks(fields),
            "ropes": (fields.rope(theta=10_000.0),) * layers,
            "activation": fields.one_of("hidden_act", ACTIVATIONS, "silu"),
            "tie_word_embeddings": fields.flag("tie_word_embeddings", False),
        }

    @classmethod
    def _masks(cls, fields: Fields) -> tuple[Mask, ...]:
        return fields.windows_above()

    def to_hf(self) -> dict[str, Any]:
        return super().to_hf() | {
            "hidden_act": self.activation,
            "rope_theta": self.ropes[0].theta,
            "rope_scaling": rope_scaling_to_hf(self.ropes[0].scaling),
            **windows_to_hf(self.masks),
        }

    def norm(self, size: int) -> RMSNorm:
        return RMSNorm(size, self.rms_norm_eps)

    def attention(self, layer: int) -> Attention:
        """A new attention layer."""
        return Attention(
            layer,
            Dim(self.hidden_size, "embed"),
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            bias=self.attention_bias,
            norm=self.norm,
        )

    def block(self, layer: int, mesh: Mesh | None, rules: Rules) -> PreNormBlock:
        embed, ff = Dim(self.hidden_size, "embed"), Dim(self.intermediate_size, "ff")
        mlp = GatedMLP(embed, ff, self.activation, bias=False)
        return PreNormBlock(self.attention(layer), mlp, lambda: self.norm(self.hidden_size))
