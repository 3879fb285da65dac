"""A token classifier that reads the text: a second, small model with a cache of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Int

from tessy_jax import models
from tessy_jax.config.boundary_predictors import CheckpointPredictor
from tessy_jax.data.hashing import hash_folder
from tessy_jax.models.hub import model_folder
from tessy_jax.predictors.base import JudgedModel, OwnModel, PredictorKind, Shapes
from tessy_jax.text.tokenizer import ContentTokenizer, TextError


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A Hugging Face `…ForTokenClassification` checkpoint with two labels, one of which is style.

    Attributes:
        graph, params: the model, split by `nnx.split`. config: its architecture.
        label: the index of the label that is style (`style_label`).
        block: W of the context blocks. A token at index i sees the tokens from max(0, (i // W - 1) * W) on, at most 2 W
            of them, so that the cache stays small.
    """

    tokenizer: ContentTokenizer
    graph: nnx.GraphDef
    params: Any
    config: models.DecoderConfig
    threshold: float
    shift: int
    block: int
    label: int = 1
    layer: None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        threshold: float,
        shift: int,
        block: int,
        mesh: Mesh | None,
        dtype: DTypeLike = jnp.float32,
    ) -> "Checkpoint":
        """Loads the checkpoint onto the mesh. TextError unless it has two labels, one of which is style."""
        label = style_label(folder, models.read_config(folder).labels)
        model = models.load(folder, mesh=mesh, dtype=dtype)
        graph, params = nnx.split(model)
        return cls(ContentTokenizer.load(folder), graph, params, model.config, threshold, shift, block, label)

    def init_cache(self, batch: int, length: int, slack: int, mesh: Mesh | None) -> models.Cache:
        dtype = jax.tree.leaves(self.params)[0].dtype
        return models.init_cache(self.config, batch, length, slack, dtype, mask=models.Blocks(self.block), mesh=mesh)

    def style(
        self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], cache: Any
    ) -> tuple[Float[Array, "B C"], Any]:
        model = nnx.merge(self.graph, params)
        hidden, cache = model(tokens, positions, cache)
        return jax.nn.softmax(model.scores(hidden), axis=-1)[..., self.label], cache

    def window(self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"]) -> Float[Array, "B C"]:
        whole = models.Packed(jnp.zeros_like(tokens), tuple(self.config.masks))
        return self.style(params, tokens, positions, whole)[0]


def style_label(folder: Path, labels: tuple[str, ...]) -> int:
    """Which of a checkpoint's two labels is style: by their names (HF: id2label), or where these say nothing
    (`LABEL_0`, `LABEL_1`) the second, as in the released predictors.

    Raises:
        TextError: there are not two labels, or their names contradict each other.
    """
    if len(labels) != 2:
        raise TextError(
            f"{folder}: a boundary predictor has 2 labels (capability, style), this checkpoint has "
            f"{len(labels) or 'no token-classification head'}"
        )
    style = [_says(name, "style") for name in labels]
    capability = [_says(name, "capab") for name in labels]
    if not any(style + capability):
        return 1
    found = [i for i in (0, 1) if (style[i] or capability[1 - i]) and not (style[1 - i] or capability[i])]
    if len(found) != 1:
        raise TextError(
            f"{folder / 'config.json'}: id2label: is {labels[0]!r}, {labels[1]!r}: one label of a boundary predictor "
            "is style and the other capability. Name them so."
        )
    return found[0]


def _says(label: str, word: str) -> bool:
    """Whether a label names this, not its opposite."""
    name = label.lower()
    return word in name and not name.startswith(("no", "un"))


def _identify(config: CheckpointPredictor, key: str) -> dict[str, Any]:
    return config.model_dump(mode="json") | {"model": hash_folder(model_folder(config.model, f"{key}.model"))}


@dataclass(frozen=True)
class _Source:
    config: CheckpointPredictor
    key: str
    folder: Path

    @property
    def own_model(self) -> OwnModel:
        return OwnModel(self.folder, models.Blocks(self.config.block))

    def identity(self) -> dict[str, Any]:
        return _identify(self.config, self.key)

    def load(self, mesh: Mesh | None, dtype: DTypeLike) -> Checkpoint:
        how = self.config.model_dump(include={"threshold", "shift", "block"})
        return Checkpoint.load(self.folder, mesh=mesh, dtype=dtype, **how)


def _open(config: CheckpointPredictor, key: str, judged: JudgedModel) -> _Source:
    folder = model_folder(config.model, f"{key}.model")
    model = models.read_config(folder)
    style_label(folder, model.labels)
    ContentTokenizer.load(folder).check_fits(model.vocab_size)
    models.check_weights(model, folder)
    return _Source(config, key, folder)


def _abstract(config: CheckpointPredictor, key: str, judged: JudgedModel, shapes: Shapes) -> Checkpoint:
    model = models.shapes(shapes.read(config.model, f"{key}.model"), shapes.dtype, shapes.mesh)
    graph, params = nnx.split(model)
    tokenizer = shapes.tokenizer(model.config.vocab_size)
    return Checkpoint(tokenizer, graph, params, model.config, config.threshold, config.shift, config.block)


CHECKPOINT = PredictorKind(CheckpointPredictor, _open, _abstract, _identify)
