"""DeepSeek-V3: R1 and R1-0528. Follows HF's transformers/models/deepseek_v3/modeling_deepseek_v3.py; arXiv 2412.19437.

Attention reads one small latent vector per token instead of keys and values of many heads (MLA, §2.1.1 there), and most
layers have experts that are chosen within groups by biased scores (§2.1.2).

The forward pass: `Decoder.__call__` (decoder.py) calls each layer's `PreNormBlock` (layers.py): `LatentAttention`
(here), then `GatedMLP` (layers.py) or `SparseMLP` (here), which calls `Router` (here) and `GatedExperts` (moe.py).
Matrices of 8 bits are opened by formats/fp8.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int

from tessy_jax.models.config import CacheSpec, DecoderConfig, Fields, rope_scaling_to_hf
from tessy_jax.models.formats.fp8 import BlockFp8, Storage
from tessy_jax.models.key_values import AttentionInputs, KeyValues
from tessy_jax.models.layers import ACTIVATIONS, GatedMLP, PreNormBlock, RMSNorm, parameter
from tessy_jax.models.mask import Full
from tessy_jax.models.moe import GatedExperts
from tessy_jax.models.products import einsum
from tessy_jax.models.rope import Rotation, Yarn, deinterleave, rotate, yarn_mscale
from tessy_jax.models.sharding import Dim, Rules

LATENT_EPS = 1e-6
"""Of the norms of latents: HF's constructor default, whatever rms_norm_eps says."""


