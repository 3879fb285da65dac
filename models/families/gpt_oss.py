"""GPT-OSS: 20b and 120b. Follows HF's transformers/models/gpt_oss/modeling_gpt_oss.py; model card: arXiv 2508.10925.

The forward pass: `Decoder.__call__` (decoder.py) calls each layer's `PreNormBlock` (layers.py): `Attention` with sinks
(layers.py, attention.py), then `RoutedMLP` (here), which routes each token and calls `ClampedExperts` (here) through
`Experts` (moe.py). Packed matrices are opened by formats/mx.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped, UInt8

from tessy_jax.models.config import DecoderConfig, Fields, ModelConfigError, rope_scaling_to_hf
from tessy_jax.models.formats.mx import GROUP, Format, Mxfp4, Mxint8
from tessy_jax.models.grouped import Product, one_by_one
from tessy_jax.models.layers import Attention, LateRMSNorm, PreNormBlock, parameter
from tessy_jax.models.mask import Sliding
from tessy_jax.models.moe import Experts, Router
from tessy_jax.models.sharding import Dim, Rules


@dataclass(frozen=True, kw_only=True)
class GptOssConfig(DecoderConfig):
    """Every layer has experts and attention sinks; layers alternate between a window and everything.

    Attributes:
        swiglu_alpha, swiglu_limit: of the experts' activation (`ClampedExperts`). HF's `hidden_act` is not used.
        attention_bias: of queries, keys, values and output; on in all checkpoints.
        experts_stored: how the experts' matrices lie in files: "mxfp4" or "floats" (HF:
            quantization_config.quant_method).
    """

    num_local_experts: int
    num_experts_per_tok: int
    swiglu_alpha: float
    swiglu_limit: float
    experts_stored: str

    family = "GptOss"
    model_type = "gpt_oss"

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> Self:
        fields = Fields(raw, where, quantised=("mxfp4",))
        layers = fields.layers()
        types = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
        if fields.get("rope_scaling", fields.get("rope_parameters", None)) is None:
            # transformers 4 and 5 put different values of YaRN in its place
            raise fields.error("rope_scaling", "is missing; every model of this family needs it, or rope_parameters")
        experts, chosen = fields.size("num_local_experts"), fields.size("num_experts_per_tok", 4)
        if chosen > experts:
            raise fields.error("num_experts_per_tok", f"is {chosen}, but there are {experts} experts")
        common = fields.common()
        if fields.quantisation:
            for name in ("hidden_size", "intermediate_size"):
                if common[name] % GROUP:
                    raise fields.error(name, f"is {common[name]}; MXFP4 needs a multiple of {GROUP}")
        return cls(
            **common
            | {
                "attention_bias": fields.flag("attention_bias", True),
                "rms_norm_eps": fields.number("rms_norm_eps", 1e-5),
            },
            head_dim=fields.size("head_dim", common["hidden_size"] // common["num_attention_heads"]),
            masks=fields.masks(fields.several("layer_types", str, types), fields.size("sliding_window", 128)),
            ropes=(fields.rope(theta=150_000.0),) * layers,
            activation=fields.one_of("hidden_act", ("silu",), "silu"),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            num_local_experts=experts,
            num_experts_per_tok=chosen,
            swiglu_alpha=fields.number("swiglu_alpha", 1.702),
            swiglu_limit=fields.number("swiglu_limit", 7.0),
            experts_stored=fields.quantisation or "floats",
        )

    def to_hf(self) -> dict[str, Any]:
        windows = [mask.window if isinstance(mask, Sliding) else None for mask in self.masks]
        window = next((w for w in windows if w is not None), None)
        same = ("num_local_experts", "num_experts_per_tok", "swiglu_alpha", "swiglu_limit")
        packed = self.experts_stored == "mxfp4"
        return super().to_hf() | {
            **{name: getattr(self, name) for name in same},
            **({"quantization_config": _MXFP4} if packed else {}),
            "hidden_act": self.activation,
            "rope_theta": self.ropes[0].theta,
            "rope_scaling": rope_scaling_to_hf(self.ropes[0].scaling) or {"rope_type": "default"},
            **({} if window is None else {"sliding_window": window}),  # transformers wants one, used or not
            "layer_types": ["full_attention" if w is None else "sliding_attention" for w in windows],
        }

    @property
    def balanced_experts(self) -> int:
        return self.num_local_experts

    @property
    def expert_share(self) -> float:
        return self.num_experts_per_tok / self.num_local_experts

    def norm(self, size: int) -> LateRMSNorm:
        return LateRMSNorm(size, self.rms_norm_eps)

    def block(self, layer: int, mesh: Mesh | None, rules: Rules) -> PreNormBlock:
        attention = Attention(
            layer,
            Dim(self.hidden_size, "embed"),
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            bias=self.attention_bias,
            sinks=True,
        )
        return PreNormBlock(attention, RoutedMLP(self, mesh, rules), lambda: self.norm(self.hidden_size))


class RoutedMLP(nnx.Module):
    """The experts with the highest logits, weighted by a softmax over those alone."""

    def __init__(self, config: GptOssConfig, mesh: Mesh | None, rules: Rules):
        self.router = Router(Dim(config.hidden_size, "embed"), Dim(config.num_local_experts), bias=True)
        self.experts = _experts(config, mesh, rules)
        self.chosen = config.num_experts_per_tok

    def __call__(self, x: Float[Array, "B C D"]) -> Float[Array, "B C D"]:
        with jax.named_scope("mlp"):
            logits, chosen = lax.top_k(self.router_logits(x).astype(jnp.float32), self.chosen)
            return self.experts(x, chosen, jax.nn.softmax(logits, axis=-1).astype(x.dtype))

    def router_logits(self, x: Float[Array, "B C D"]) -> Float[Array, "B C E"]:
        return self.router(x)


class ClampedExperts(Experts):
    """down((up + 1) * gate * sigmoid(alpha * gate)), gate at most `limit`, up between -limit and limit; with biases.

    Columns of gate and up alternate in one matrix, gate first. How the matrices are stored is up to the subclasses,
    which have `product`.
    """

    def __init__(self, config: GptOssConfig, mesh: Mesh | None, rules: Rules):
        super().__init__(config.kernel, mesh, rules)
        experts, embed = Dim(config.num_local_experts, "experts"), Dim(config.hidden_size, "embed")
        self.gate_up_proj_bias = parameter(experts, Dim(2 * config.intermediate_size, "expert_ff", unit=2), fill=0.0)
        self.down_proj_bias = parameter(experts, embed, fill=0.0)
        self.alpha, self.limit = config.swiglu_alpha, config.swiglu_limit

    def gate_up(self, rows: Float[Array, "M D"], sizes: Int[Array, " E"]) -> Float[Array, "M O"]:
        """Each row times its expert's gate and up, without biases; O is 2 * F."""
        raise NotImplementedError

    def down(self, rows: Float[Array, "M F"], sizes: Int[Array, " E"]) -> Float[Array, "M D"]:
        """Each row times its expert's down, without biases."""
        raise NotImplementedError

    def apply(
        self, rows: Float[Array, "M D"], sizes: Int[Array, " E"], which: Int[Array, " M"], first_part: Any
    ) -> Float[Array, "M D"]:
        gate_up = self.gate_up(rows, sizes) + self.gate_up_proj_bias[...][which]
        gate, up = gate_up[:, 0::2], gate_up[:, 1::2]
        gate, up = jnp.minimum(gate, self.limit), jnp.clip(up, -self.limit, self.limit)
        hidden = (up + 1) * gate * jax.nn.sigmoid(self.alpha * gate)
        return self.down(hidden, sizes) + jnp.where(first_part, self.down_proj_bias[...][which], 0)


