"""Layers shared by the families. Parameters have the names, shapes and `[out, in]` layout of HF checkpoints.

Modules are built abstract: a parameter starts as a shape with dimensions (`Dim`) and a filling for random models;
build.py puts the arrays in. So one description gives shapes, shardings, names, loading, saving and initialisation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from tessy_jax.models.key_values import AttentionInputs, KeyValues, Packed
from tessy_jax.models.products import einsum
from tessy_jax.models.rope import Rotation, rotate
from tessy_jax.models.sharding import Dim

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}
"""Activations by HF's name (`hidden_act` or `hidden_activation`)."""


@dataclass(frozen=True)
class Expected:
    """The shape and dtype that a tensor of a checkpoint must have; dtype None: bfloat16, float16 or float32."""

    shape: tuple[int, ...]
    dtype: DTypeLike | None = None


class DerivedFrom(Protocol):
    """Makes a parameter while loading, from tensors of the checkpoint that have other names, shapes or dtypes."""

    @property
    def tensors(self) -> Mapping[str, Expected]:
        """What those tensors must be, by the last part of their names.

        The parameter `….gate_proj.scale` with `tensors` {"weight": …} is made from the tensor `….gate_proj.weight`.
        """
        ...

    @property
    def by_rows(self) -> bool:
        """Whether rows of the parameter need no more than the same rows of the tensors."""
        ...

    def __call__(self, tensors: Sequence[np.ndarray], index: tuple[slice, ...]) -> np.ndarray:
        """The part of the parameter at `index`; `tensors` are memory maps in the order of the property. Where it is
        `by_rows`, they may be some rows, of which `index` is a part.
        """
        ...


@runtime_checkable
class Permuted(DerivedFrom, Protocol):
    """Makes a parameter that has the numbers of one tensor in another order, so that it can be saved again."""

    def back(self, value: np.ndarray) -> np.ndarray:
        """The tensor, from the whole parameter; with `by_expert`, from what one expert has of it."""
        ...


@dataclass(frozen=True)
class Transposed:
    """Makes a matrix `[in, out]` of the tensor `name`, which is stored `[out, in]`."""

    name: str
    outside: int
    inside: int

    @property
    def tensors(self) -> dict[str, Expected]:
        return {self.name: Expected((self.outside, self.inside))}

    @property
    def by_rows(self) -> bool:
        return False

    def __call__(self, tensors: Sequence[np.ndarray], index: tuple[slice, ...]) -> np.ndarray:
        return tensors[0][index[::-1]].T

    def back(self, value: np.ndarray) -> np.ndarray:
        return value.T


def parameter(
    *dims: Dim,
    fill: float | None = None,
    dtype: DTypeLike | None = None,
    by_expert: bool = False,
    derived_from: DerivedFrom | None = None,
) -> nnx.Param:
    """A parameter without a value yet.

    Args:
        dims: its dimensions: sizes, and the logical axes that may split them.
        fill: the constant that it is in a random model; None: normally distributed.
        dtype: its dtype, whatever that of the model; None: the model's.
        by_expert: whether checkpoints have one tensor for each index of the first dimension:
            `experts.{e}.up_proj.weight` for our `experts.up_proj.weight`.
        derived_from: what makes it while loading; None: checkpoints have it as it is.
    """
    shape = tuple(d.size for d in dims)
    return nnx.Param(
        jax.ShapeDtypeStruct(shape, dtype or jnp.float32),
        dims=dims,
        fill=fill,
        own_dtype=dtype,
        by_expert=by_expert,
        derived_from=derived_from,
    )


class Linear(nnx.Module):
    """y = x Wᵀ (+ b), with W of shape [out, in]."""

    def __init__(self, inside: Dim, outside: Dim, *, bias: bool):
        self.weight = parameter(outside, inside)
        self.bias = parameter(outside, fill=0.0) if bias else None

    def matrix(self, dtype: DTypeLike) -> Float[Array, "O I"]:
        """W, for activations of `dtype`, which here is its own."""
        return self.weight[...]

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        y = einsum("...i,oi->...o", x, self.matrix(x.dtype))
        return y if self.bias is None else y + self.bias[...]


class Embedding(nnx.Module):
    """Token vectors; with tied weights also the output matrix."""

    def __init__(self, vocab: Dim, embed: Dim):
        self.weight = parameter(vocab, embed)

    def __call__(self, tokens: Int[Array, "B C"]) -> Float[Array, "B C D"]:
        return self.weight[...].at[tokens].get(mode="clip")  # padding may hold any id; its output is unspecified


class RMSNorm(nnx.Module):
    """w * x / rms(x): statistics in float32, rounded to the activations' dtype before the weight (Llama, Qwen)."""

    def __init__(self, size: int, eps: float):
        self.weight = parameter(Dim(size), fill=1.0)
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return self.weight[...] * _normalised(x, self.eps).astype(x.dtype)


