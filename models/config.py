"""What a decoder is, read from a Hugging Face config.json: one frozen dataclass, one subclass per family.

Both key styles are read: transformers 4 (`rope_theta` + `rope_scaling`, `torch_dtype`) and 5 (`rope_parameters`,
`dtype`). What is not implemented raises ModelConfigError; nothing that changes the output is skipped silently.
"""

from __future__ import annotations

import math
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
_CLASSIFIER = "ForTokenClassification"
_KINDS = {str: "names", int: "integers"}

MOST, MOST_LAYERS, MOST_NUMBER = 2**31 - 1, 10_000, 1e30
"""Larger values are those of a damaged file; they would fill the memory before anything else was wrong."""


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
        return self.family + (_CLASSIFIER if self.labels else "ForCausalLM")

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
    def balanced_experts(self) -> int:
        """Experts over which transformers trains the routers to spread tokens, where config.json asks for it
        (`output_router_logits`; balance.py); 0: it does not.
        """
        return 0

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
        settings = self.table("quantization_config")
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

    def size(self, field: str, default: Any = _REQUIRED, least: int = 1) -> int:
        """A positive integer."""
        value = self.get(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            kind = "a positive integer" if least else "an integer, 0 or more"
            raise self.error(field, f"is {value!r}; it must be {kind}")
        if value > MOST:
            raise self.error(field, f"is {value!r:.40}; it is {MOST} at most")
        return value

    def layers(self) -> int:
        """HF: num_hidden_layers."""
        count = self.size("num_hidden_layers")
        if count > MOST_LAYERS:
            raise self.error("num_hidden_layers", f"is {count}; it is {MOST_LAYERS} at most")
        return count

    def number(self, field: str, default: float, above: float = -math.inf) -> float:
        """A finite number, above a bound."""
        return self.as_number(field, self.get(field, default), above)

    def as_number(self, field: str, value: Any, above: float = -math.inf) -> float:
        """The value of a field, where it is a finite number above the bound."""
        real = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST_NUMBER
        if not real or value <= above:
            what = "a number" if above == -math.inf else f"a number above {above:g}"
            raise self.error(field, f"is {value!r:.60}; it must be {what}")
        return float(value)

    def flag(self, field: str, default: bool) -> bool:
        """true or false."""
        value = self.get(field, default)
        if value not in (True, False):
            raise self.error(field, f"is {value!r:.60}; it must be true or false")
        return bool(value)

    def table(self, field: str, default: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """An object; `default`: where it is missing or null."""
        value = self.get(field, default or {})
        if not isinstance(value, Mapping):
            raise self.error(field, f"is {value!r:.60}; it must be an object")
        return value

    def several(self, field: str, kind: type, default: Any) -> list[Any]:
        """A list of values of one kind."""
        value = self.get(field, default)
        if not isinstance(value, list | tuple) or not all(type(item) is kind for item in value):
            raise self.error(field, f"is {value!r:.60}; it must be a list of {_KINDS[kind]}")
        return list(value)

    def one_of(self, field: str, known: Any, default: Any = _REQUIRED) -> str:
        value = self.get(field, default)
        if not isinstance(value, str) or value not in known:
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
            "rms_norm_eps": self.number("rms_norm_eps", 1e-6),
            "attention_bias": self.flag("attention_bias", False),
            "max_position_embeddings": self.size("max_position_embeddings"),
            "labels": self.labels(),
        }

    def labels(self) -> tuple[str, ...]:
        """The labels of a token classifier in order; () for other architectures. HF leaves out its default two."""
        architectures = self.get("architectures", [""])
        if not str(architectures[0] if isinstance(architectures, list) else architectures).endswith(_CLASSIFIER):
            return ()
        names = self.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
        expected = [str(i) for i in range(len(names))] if isinstance(names, Mapping) else []
        if not expected or sorted(names) != sorted(expected) or not all(isinstance(n, str) for n in names.values()):
            raise self.error("id2label", f"is {names!r}; it must map '0', '1', … to label names")
        labels = tuple(names[i] for i in expected)
        ids = self.table("label2id", {name: i for i, name in enumerate(labels)})
        if any(ids.get(name, i) != i for i, name in enumerate(labels)):
            raise self.error("label2id", f"is {dict(ids)!r:.80}, which contradicts id2label {dict(names)!r:.80}")
        return labels

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
        layers = self.layers()
        window = self.size("sliding_window") if self.flag("use_sliding_window", False) else None
        first = self.size("max_window_layers", 28, least=0) if window is not None else layers
        types = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
        return self.masks(self.several("layer_types", str, types), window)

    def rope(self, theta: float) -> Rope:
        """The model's only RoPE, in either key style; `theta` where the file gives none.

        As in transformers 5, `rope_scaling` counts where both are there.
        """
        field = "rope_scaling" if self.get("rope_scaling", None) else "rope_parameters"
        return self.rope_from(field, self.table(field), self.number("rope_theta", theta, above=1.0))

    def rope_from(self, field: str, parameters: Any, theta: float) -> Rope:
        """One set of RoPE parameters: `rope_theta`, `rope_type` (or the older `type`) and those of the type."""
        if not isinstance(parameters, Mapping):
            raise self.error(field, f"is {parameters!r:.60}; it must be an object")
        for name, values in (("partial_rotary_factor", self.raw), (f"{field}.partial_rotary_factor", parameters)):
            if values.get("partial_rotary_factor", 1.0) not in (None, 1.0):
                raise self.error(name, "is not 1, which is not implemented")

        def number(name: str, above: float = 0.0) -> float:
            value = parameters.get(name)
            if value is None:
                raise self.error(f"{field}.{name}", f"is {value!r}; this rope_type needs a number")
            return self.as_number(f"{field}.{name}", value, above)

        def original() -> int:
            """As in HF (`standardize_rope_params`): the file's own, the parameters', or what the model reads."""
            name = "original_max_position_embeddings"
            if parameters.get(name) is None or self.get(name, None) is not None:
                return self.size(name, self.size("max_position_embeddings"))
            return int(number(name, above=1.0))

        kind = parameters.get("rope_type", parameters.get("type", "default"))
        scaling: Scaling
        if kind == "default":
            scaling = Unscaled()
        elif kind == "linear":
            scaling = LinearScaling(number("factor"))
        elif kind == "llama3":
            low, high = number("low_freq_factor"), number("high_freq_factor")
            if high <= low:
                raise self.error(f"{field}.high_freq_factor", f"is {high:g}; it must be above low_freq_factor, {low:g}")
            scaling = Llama3(number("factor"), low, high, original())
        elif kind == "yarn":
            given: dict[str, Any] = {name: number(name) for name in ("beta_fast", "beta_slow") if parameters.get(name)}
            optional = ("attention_factor", "mscale", "mscale_all_dim")
            given |= {name: number(name, -math.inf) for name in optional if parameters.get(name) is not None}
            if (truncate := parameters.get("truncate")) not in (None, True, False):
                raise self.error(f"{field}.truncate", f"is {truncate!r:.60}; it must be true or false")
            given |= {} if truncate is None else {"truncate": bool(truncate)}
            before = original()
            if "factor" in parameters and parameters["factor"] is None:  # HF: by how much the context grew
                scaling = Yarn(self.size("max_position_embeddings") / before, before, **given)
            else:
                scaling = Yarn(number("factor"), before, **given)
        else:
            raise self.error(
                f"{field}.rope_type",
                f"is {kind!r:.60}, which is not implemented; implemented: default, linear, llama3, yarn",
            )
        own = parameters.get("rope_theta")
        return Rope(theta if own is None else self.as_number(f"{field}.rope_theta", own, above=1.0), scaling)


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
