"""How good a predictor is: F1 while it is trained, and what it predicts for held-out texts once it is."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from tessy_jax import models
from tessy_jax.predictors.scores import Tokens, rates
from tessy_jax.train.data.batches import Batch, Batches
from tessy_jax.train.data.examples import CAPABILITY, CONTEXT, STYLE
from tessy_jax.train.data.labels import Labelled, Segments
from tessy_jax.train.metrics import Reporter
from tessy_jax.train.patience import Patience
from tessy_jax.train.step import Sums, batch_sharding
from tessy_jax.train.trainer import place

# -- while it is trained -----------------------------------------------------------------------------------------------


def scores(sums: Sums) -> dict[str, Any]:
    """Precision, recall and F1 of both classes and the accuracy, of an evaluation with objective `token_class`."""
    right, count = np.asarray(sums.correct), np.asarray(sums.count)
    style, capability = ((right[code], count[code] - right[code]) for code in (STYLE, CAPABILITY))
    found = rates(np.array([style[0], capability[1], style[1], capability[0]]))
    return jax.tree.map(float, found)


class PredictorReporter(Reporter):
    """Reports evaluations by F1 of style. In place of a loss, a checkpoint is ranked by 1 - F1."""

    def __init__(self, *args: Any, patience: Patience, **options: Any):
        super().__init__(*args, **options)
        self._patience = patience
        self._f1: float | None = None

    def held_out(self, step: int, sums: Sums) -> float:
        """Takes an evaluation; returns 1 - F1, or NaN where the loss is not a number."""
        loss = super().held_out(step, sums)
        if not math.isfinite(loss):
            return loss
        self._f1 = scores(sums)["style"]["f1"]
        self._patience.take(step, self._f1)
        return 1 - self._f1

    def more(self, sums: Sums) -> dict[str, Any]:
        """The scores of both classes."""
        return scores(sums)

    def cells(self, now: float) -> dict[str, str]:
        return super().cells(now) | ({} if self._f1 is None else {"F1": f"{self._f1:.3f}"})


# -- once it is trained ------------------------------------------------------------------------------------------------


def predict(
    model: models.Model, batches: Batches[Segments], mesh: Mesh | None, attention: Literal["dense", "blocks"]
) -> list[Float[np.ndarray, " T"]]:
    """P(style) of each token of each segment, in the order of `batches.corpus`.

    With shift 1 the prediction for a token stands at the token before it, so the first token of a segment has NaN.

    Args:
        model: a token classifier, on the mesh.
        batches: every segment once.
        attention: implementation, see `models.Packed`.
    """
    assert isinstance(model, models.TokenClassifier)
    graph, params = nnx.split(model)
    masks = model.config.masks
    sharding = None if mesh is None else batch_sharding(mesh)

    @jax.jit
    def style(params: Any, batch: Batch) -> Float[Array, "A B T"]:
        def one(micro: Any) -> Array:
            classifier = nnx.merge(graph, params)
            hidden, _ = classifier(micro.tokens, micro.positions, models.Packed(micro.segments, masks, attention))
            return jax.nn.softmax(classifier.scores(hidden), axis=-1)[..., 1]

        return jax.lax.map(one, batch)

    segments = batches.corpus
    found = [np.full(length, np.nan, np.float64) for length in segments.lengths]
    for step in range(len(batches)):
        p = np.asarray(jax.device_get(style(params, place(batches.batch(step), sharding))), np.float64)
        for row, examples in zip(p.reshape(-1, p.shape[-1]), batches.plan[step], strict=True):
            start = 0
            for example in examples.tolist():
                length = int(segments.lengths[example])
                found[example][segments.shift :] = row[start : start + length - segments.shift]
                start += length
    return found


class Predicted(NamedTuple):
    """Tokens that have both a label and a prediction.

    Attributes:
        tokens: with their labels.
        p: P(style) of each.
    """

    tokens: Tokens
    p: Float[np.ndarray, " N"]


def predicted_tokens(items: Sequence[Labelled], p: Iterable[Float[np.ndarray, " T"]]) -> Predicted:
    """The tokens of some segments, to be scored.

    Args:
        p: P(style) of each token of each segment; NaN where nothing is predicted.
    """
    every = np.concatenate(list(p))
    names = [f"{item.source.segment.id}#{item.source.segment.sample_index}" for item in items]
    number = {name: i for i, name in enumerate(sorted(set(names)))}
    sizes = [len(item.tokens) for item in items]
    classes = np.concatenate([item.classes for item in items])
    tokens = Tokens(
        style=classes == STYLE,
        segment=np.repeat(np.arange(len(items)), sizes),
        response=np.repeat([number[name] for name in names], sizes),
        word=np.concatenate([item.words for item in items]),
        starts=np.concatenate([item.starts for item in items]),
        ends=np.concatenate([item.ends for item in items]),
        texts=[item.source.segment.text for item in items],
    )
    known = (classes != CONTEXT) & ~np.isnan(every)
    return Predicted(tokens.select(known), every[known])