class FloatExperts(ClampedExperts):
    """Matrices in the model's dtype, `[in, out]`: checkpoints that were trained, or saved again."""

    def __init__(self, config: GptOssConfig, mesh: Mesh | None, rules: Rules):
        super().__init__(config, mesh, rules)
        experts, embed = Dim(config.num_local_experts, "experts"), Dim(config.hidden_size, "embed")
        self.gate_up_proj = parameter(experts, embed, Dim(2 * config.intermediate_size, "expert_ff", unit=2))
        self.down_proj = parameter(experts, Dim(config.intermediate_size, "expert_ff"), embed)

    def gate_up(self, rows: Float[Array, "M D"], sizes: Int[Array, " E"]) -> Float[Array, "M O"]:
        return self.kernel(rows, self.gate_up_proj[...], sizes)

    def down(self, rows: Float[Array, "M F"], sizes: Int[Array, " E"]) -> Float[Array, "M D"]:
        return self.kernel(rows, self.down_proj[...], sizes)


class PackedExperts(ClampedExperts):
    """Matrices packed in groups; each is opened where it is multiplied.

    Where the experts do not divide over "tensor" too, it splits the width between groups of 32, of which the models
    have 90: it can be 2, 3, 5, 6, 9 or 10 then.
    """

    def __init__(self, config: GptOssConfig, mesh: Mesh | None, rules: Rules, packing: Format):
        super().__init__(config, mesh, rules)
        for name in ("hidden_size", "intermediate_size"):
            if getattr(config, name) % GROUP:
                raise ModelConfigError(f"{name} is {getattr(config, name)}; packed experts need a multiple of {GROUP}")
        experts, embed = Dim(config.num_local_experts, "experts"), Dim(config.hidden_size)
        pairs = Dim(2 * config.intermediate_size, "expert_ff", unit=2 * GROUP)
        ff = Dim(config.intermediate_size, "expert_ff")
        self.packing = packing
        self.gate_up_proj_blocks, self.gate_up_proj_scales = packing.matrices("gate_up_proj", experts, pairs, embed)
        self.down_proj_blocks, self.down_proj_scales = packing.matrices("down_proj", experts, embed, ff)

    def gate_up(self, rows: Float[Array, "M D"], sizes: Int[Array, " E"]) -> Float[Array, "M O"]:
        return self._product(rows, self.gate_up_proj_blocks[...], self.gate_up_proj_scales[...], sizes)

    def down(self, rows: Float[Array, "M F"], sizes: Int[Array, " E"]) -> Float[Array, "M D"]:
        return self._product(rows, self.down_proj_blocks[...], self.down_proj_scales[...], sizes)

    def _product(
        self,
        rows: Float[Array, "M I"],
        blocks: Shaped[Array, "E C O"],
        scales: UInt8[Array, "E G O"],
        sizes: Int[Array, " E"],
    ) -> Float[Array, "M O"]:
        def opened(expert: tuple[Shaped[Array, "C O"], UInt8[Array, "G O"]]) -> Product:
            return self.packing.opened(*expert, rows.dtype)

        return one_by_one(rows, (blocks, scales), sizes, scales.shape[2], opened)


def _experts(config: GptOssConfig, mesh: Mesh | None, rules: Rules) -> ClampedExperts:
    packed = config.experts_stored == "mxfp4"
    if config.int8:
        return PackedExperts(config, mesh, rules, Mxint8(packed))
    return PackedExperts(config, mesh, rules, Mxfp4()) if packed else FloatExperts(config, mesh, rules)


_MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
"""HF writes what is left alone, too; transformers needs it to read the file."""
