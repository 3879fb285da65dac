"""Qwen3 with experts: 30B-A3B, 235B-A22B. Follows HF's transformers/models/qwen3_moe/modeling_qwen3_moe.py.

The forward pass: `Decoder.__call__` (decoder.py) calls each layer's `PreNormBlock` (layers.py): attention as in
qwen3.py, then `SparseMLP` (here), which routes each token and calls `GatedExperts` (moe.py), whose products
are in grouped.py.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tessy_jax.models.config import Fields
from tessy_jax.models.families.qwen3 import Qwen3Config
from tessy_jax.models.layers import PreNormBlock
from tessy_jax.models.mask import Full, Mask, Sliding
from tessy_jax.models.moe import GatedExperts, Router
from tessy_jax.models.sharding import Dim, Rules


@dataclass(frozen=True, kw_only=True)
class Qwen3MoeConfig(Qwen3Config):
    """Qwen3 whose layers have experts, but for the `dense_layers`, which have an MLP of `intermediate_size`.

    Attributes:
        norm_topk_prob: whether the weights of the chosen experts are made to sum to one.
        dense_layers: HF: mlp_only_layers, and those that decoder_sparse_step passes over.
    """

    moe_intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    dense_layers: tuple[int, ...]

    family = "Qwen3Moe"
    model_type = "qwen3_moe"

    @classmethod
    def _fields(cls, fields: Fields) -> dict[str, Any]:
        layers = range(fields.layers())
        step = fields.size("decoder_sparse_step", 1)
        only = fields.several("mlp_only_layers", int, [])
        experts = fields.size("num_experts", fields.get("num_local_experts", 128))  # the latter: transformers 5
        chosen = fields.size("num_experts_per_tok", 8)
        if chosen > experts:
            raise fields.error("num_experts_per_tok", f"is {chosen}, but there are {experts} experts")
        return super()._fields(fields) | {
            "moe_intermediate_size": fields.size("moe_intermediate_size", 768),
            "num_experts": experts,
            "num_experts_per_tok": chosen,
            "norm_topk_prob": fields.flag("norm_topk_prob", False),
            "dense_layers": tuple(i for i in layers if i in only or (i + 1) % step),
        }

    @classmethod
    def _masks(cls, fields: Fields) -> tuple[Mask, ...]:
        """Unlike the dense Qwen3, a window is that of all layers."""
        window = fields.size("sliding_window") if fields.flag("use_sliding_window", False) else None
        return (Full() if window is None else Sliding(window),) * fields.layers()

    def to_hf(self) -> dict[str, Any]:
        same = ("moe_intermediate_size", "num_experts", "num_experts_per_tok", "norm_topk_prob")
        return super().to_hf() | {
            **{name: getattr(self, name) for name in same},
            "mlp_only_layers": list(self.dense_layers),
            "decoder_sparse_step": 1,
        }

    @property
    def balanced_experts(self) -> int:
        return self.num_experts

    @property
    def expert_share(self) -> float:
        return self.num_experts_per_tok / self.num_experts

    def block(self, layer: int, mesh: Mesh | None, rules: Rules) -> PreNormBlock:
        if layer in self.dense_layers:
            return super().block(layer, mesh, rules)
        return PreNormBlock(self.attention(layer), SparseMLP(self, mesh, rules), lambda: self.norm(self.hidden_size))


class SparseMLP(nnx.Module):
    """The experts that a softmax over all of them likes best, weighted by it."""

    def __init__(self, config: Qwen3MoeConfig, mesh: Mesh | None, rules: Rules):
        embed, ff = Dim(config.hidden_size, "embed"), Dim(config.moe_intermediate_size, "expert_ff")
        self.gate = Router(embed, Dim(config.num_experts), bias=False)
        self.experts = GatedExperts(embed, ff, config.num_experts, config.activation, config.kernel, mesh, rules)
        self.chosen, self.normalise = config.num_experts_per_tok, config.norm_topk_prob

    def __call__(self, x: Float[Array, "B C D"]) -> Float[Array, "B C D"]:
        with jax.named_scope("mlp"):
            return self.experts(x, *self._route(x))

    def router_logits(self, x: Float[Array, "B C D"]) -> Float[Array, "B C E"]:
        return self.gate(x)

    def _route(self, x: Float[Array, "B C D"]) -> tuple[Int[Array, "B C k"], Float[Array, "B C k"]]:
        p = jax.nn.softmax(self.router_logits(x).astype(jnp.float32), axis=-1)
        weights, chosen = jax.lax.top_k(p, self.chosen)
        if self.normalise:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        return chosen, weights.astype(x.dtype)
