"""Gemma 3, text. Follows HF's transformers/models/gemma3/modeling_gemma3.py (Gemma3ForCausalLM).

Unlike the others: norms before and after attention and MLP with weights stored as offsets from one, sliding layers with
their own RoPE, scaled embeddings, and a score scale that is not derived from the head size.

The forward pass: `Decoder.__call__` (decoder.py) scales the embeddings and calls each layer's `Gemma3Block` (here),
which calls `Attention` and `GatedMLP` (layers.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tessy_jax.models.config import DecoderConfig, Fields, rope_scaling_to_hf
from tessy_jax.models.key_values import KeyValues
from tessy_jax.models.layers import ACTIVATIONS, Attention, GatedMLP, OffsetRMSNorm
from tessy_jax.models.mask import Sliding
from tessy_jax.models.rope import Rope, Rotation, Unscaled
from tessy_jax.models.sharding import Dim, Rules


@dataclass(frozen=True, kw_only=True)
class Gemma3Config(DecoderConfig):
    """A decoder with four norms per block; `query_pre_attn_scalar` ** -0.5 scales the scores."""

    query_pre_attn_scalar: int

    family = "Gemma3"
    model_type = "gemma3_text"

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> Self:
        fields = Fields(raw, where)
        for field in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
            fields.none(field)
        layers = fields.layers()
        every = fields.size("sliding_window_pattern", fields.get("_sliding_window_pattern", 6))
        types = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
        types = fields.several("layer_types", str, types)
        ropes = _ropes(fields)
        return cls(
            **fields.common(),
            head_dim=fields.size("head_dim", 256),
            masks=fields.masks(types, fields.size("sliding_window", 4096)),
            ropes=tuple(ropes[t] for t in types),
            activation=fields.one_of("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
            tie_word_embeddings=fields.flag("tie_word_embeddings", True),
            query_pre_attn_scalar=fields.size("query_pre_attn_scalar", 256),
        )

    def to_hf(self) -> dict[str, Any]:
        layers = list(zip(self.masks, self.ropes, strict=True))
        sliding = {mask: rope for mask, rope in layers if isinstance(mask, Sliding)}
        full = [rope for mask, rope in layers if not isinstance(mask, Sliding)]
        types = ["sliding_attention" if isinstance(mask, Sliding) else "full_attention" for mask in self.masks]
        out = super().to_hf() | {
            "hidden_activation": self.activation,
            "query_pre_attn_scalar": self.query_pre_attn_scalar,
            "layer_types": types,
        }
        for mask, rope in sliding.items():
            out |= {"sliding_window": mask.window, "rope_local_base_freq": rope.theta}
        for rope in full[:1]:
            out |= {"rope_theta": rope.theta, "rope_scaling": rope_scaling_to_hf(rope.scaling)}
        if any(rope.scaling != Unscaled() for rope in sliding.values()):  # transformers 4 has no keys for it
            ropes = dict(zip(types, self.ropes, strict=True))
            out["rope_parameters"] = {
                kind: {"rope_type": "default", "rope_theta": rope.theta, **(rope_scaling_to_hf(rope.scaling) or {})}
                for kind, rope in ropes.items()
            }
        return out

    def norm(self, size: int) -> OffsetRMSNorm:
        return OffsetRMSNorm(size, self.rms_norm_eps)

    def block(self, layer: int, mesh: Mesh | None, rules: Rules) -> "Gemma3Block":
        return Gemma3Block(self, layer)

    @property
    def embedding_scale(self) -> float:
        return math.sqrt(self.hidden_size)


def _ropes(fields: Fields) -> dict[str, Rope]:
    """The RoPE of each layer type. transformers 5 nests them by type; in 4 scaling is the full layers' only."""
    theta = {
        "full_attention": fields.number("rope_theta", 1_000_000.0, above=1.0),
        "sliding_attention": fields.number("rope_local_base_freq", 10_000.0, above=1.0),
    }
    parameters, scaling = fields.table("rope_parameters"), fields.table("rope_scaling")
    unknown = sorted(set(parameters) - set(theta))
    if unknown:
        raise fields.error("rope_parameters", f"has {unknown[0]!r} where full_attention and sliding_attention belong")
    places = {t: f"rope_parameters.{t}" for t in theta}
    ropes = {t: parameters.get(t) or {} for t in theta}
    if scaling:  # as in transformers, it is the full layers', and counts where both are there
        if isinstance(ropes["full_attention"], Mapping):
            ropes["full_attention"] = {**ropes["full_attention"], **scaling}
            if "rope_type" not in ropes["full_attention"]:  # transformers 4 would take `type`, 5 does not look at it
                raise fields.error("rope_scaling.rope_type", "is missing; every model of this family needs it")
        places["full_attention"] = "rope_scaling"
    return {t: fields.rope_from(places[t], ropes[t], theta[t]) for t in theta}


class Gemma3Block(nnx.Module):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(self, config: Gemma3Config, layer: int):
        embed = Dim(config.hidden_size, "embed")
        self.input_layernorm = config.norm(config.hidden_size)
        self.self_attn = Attention(
            layer,
            embed,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            scale=config.query_pre_attn_scalar**-0.5,
            bias=config.attention_bias,
            norm=config.norm,
        )
        self.post_attention_layernorm = config.norm(config.hidden_size)
        self.pre_feedforward_layernorm = config.norm(config.hidden_size)
        self.mlp = GatedMLP(embed, Dim(config.intermediate_size, "ff"), config.activation, bias=False)
        self.post_feedforward_layernorm = config.norm(config.hidden_size)

    def __call__(
        self, x: Float[Array, "B C D"], rotation: Rotation, positions: Int[Array, "B C"], kv: KeyValues
    ) -> tuple[Float[Array, "B C D"], KeyValues]:
        attended, kv = self.self_attn(self.input_layernorm(x), rotation, positions, kv)
        x = x + self.post_attention_layernorm(attended)
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x))), kv