@dataclass(frozen=True, kw_only=True)
class DeepseekV3Config(DecoderConfig):
    """Latent attention; `dense_layers` layers with an MLP of `intermediate_size`, then layers with experts.

    Attributes:
        head_dim: elements of a query or key that RoPE turns (HF: qk_rope_head_dim).
        qk_nope_head_dim: those that it does not turn.
        v_head_dim: elements of a value.
        kv_lora_rank: of the latent from which keys and values are made.
        q_lora_rank: of the latent from which queries are made; None: they are made from the hidden state.
        rope_interleave: whether the pairs that RoPE turns are neighbours.
        n_shared_experts: experts that every token goes to.
        n_group, topk_group: groups of experts, and how many of them a token may use.
        norm_topk_prob: whether the weights of the chosen experts are made to sum to one …
        routed_scaling_factor: … before they are multiplied by this.
        dense_layers: HF: first_k_dense_replace.
        storage: of all matrices but the embeddings, the output and the router's (HF: quantization_config).
    """

    qk_nope_head_dim: int
    v_head_dim: int
    kv_lora_rank: int
    q_lora_rank: int | None
    rope_interleave: bool
    moe_intermediate_size: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    dense_layers: int
    storage: Storage

    family = "DeepseekV3"
    model_type = "deepseek_v3"

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> Self:
        fields = Fields(raw, where, quantised=("fp8",))
        common = fields.common()
        if common["num_key_value_heads"] != common["num_attention_heads"]:
            raise fields.error("num_key_value_heads", "differs from num_attention_heads; every head has its own here")
        fields.one_of("scoring_func", ("sigmoid",), "sigmoid")
        fields.one_of("topk_method", ("noaux_tc",), "noaux_tc")
        if fields.size("moe_layer_freq", 1) != 1:
            raise fields.error("moe_layer_freq", f"is {raw['moe_layer_freq']}; only 1 is implemented")
        layers = fields.layers()
        return cls(
            **common,
            **_experts(fields),
            head_dim=fields.size("qk_rope_head_dim", 64),
            masks=(Full(),) * layers,
            ropes=(fields.rope(theta=10_000.0),) * layers,
            activation=fields.one_of("hidden_act", ACTIVATIONS, "silu"),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            qk_nope_head_dim=fields.size("qk_nope_head_dim", 128),
            v_head_dim=fields.size("v_head_dim", 128),
            kv_lora_rank=fields.size("kv_lora_rank", 512),
            q_lora_rank=None if raw.get("q_lora_rank", 1536) is None else fields.size("q_lora_rank", 1536),
            rope_interleave=fields.flag("rope_interleave", True),
            dense_layers=min(fields.size("first_k_dense_replace", 3, least=0), layers),
            storage=BlockFp8.from_hf(fields),
        )

    def to_hf(self) -> dict[str, Any]:
        same = ["qk_nope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank", "rope_interleave"]
        same += ["moe_intermediate_size", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group"]
        same += ["topk_group", "norm_topk_prob", "routed_scaling_factor"]
        return super().to_hf() | {
            **self.storage.to_hf(),
            **{name: getattr(self, name) for name in same},
            "qk_rope_head_dim": self.head_dim,
            "first_k_dense_replace": self.dense_layers,
            "num_nextn_predict_layers": 0,  # not loaded, so not written
            "hidden_act": self.activation,
            "rope_theta": self.ropes[0].theta,
            "rope_scaling": rope_scaling_to_hf(self.ropes[0].scaling),
        }

    @property
    def cache_spec(self) -> CacheSpec:
        """The latent and the one rotated key of all heads, whole on every device: 576 elements in R1."""
        return CacheSpec(Dim(1), self.kv_lora_rank + self.head_dim, values=False)

    @property
    def unused_tensors(self) -> tuple[str, ...]:
        """The layer after the last predicts a second token ahead (MTP): of use for training and speculation only."""
        return (f"model.layers.{self.num_hidden_layers}.",)

    @property
    def expert_share(self) -> float:
        return self.num_experts_per_tok / self.n_routed_experts

    def norm(self, size: int) -> RMSNorm:
        return RMSNorm(size, self.rms_norm_eps)

    def block(self, layer: int, mesh: Mesh | None, rules: Rules) -> PreNormBlock:
        embed, ff = Dim(self.hidden_size, "embed"), Dim(self.intermediate_size, "ff")
        mlp: nnx.Module
        if layer < self.dense_layers:
            mlp = GatedMLP(embed, ff, self.activation, bias=False, linear=self.storage.linear)
        else:
            mlp = SparseMLP(self, mesh, rules)
        return PreNormBlock(LatentAttention(self, layer), mlp, lambda: self.norm(self.hidden_size))


def _experts(fields: Fields) -> dict[str, Any]:
    """The fields of the layers with experts."""
    experts, groups = fields.size("n_routed_experts", 256), fields.size("n_group", 8)
    used, chosen = fields.size("topk_group", 4), fields.size("num_experts_per_tok", 8)
    if experts % groups or experts < 2 * groups:
        raise fields.error("n_group", f"is {groups}: {experts} experts make no groups of equal size, at least 2 each")
    if used > groups:
        raise fields.error("topk_group", f"is {used}, but there are {groups} groups")
    if chosen > used * (experts // groups):
        raise fields.error("num_experts_per_tok", f"is {chosen}, but {used} groups have {used * (experts // groups)}")
    return {
        "moe_intermediate_size": fields.size("moe_intermediate_size", 2048),
        "n_routed_experts": experts,
        "n_shared_experts": fields.size("n_shared_experts", 1),
        "num_experts_per_tok": chosen,
        "n_group": groups,
        "topk_group": used,
        "norm_topk_prob": fields.flag("norm_topk_prob", True),
        "routed_scaling_factor": fields.number("routed_scaling_factor", 2.5),
    }


class LatentAttention(nnx.Module):
    """Multi-head latent attention, always in its absorbed form, R = kv_lora_rank.

    A key of head n is [U_n c, r] and a value W_n c: U_n and W_n are kv_b_proj's, c the token's latent and r a rotated
    key that all heads share. As q · U_n c = (U_nᵀ q) · c and Σ p W_n c = W_n Σ p c, heads look at [c, r] itself, as one
    key/value head that is its own value. The sum over r is computed and dropped, an eighth of a product in R1: without
    it the cache could not be read as it lies.

    Per pair of tokens and head that is (R + rope) + (R + rope) products where keys and values would take
    (nope + rope) + v, 3.6 times as many in R1: cheap for decoding, which waits for memory, and dear for long training
    rows, which nobody plans.
    """

    def __init__(self, config: DeepseekV3Config, layer: int):
        embed, bias = Dim(config.hidden_size, "embed"), config.attention_bias
        nope, value, rank = config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank
        size, linear = nope + config.head_dim, config.storage.linear

        def heads(size: int) -> Dim:
            return Dim(config.num_attention_heads * size, "heads", unit=size)

        if config.q_lora_rank is None:
            self.q_proj = linear(embed, heads(size), bias=False)
        else:
            queries = Dim(config.q_lora_rank)
            self.q_a_proj = linear(embed, queries, bias=bias)
            self.q_a_layernorm = RMSNorm(queries.size, LATENT_EPS)
            self.q_b_proj = linear(queries, heads(size), bias=False)
        self.kv_a_proj_with_mqa = linear(embed, Dim(rank + config.head_dim), bias=bias)
        self.kv_a_layernorm = RMSNorm(rank, LATENT_EPS)
        self.kv_b_proj = linear(Dim(rank), heads(nope + value), bias=False)
        self.o_proj = linear(heads(value), embed, bias=bias)

        self.layer, self.config, self.scale = layer, config, size**-0.5
        scaling = config.ropes[layer].scaling
        if isinstance(scaling, Yarn) and scaling.mscale_all_dim:
            self.scale *= yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2

    def __call__(
        self, x: Float[Array, "B C D"], rotation: Rotation, positions: Int[Array, "B C"], kv: KeyValues
    ) -> tuple[Float[Array, "B C D"], KeyValues]:
        config, rank = self.config, self.config.kv_lora_rank
        with jax.named_scope("attention"):
            latent, turned = jnp.split(self.kv_a_proj_with_mqa(x)[:, :, None], [rank], axis=-1)
            k = jnp.concatenate([self.kv_a_layernorm(latent), self._rotate(turned, rotation)], axis=-1)

            expand = self.kv_b_proj.matrix(x.dtype).reshape(config.num_attention_heads, -1, rank)
            to_keys, to_values = jnp.split(expand, [config.qk_nope_head_dim], axis=1)

            q, turned = jnp.split(self._queries(x), [config.qk_nope_head_dim], axis=-1)
            q = einsum("bcnh,nhr->bcnr", q, to_keys)
            q = jnp.concatenate([q, self._rotate(turned, rotation)], axis=-1)

            seen, kv = kv.attend(AttentionInputs(self.layer, q, k, None, positions, self.scale))
            seen = seen.reshape(q.shape)[..., :rank]
            out = einsum("bcnr,nhr->bcnh", seen, to_values)
            return self.o_proj(out.reshape(*x.shape[:2], -1)), kv

    def _queries(self, x: Float[Array, "B C D"]) -> Float[Array, "B C N H"]:
        direct = self.config.q_lora_rank is None
        q = self.q_proj(x) if direct else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        return q.reshape(*x.shape[:2], self.config.num_attention_heads, -1)

    def _rotate(self, x: Float[Array, "B C N H"], rotation: Rotation) -> Float[Array, "B C N H"]:
        return rotate(deinterleave(x) if self.config.rope_interleave else x, rotation)


class Router(nnx.Module):
    """Which experts a token goes to, and their weights. All in float32."""

    def __init__(self, config: DeepseekV3Config):
        experts = Dim(config.n_routed_experts)
        self.weight = parameter(experts, Dim(config.hidden_size, "embed"))
        self.e_score_correction_bias = parameter(experts, fill=0.0, dtype=jnp.float32)
        self.config = config

    def __call__(self, x: Float[Array, "B C D"]) -> tuple[Int[Array, "B C k"], Float32[Array, "B C k"]]:
        config, f32 = self.config, jnp.float32
        scores = jax.nn.sigmoid(einsum("bcd,ed->bce", x.astype(f32), self.weight[...].astype(f32)))
        # The bias balances load: it decides who is chosen, not with what weight.
        biased = scores + self.e_score_correction_bias[...]
        groups = biased.reshape(*biased.shape[:2], config.n_group, -1)
        best = jax.lax.top_k(groups, 2)[0].sum(axis=-1)
        _, used = jax.lax.top_k(best, config.topk_group)
        allowed = jax.nn.one_hot(used, config.n_group, dtype=bool).any(axis=-2)
        # -inf, as in transformers 5; R1's own code and transformers 4 write 0 here, which is the same while all biased
        # scores of the groups in use are positive.
        biased = jnp.where(allowed[..., None], groups, -jnp.inf).reshape(biased.shape)
        _, chosen = jax.lax.top_k(biased, config.num_experts_per_tok)
        weights = jnp.take_along_axis(scores, chosen, axis=-1)
        if config.norm_topk_prob:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
        return chosen, weights * config.routed_scaling_factor


class SparseMLP(nnx.Module):
    """The chosen experts, weighted, and those that every token shares."""

    def __init__(self, config: DeepseekV3Config, mesh: Mesh | None, rules: Rules):
        embed, ff = Dim(config.hidden_size, "embed"), Dim(config.moe_intermediate_size, "expert_ff")
        shared = Dim(ff.size * config.n_shared_experts, "ff")
        self.gate = Router(config)
        self.experts = GatedExperts(
            embed,
            ff,
            config.n_routed_experts,
            config.activation,
            config.kernel,
            mesh,
            rules,
            config.storage.stacked,
        )
        self.shared_experts = GatedMLP(embed, shared, config.activation, bias=False, linear=config.storage.linear)

    def __call__(self, x: Float[Array, "B C D"]) -> Float[Array, "B C D"]:
        with jax.named_scope("mlp"):
            chosen, weights = self.gate(x)
            return self.experts(x, chosen, weights.astype(x.dtype)) + self.shared_experts(x)
