"""What a decoder is, read from a Hugging Face config.json: one frozen dataclass, one subclass per family.

Both key styles are read: transformers 4 (`rope_theta` + `rope_scaling`, `torch_dtype`) and 5 (`rope_parameters`,
`dtype`). What is not implemented raises ModelConfigError; nothing that changes the output is skipped silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from flax import nnx
from jax.sharding import Mesh

from tessy_jax.errors import UserError
from tessy_jax.models.mask import Full, Mask, Sliding
from tessy_jax.models.rope import LinearScaling, Llama3, Rope, Scaling, Unscaled, Yarn
from tessy_jax.models.sharding import Dim, Rules

_REQUIRED = object()


class ModelConfigError(UserError, ValueError):
    """A config.json that cannot be read, or asks for what is not implemented."""


@dataclass(frozen=True)
class CacheSpec:
    """What a layer remembers of each token.

    Attributes:
        heads: how many keys, and how they are split.
        size: elements of a key.
        values: whether there are as many values, of the same size; False: the keys are the values.
    """

    heads: Dim
    size: int
    values: bool = True

    @property
    def elements(self) -> int:
        """Per token and layer."""
        return self.heads.size * self.size * (2 if self.values else 1)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shapes and rules of a decoder. HF's names where HF has one.

    Attributes:
        masks: what each layer's tokens see (HF: layer_types, sliding_window).
        ropes: each layer's rotary embedding.
        activation: key of `layers.ACTIVATIONS` (HF: hidden_act or hidden_activation).
        int8: whether the matrices of the blocks are made int8 while loading (formats/int8.py).
        kernel: key of `grouped.KERNELS`: what multiplies the experts' matrices.
        labels: names of a token classifier's labels (HF: id2label); empty for a language model.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    masks: tuple[Mask, ...]
    ropes: tuple[Rope, ...]
    activation: str
    rms_norm_eps: float
    attention_bias: bool
    tie_word_embeddings: bool
    max_position_embeddings: int
    int8: bool = False
    kernel: str = "xla"
    labels: tuple[str, ...] = ()

    family: ClassVar[str]
    model_type: ClassVar[str]

    @property
    def num_hidden_layers(self) -> int:
        return len(self.masks)

    @property
    def architecture(self) -> str:
        """HF's class name, as in config.json's `architectures`."""
        return self.family + ("ForTokenClassification" if self.labels else "ForCausalLM")

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> Self:
        """Read the contents of a config.json; `where` names it in errors (ModelConfigError)."""
        raise NotImplementedError

    def to_hf(self) -> dict[str, Any]:
        """The contents of a config.json, in the keys that transformers 4 and 5 both read."""
        out: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "num_hidden_layers": self.num_hidden_layers,
        }
        same = ["vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"]
        same += ["head_dim", "rms_norm_eps", "attention_bias", "tie_word_embeddings", "max_position_embeddings"]
        out |= {name: getattr(self, name) for name in same}
        if self.labels:
            out["id2label"] = {str(i): label for i, label in enumerate(self.labels)}
            out["label2id"] = {label: i for i, label in enumerate(self.labels)}
        return out

    def norm(self, size: int) -> nnx.Module:
        """A new norm of this family over `size` elements."""
        raise NotImplementedError

    def block(self, layer: int, mesh: Mesh | None, rules: Rules) -> nnx.Module:
        """A new, abstract decoder block: (x, rotation, positions, kv) -> (x, kv).

        Dense blocks leave the mesh to the compiler; experts are laid out by hand.
        """
        raise NotImplementedError

    @property
    def cache_spec(self) -> CacheSpec:
        """What the cache holds."""
        return CacheSpec(Dim(self.num_key_value_heads, "kv_heads"), self.head_dim)

    @property
    def expert_share(self) -> float:
        """The share of a layer's routed experts that a token goes to."""
        return 1.0

    @property
    def unused_tensors(self) -> tuple[str, ...]:
        """How the names of tensors begin that checkpoints may hold and this package does not read."""
        return ()

    @property
    def rotary_dim(self) -> int:
        """Elements of a head that RoPE turns."""
        return self.head_dim

    @property
    def embedding_scale(self) -> float:
        """Factor of the token embeddings."""
        return 1.0


