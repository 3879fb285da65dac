"""A probe: the pass that samples a token also predicts whether it is style. No second model, no second tokenisation.

    P(style) = sigmoid(w · h + b + u[token])

h is the writing model's hidden state after one of its layers, at the position before the token: the pass that samples
the token computes it anyway. u is a bias per token of its vocabulary.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx, struct
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Float32, Int

from tessy_jax.config.boundary_predictors import ProbePredictor
from tessy_jax.data.hashing import hash_file, hash_text
from tessy_jax.data.jsonl import replace_file
from tessy_jax.models import DecoderConfig, call_block
from tessy_jax.models.decoder import BlockCall
from tessy_jax.models.products import matmul
from tessy_jax.predictors.base import JudgedModel, PredictorKind, Shapes
from tessy_jax.storage.copies import local
from tessy_jax.text.tokenizer import ContentTokenizer, TextError
from tessy_jax.text_jax.arrays import Leaf

FORMAT = "tessy_jax probe 1"


class ProbeParams(struct.PyTreeNode):
    """What a probe has learned, float32: `weight` w, `bias` b, `token_bias` u."""

    weight: Float32[Leaf, " D"]
    bias: Float32[Leaf, ""]
    token_bias: Float32[Leaf, " V"]


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """A probe of one model.

    Attributes:
      tokenizer: the model's.
      params: see the module's text; V is at least the tokenizer's size.
      layer: whose output it reads, from 0.
      threshold: a token is style if P(style) is at least this.
    """

    tokenizer: ContentTokenizer
    params: ProbeParams
    layer: int
    threshold: float

    @classmethod
    def load(cls, folder: Path, tokenizer: ContentTokenizer, config: DecoderConfig) -> "Probe":
        """Reads a probe of the model with this tokenizer and configuration.

        Raises:
          TextError: the folder holds no probe, a damaged one, or one of another model.
        """
        facts = read_facts(folder)
        ours = fingerprint(tokenizer, config)
        wrong = [name for name, value in ours.items() if facts[name] != value]
        if wrong:
            raise TextError(
                f"{folder}: this probe was trained on another model ({facts['name']}): the {' and the '.join(wrong)} "
                "differ from those of the model that is to be judged. Train one for it: "
                "python -m tessy_jax.train_probe"
            )
        try:
            arrays = safetensors.numpy.load_file(folder / "probe.safetensors")
            biases = np.zeros(config.vocab_size, np.float32)
            biases[arrays["tokens"]] = arrays["token_bias"]
            params = ProbeParams(
                jnp.asarray(arrays["weight"]), jnp.asarray(arrays["bias"]), jnp.asarray(biases, jnp.float32)
            )
        except (OSError, KeyError, IndexError, ValueError, safetensors.SafetensorError) as error:
            raise TextError(f"{folder}/probe.safetensors: cannot be read ({error}); copy the folder again") from None
        if params.weight.shape != (config.hidden_size,):
            raise TextError(f"{folder}/probe.safetensors: has {params.weight.shape[0]} weights, not hidden_size")
        return cls(tokenizer, params, int(facts["layer"]), float(facts["threshold"]))

    def save(self, folder: Path, config: DecoderConfig, **more: Any) -> None:
        """Writes `probe.safetensors` and `probe.json`, which `load` reads.

        Args:
          more: further facts for probe.json; `name` of the model is one.
        """
        biases = np.asarray(self.params.token_bias, np.float16)  # half the size; they are shrunk, so never large
        tokens = np.flatnonzero(biases).astype(np.int32)
        arrays: dict[str, np.ndarray] = {
            "weight": np.asarray(self.params.weight, np.float32),
            "bias": np.asarray(self.params.bias, np.float32),
            "tokens": tokens,
            "token_bias": biases[tokens],
        }
        facts = {"format": FORMAT, "layer": self.layer, "threshold": self.threshold}
        facts |= fingerprint(self.tokenizer, config) | more
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "probe.safetensors", safetensors.numpy.save(arrays))
        replace_file(folder / "probe.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

    def init_cache(self, *_: Any) -> tuple[()]:
        """A probe remembers nothing."""
        return ()

    @staticmethod
    def style(params: ProbeParams, hidden: Float[Array, "B D"], tokens: Int[Array, " B"]) -> Float32[Array, " B"]:
        """P(style) of `tokens`, sampled at positions with these hidden states of the probe's layer."""
        logits = matmul(hidden.astype(jnp.float32), params.weight) + params.bias
        return jax.nn.sigmoid(logits + params.token_bias[tokens])


def fingerprint(tokenizer: ContentTokenizer, config: DecoderConfig) -> dict[str, str]:
    """What a probe and its model must have in common, in hex. Weights are left out: a model that was trained further
    may still be worth a try.
    """
    shapes = json.dumps(config.to_hf(), sort_keys=True)
    return {"tokenizer": tokenizer.fingerprint, "configuration": hash_text(shapes)}


def read_facts(folder: Path) -> dict[str, Any]:
    """The contents of a probe's `probe.json`. Raises TextError where it is not one."""
    file = folder / "probe.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is {facts['format']!r}, not {FORMAT!r}")
        missing = [n for n in ("layer", "threshold", "tokenizer", "configuration", "name") if n not in facts]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (FileNotFoundError, NotADirectoryError):
        raise TextError(f"{file}: there is no probe; python -m tessy_jax.train_probe writes one") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TextError(f"{file}: is no probe of this package: {error}") from None
    return facts


def record_hidden_states(hidden_states: list[Array]) -> BlockCall:
    """How to call the blocks of a model so that `hidden_states` also gets their outputs, in the order of layers."""

    def call(block: nnx.Module, x: Array, rotation: Any, positions: Array, memory: Any) -> tuple[Array, Any]:
        x, memory = call_block(block, x, rotation, positions, memory)
        hidden_states.append(x)
        return x, memory

    return call


# -- in a configuration ------------------------------------------------------------------------------------------------


def _identify(config: ProbePredictor, key: str = "") -> dict[str, Any]:
    weights = local(config.model).expanduser() / "probe.safetensors"
    return config.model_dump(mode="json") | {"model": hash_file(weights)}


@dataclasses.dataclass(frozen=True)
class _Source:
    config: ProbePredictor
    probe: Probe
    own_model: None = None

    def identity(self) -> dict[str, Any]:
        return _identify(self.config)

    def load(self, mesh: Mesh | None, dtype: DTypeLike) -> Probe:
        return self.probe


def _open(config: ProbePredictor, key: str, judged: JudgedModel) -> _Source:
    folder = local(config.model).expanduser()
    probe = Probe.load(folder, judged.tokenizer, judged.config)
    if config.threshold is not None:
        probe = dataclasses.replace(probe, threshold=config.threshold)
    return _Source(config, probe)


def _abstract(config: ProbePredictor, key: str, judged: JudgedModel, shapes: Shapes) -> Probe:
    """The folder is read if it is there, since the layer is in it; else it is taken to be the last."""
    folder = local(config.model).expanduser()
    layer = read_facts(folder)["layer"] if folder.is_dir() else judged.config.num_hidden_layers - 1
    sizes: Any = ((judged.config.hidden_size,), (), (judged.config.vocab_size,))
    learned = ProbeParams(*(jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes))
    return Probe(judged.tokenizer, learned, layer, config.threshold or 0.5)


PROBE = PredictorKind(ProbePredictor, _open, _abstract, _identify)
