"""What of a model is trained: all of it, or low-rank adapters beside frozen weights."""

import difflib
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from tessy_jax.models import DecoderConfig, describe
from tessy_jax.models.products import matmul
from tessy_jax.models.sharding import Dim

Params = dict[str, Float32[Array, "..."]]
"""Parameters by name."""

_A, _B = ".lora_A.weight", ".lora_B.weight"
"""Names of the adapters of a layer, after the layer's HF name, as PEFT has them."""


class Tuning(Protocol):
    """Splits a model's parameters, by HF name, into what is trained and what is frozen."""

    def dims(self, config: DecoderConfig) -> dict[str, tuple[Dim, ...]]:
        """Names and dimensions of what is trained."""
        ...

    def split(self, params: Params, key: Array) -> tuple[Params, Params]:
        """(what is trained, what is frozen) before the first step.

        Args:
            params: all parameters of the model, by HF name. The results may share arrays with them.
            key: of the random numbers that adapters begin with.
        """
        ...

    def merge(self, trained: Params, frozen: Params) -> Params:
        """The parameters that the model computes with, and that are exported."""
        ...


@dataclass(frozen=True)
class Full:
    """Every parameter is trained."""

    def dims(self, config: DecoderConfig) -> dict[str, tuple[Dim, ...]]:
        return {name: spec.dims for name, spec in describe(config).items()}

    def split(self, params: Params, key: Array) -> tuple[Params, Params]:
        return params, {}

    def merge(self, trained: Params, frozen: Params) -> Params:
        return trained


@dataclass(frozen=True)
class LoRA:
    """W + alpha / rank * B A, with W frozen (Hu et al., arXiv 2106.09685).

    The sum is formed in float32 before it is rounded to the compute dtype, so what is trained is what is exported.
    A begins uniform in ±1/sqrt(in), as in PEFT, and B at zero, so that training begins with the model unchanged.

    A warning from the TESSY paper (arXiv 2604.14164, Fig. 13): on Teacher-Only data, rank 8 with alpha 16 collapsed to
    scores of 1.51 and 3.40, worse than full fine-tuning. A small rank is no remedy for data far from the student.

    Attributes:
        rank: rows of A and columns of B.
        alpha: the update is scaled by alpha / rank.
        targets: names of the linear layers that get adapters, as in HF tensor names; `experts.up_proj` gives each
            expert adapters of its own for its up_proj.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def dims(self, config: DecoderConfig) -> dict[str, tuple[Dim, ...]]:
        """Names and dimensions of the adapters.

        Raises:
            ValueError: a target is no linear layer of this model.
        """
        layers = _layers(config)
        known = sorted({_target(name, len(dims)) for name, dims in layers.items()})
        for target in self.targets:
            if f"experts.{target}" in known and target not in known:
                fitting = [t for t in self.targets if t in known]
                raise ValueError(
                    f"lora.targets: {target!r} is in this model a matrix of experts: name it 'experts.{target}' to "
                    f"give each expert adapters, or leave it out ({', '.join(fitting) or 'nothing'} would remain)."
                )
            if target not in known:
                near = difflib.get_close_matches(target, known) or known
                raise ValueError(
                    f"lora.targets: {target!r} is no linear layer of this model; did you mean {' or '.join(near)}?"
                )
        out: dict[str, tuple[Dim, ...]] = {}
        for name, dims in layers.items():
            if _target(name, len(dims)) in self.targets:
                (*experts, inside, outside) = dims if len(dims) == 3 else dims[::-1]
                out[_layer(name) + _A] = (*experts, Dim(self.rank), inside)
                out[_layer(name) + _B] = (*experts, outside, Dim(self.rank))
        return out

    def coverage(self, config: DecoderConfig) -> str:
        """Which matrices get adapters and which do not, for people."""
        count = Counter(_target(name, len(dims)) for name, dims in _layers(config).items())
        with_adapters = [f"{count[target]} {target}" for target in count if target in self.targets]
        without = [f"{count[target]} {target}" for target in count if target not in self.targets]
        return f"adapters on {', '.join(with_adapters)}; none on {', '.join(without) or 'no other matrix'}"

    def split(self, params: Params, key: Array) -> tuple[Params, Params]:
        trained: Params = {}
        for number, (name, weight) in enumerate(params.items()):
            if _target(name, weight.ndim) in self.targets:
                (*experts, inside, outside) = weight.shape if weight.ndim == 3 else weight.shape[::-1]
                bound, shape = inside**-0.5, (*experts, self.rank, inside)
                key_a = jax.random.fold_in(key, number)
                trained[_layer(name) + _A] = jax.random.uniform(key_a, shape, jnp.float32, -bound, bound)
                trained[_layer(name) + _B] = jnp.zeros((*experts, outside, self.rank), jnp.float32)
        return trained, params

    def merge(self, trained: Params, frozen: Params) -> Params:
        merged = dict(frozen)
        for name, weight in frozen.items():
            if (layer := _layer(name)) + _A in trained:
                update = matmul(trained[layer + _B], trained[layer + _A])
                update = update.swapaxes(-1, -2) if weight.ndim == 3 else update
                merged[name] = weight + self.alpha / self.rank * update
        return merged


def _layers(config: DecoderConfig) -> dict[str, tuple[Dim, ...]]:
    """The matrices that may have adapters: [out, in], and those of experts, [experts, in, out]."""
    return {
        name: spec.dims
        for name, spec in describe(config).items()
        if (len(spec.dims) == 2 and name.endswith(".weight") and not name.endswith("embed_tokens.weight"))
        or (len(spec.dims) == 3 and spec.axes[0] == "experts")
    }


def _target(name: str, ndim: int) -> str:
    """What `LoRA.targets` calls a parameter: "up_proj", or where it has a matrix for each expert "experts.up_proj"."""
    last = _layer(name).rsplit(".", 1)[-1]
    return f"experts.{last}" if ndim == 3 else last


def _layer(name: str) -> str:
    """A parameter's layer, after which its adapters are named."""
    return name.removesuffix(".weight")