class LateRMSNorm(nnx.Module):
    """w * x / rms(x), all in float32 and then rounded (GPT-OSS)."""

    def __init__(self, size: int, eps: float):
        self.weight = parameter(Dim(size), fill=1.0)
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return (self.weight[...].astype(jnp.float32) * _normalised(x, self.eps)).astype(x.dtype)


class OffsetRMSNorm(nnx.Module):
    """(1 + w) * x / rms(x), all in float32 and then rounded (Gemma). Stored weights are offsets from one."""

    def __init__(self, size: int, eps: float):
        self.weight = parameter(Dim(size), fill=0.0)
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return (_normalised(x, self.eps) * (1 + self.weight[...].astype(jnp.float32))).astype(x.dtype)


def _normalised(x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    x = x.astype(jnp.float32)
    # Not rsqrt: XLA's on the CPU is an approximation. On Gemma 3 270M this takes the largest error of a logit, against
    # float64, from 8.4e-5 to 7.6e-5, and the difference from torch's float32 from 1.07e-4 to 8.4e-5.
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


class GatedMLP(nnx.Module):
    """down(act(gate(x)) * up(x)). `linear` makes the three layers."""

    def __init__(self, embed: Dim, ff: Dim, activation: str, *, bias: bool, linear: Callable[..., nnx.Module] = Linear):
        self.gate_proj = linear(embed, ff, bias=bias)
        self.up_proj = linear(embed, ff, bias=bias)
        self.down_proj = linear(ff, embed, bias=bias)
        self.activation = activation

    def __call__(self, x: Float[Array, "B C D"]) -> Float[Array, "B C D"]:
        with jax.named_scope("mlp"):
            return self.down_proj(ACTIVATIONS[self.activation](self.gate_proj(x)) * self.up_proj(x))


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions. N query heads share K key/value heads in groups of N / K.

    Args:
        layer: its index.
        scale: of the scores, before the softmax.
        bias: of queries, keys and values; `output_bias`: of the output, where it differs.
        norm: makes the norm over H put on each query and key head before the rotation (Qwen3, Gemma3); None: no norm.
        sinks: whether each query head has a logit of its own in the softmax's sum (GPT-OSS).
    """

    def __init__(
        self,
        layer: int,
        embed: Dim,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        bias: bool,
        output_bias: bool | None = None,
        norm: Callable[[int], nnx.Module] | None = None,
        sinks: bool = False,
    ):
        queries = Dim(heads * head_dim, "heads", unit=head_dim)
        keys = Dim(kv_heads * head_dim, "kv_heads", unit=head_dim)
        self.q_proj = Linear(embed, queries, bias=bias)
        self.k_proj = Linear(embed, keys, bias=bias)
        self.v_proj = Linear(embed, keys, bias=bias)
        self.o_proj = Linear(queries, embed, bias=bias if output_bias is None else output_bias)
        self.q_norm = norm(head_dim) if norm else None
        self.k_norm = norm(head_dim) if norm else None
        self.sinks = parameter(Dim(heads, "heads")) if sinks else None
        self.layer, self.kv_heads, self.head_dim, self.scale = layer, kv_heads, head_dim, scale

    def __call__(
        self, x: Float[Array, "B C D"], rotation: Rotation, positions: Int[Array, "B C"], kv: KeyValues
    ) -> tuple[Float[Array, "B C D"], KeyValues]:
        with jax.named_scope("attention"):
            heads = (*x.shape[:2], -1, self.head_dim)
            q, k, v = (proj(x).reshape(heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
            if self.q_norm is not None and self.k_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
            q, k = rotate(q, rotation), rotate(k, rotation)
            sinks = None if self.sinks is None else self.sinks[...]
            out, kv = kv.attend(AttentionInputs(self.layer, q, k, v, positions, self.scale, sinks))
            return self.o_proj(out), kv


@runtime_checkable
class Routed(Protocol):
    """An MLP whose router sends each token to `chosen` experts, and may be trained to spread them (balance.py)."""

    chosen: int

    def router_logits(self, x: Float[Array, "B C D"]) -> Float[Array, "B C E"]:
        """The router's scores."""
        ...


class PreNormBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): Llama, Qwen and most others."""

    def __init__(self, attention: nnx.Module, mlp: nnx.Module, norm: Callable[[], nnx.Module]):
        self.input_layernorm = norm()
        self.self_attn = attention
        self.post_attention_layernorm = norm()
        self.mlp = mlp

    def __call__(
        self, x: Float[Array, "B C D"], rotation: Rotation, positions: Int[Array, "B C"], kv: KeyValues
    ) -> tuple[Float[Array, "B C D"], KeyValues]:
        attended, kv = self.self_attn(self.input_layernorm(x), rotation, positions, kv)
        x = x + attended
        normed = self.post_attention_layernorm(x)
        if isinstance(kv, Packed) and kv.balance is not None and isinstance(self.mlp, Routed):
            kv = kv.count(self.mlp.router_logits(normed), self.mlp.chosen)
        return x + self.mlp(normed), kv
