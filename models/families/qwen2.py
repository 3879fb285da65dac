"""Qwen2 and 2.5, R1-Distill-Qwen. Follows HF's transformers/models/qwen2/modeling_qwen2.py.

Qwen3 without norms on queries and keys; these and the values have biases, the output has none.

The forward pass is that of qwen3.py: decoder.py, then `PreNormBlock`, `Attention` and `GatedMLP` in layers.py.
"""

from dataclasses import dataclass
from typing import Any

from tessy_jax.models.config import Fields
from tessy_jax.models.families.qwen3 import Qwen3Config
from tessy_jax.models.layers import Attention
from tessy_jax.models.sharding import Dim


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(Qwen3Config):
    """`attention_bias` is that of queries, keys and values, and always on: config.json does not name it."""

    family = "Qwen2"
    model_type = "qwen2"

    @classmethod
    def _fields(cls, fields: Fields) -> dict[str, Any]:
        found = super()._fields(fields)
        head_dim = fields.size("head_dim", found["hidden_size"] // found["num_attention_heads"])
        return found | {"head_dim": head_dim, "attention_bias": True}

    def attention(self, layer: int) -> Attention:
        return Attention(
            layer,
            Dim(self.hidden_size, "embed"),
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            bias=self.attention_bias,
            output_bias=False,
        )