class Fields:
    """Checked access to a config.json: errors name the file and the field."""

    def __init__(self, raw: Mapping[str, Any], where: str, quantised: tuple[str, ...] = ()):
        self.raw, self.where = raw, where
        self.quantisation = self._quantisation(quantised)
        """HF: quantization_config.quant_method, one of those the family can read; None: stored unquantised."""

    def _quantisation(self, known: tuple[str, ...]) -> str | None:
        settings = self.raw.get("quantization_config")
        if not settings:
            return None
        method = settings.get("quant_method")
        if method not in known:
            raise self.error(
                "quantization_config.quant_method",
                f"is {method!r}, which is not implemented for {self.raw.get('model_type')}; implemented: "
                f"{', '.join((*known, 'checkpoints in bfloat16, float16 or float32'))}",
            )
        return method

    def error(self, field: str, problem: str) -> ModelConfigError:
        return ModelConfigError(f"{self.where}: {field}: {problem}.")

    def get(self, field: str, default: Any = _REQUIRED) -> Any:
        """The value, or `default` where it is missing or null."""
        value = self.raw.get(field)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise self.error(field, "is missing; every model of this family needs it")
        return default

    def size(self, field: str, default: Any = _REQUIRED) -> int:
        """A positive integer."""
        value = self.get(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(field, f"is {value!r}; it must be a positive integer")
        return value

    def one_of(self, field: str, known: Any, default: Any = _REQUIRED) -> str:
        value = self.get(field, default)
        if value not in known:
            raise self.error(field, f"is {value!r}, which is not implemented; implemented: {', '.join(sorted(known))}")
        return value

    def none(self, field: str) -> None:
        """A feature that is not implemented must be absent, null or false."""
        if self.raw.get(field):
            raise self.error(field, f"is {self.raw[field]!r}, which is not implemented; only null or false is")

    def common(self) -> dict[str, Any]:
        """The fields that all families share under the same names."""
        heads = self.size("num_attention_heads")
        kv_heads = self.size("num_key_value_heads", heads)
        if heads % kv_heads:
            raise self.error("num_key_value_heads", f"is {kv_heads}, which does not divide {heads} attention heads")
        return {
            "vocab_size": self.size("vocab_size"),
            "hidden_size": self.size("hidden_size"),
            "intermediate_size": self.size("intermediate_size"),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rms_norm_eps": float(self.get("rms_norm_eps", 1e-6)),
            "attention_bias": bool(self.get("attention_bias", False)),
            "max_position_embeddings": self.size("max_position_embeddings"),
            "labels": self.labels(),
        }

    def labels(self) -> tuple[str, ...]:
        """The labels of a token classifier in order; () for other architectures. HF leaves out its default two."""
        if not self.get("architectures", [""])[0].endswith("ForTokenClassification"):
            return ()
        names = self.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
        try:
            return tuple(names[str(i)] for i in range(len(names)))
        except (KeyError, TypeError):
            raise self.error("id2label", f"is {names!r}; it must map '0', '1', … to label names") from None

    def masks(self, types: list[str], window: int | None) -> tuple[Mask, ...]:
        """HF `layer_types` -> masks. `window` is for the sliding layers."""
        known: dict[str, Mask] = {"full_attention": Full()}
        if window is not None:
            known["sliding_attention"] = Sliding(window)
        unknown = sorted(set(types) - set(known))
        if unknown:
            raise self.error("layer_types", f"has {unknown[0]!r}, which needs a setting that is missing or unsupported")
        if len(types) != self.size("num_hidden_layers"):
            raise self.error("layer_types", f"has {len(types)} entries for {self.size('num_hidden_layers')} layers")
        return tuple(known[t] for t in types)

    def windows_above(self) -> tuple[Mask, ...]:
        """Qwen's masks: layers from `max_window_layers` on have a window, where `use_sliding_window` says so."""
        layers = self.size("num_hidden_layers")
        window = self.size("sliding_window") if self.get("use_sliding_window", False) else None
        first = self.get("max_window_layers", 28) if window is not None else layers
        types = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
        return self.masks(self.get("layer_types", types), window)

    def rope(self, theta: float) -> Rope:
        """The model's only RoPE, in either key style; `theta` where the file gives none."""
        parameters = self.get("rope_parameters", None)
        if parameters is None:
            parameters = {"rope_theta": self.get("rope_theta", theta), **self.get("rope_scaling", {})}
        return self.rope_from("rope_parameters", parameters, theta)

    def rope_from(self, field: str, parameters: Mapping[str, Any], theta: float) -> Rope:
        """One set of RoPE parameters: `rope_theta`, `rope_type` (or the older `type`) and those of the type."""
        if parameters.get("partial_rotary_factor", 1.0) != 1.0:
            raise self.error(f"{field}.partial_rotary_factor", "is not 1, which is not implemented")

        def number(name: str) -> float:
            if not isinstance(parameters.get(name), int | float):
                raise self.error(f"{field}.{name}", f"is {parameters.get(name)!r}; this rope_type needs a number")
            return parameters[name]

        kind = parameters.get("rope_type", parameters.get("type", "default"))
        scaling: Scaling
        if kind == "default":
            scaling = Unscaled()
        elif kind == "linear":
            scaling = LinearScaling(number("factor"))
        elif kind == "llama3":
            original = int(number("original_max_position_embeddings"))
            scaling = Llama3(number("factor"), number("low_freq_factor"), number("high_freq_factor"), original)
        elif kind == "yarn":
            optional = ("beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim")
            given = {name: parameters[name] for name in optional if parameters.get(name) is not None}
            scaling = Yarn(number("factor"), int(number("original_max_position_embeddings")), **given)
        else:
            raise self.error(
                f"{field}.rope_type",
                f"is {kind!r}, which is not implemented; implemented: default, linear, llama3, yarn",
            )
        return Rope(float(parameters.get("rope_theta", theta)), scaling)


def windows_to_hf(masks: tuple[Mask, ...]) -> dict[str, Any]:
    """The inverse of `Fields.windows_above`."""
    windows = [mask.window if isinstance(mask, Sliding) else None for mask in masks]
    window = next((w for w in windows if w is not None), None)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "layer_types": ["full_attention" if w is None else "sliding_attention" for w in windows],
    }


def rope_scaling_to_hf(scaling: Scaling) -> dict[str, Any] | None:
    """The transformers 4 `rope_scaling` entry."""
    if isinstance(scaling, Unscaled):
        return None
    given = {name: value for name, value in vars(scaling).items() if value is not None}
    return {"rope_type": scaling.rope_type, **given}
