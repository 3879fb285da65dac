"""Training a boundary predictor: its lessons, F1 where a language model has a loss, stopping early, judging texts."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from tessy_jax import models
from tessy_jax.data.jsonl import read_objects
from tessy_jax.predictors.scores import Tokens, rates
from tessy_jax.train.data.batches import Batch, Batches
from tessy_jax.train.data.examples import CAPABILITY, CONTEXT, STYLE
from tessy_jax.train.data.labels import Labelled, Segments
from tessy_jax.train.metrics import Reporter
from tessy_jax.train.step import Sums

# -- F1 ----------------------------------------------------------------------------------------------------------------


def scores(sums: Sums) -> dict[str, Any]:
    """Precision, recall and F1 of both classes and the accuracy, of an evaluation with objective `token_class`."""
    right, count = np.asarray(sums.correct), np.asarray(sums.count)
    style, capability = ((right[code], count[code] - right[code]) for code in (STYLE, CAPABILITY))
    found = rates(np.array([style[0], capability[1], style[1], capability[0]]))
    return jax.tree.map(float, found)


class PredictorReporter(Reporter):
    """Reports evaluations by F1 of style. What a checkpoint is judged by, and less of is better, is 1 - F1."""

    def __init__(self, *args: Any, patience: "Patience", **options: Any):
        super().__init__(*args, **options)
        self._patience = patience
        self._f1: float | None = None

    def held_out(self, step: int, sums: Sums) -> float:
        """After an evaluation; returns 1 - F1, or NaN where the loss is not a number."""
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
        """What to show at a time of the clock."""
        return super().cells(now) | ({} if self._f1 is None else {"F1": f"{self._f1:.3f}"})


class Patience:
    """Says when F1 has not risen for so many evaluations. Part of `trainer.Stop`, so that the run ends there."""

    def __init__(self, evaluations: int | None):
        self._allowed = evaluations
        self._best, self._since = -1.0, 0

    @classmethod
    def resumed(cls, evaluations: int | None, metrics: Path, step: int) -> "Patience":
        """As it was after `step` of a run with these metrics."""
        patience = cls(evaluations)
        for _, row in read_objects(metrics) if metrics.exists() else ():
            if row is not None and "held_out" in row and row["step"] <= step:
                patience.take(row["step"], row["held_out"]["style"]["f1"])
        return patience

    def take(self, step: int, f1: float) -> None:
        """An evaluation; what comes before the first step does not count."""
        if step > 0:
            self._since = 0 if f1 > self._best else self._since + 1
            self._best = max(self._best, f1)

    @property
    def over(self) -> bool:
        return self._allowed is not None and self._since >= self._allowed


@dataclass(frozen=True)
class StopOrPatience:
    """Whether the user wants to end the run, or the patience is over."""

    stop: Any
    patience: Patience

    @property
    def asked(self) -> bool:
        return bool(self.stop.asked) or self.patience.over


# -- judging -----------------------------------------------------------------------------------------------------------


def predict(
    model: models.Model, batches: Batches[Segments], place: Callable[[Batch], Batch], attention: Any
) -> list[Float[np.ndarray, " T"]]:
    """P(style) of each token of each segment; NaN for a first token of which nothing is predicted.

    Args:
        model: a token classifier. place: puts a batch on the devices.
    """
    assert isinstance(model, models.TokenClassifier)
    graph, params = nnx.split(model)
    masks = model.config.masks

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
        p = np.asarray(jax.device_get(style(params, place(batches.batch(step)))), np.float64)
        for row, examples in zip(p.reshape(-1, p.shape[-1]), batches.plan[step], strict=True):
            start = 0
            for example in examples.tolist():
                length = int(segments.lengths[example])
                found[example][segments.shift :] = row[start : start + length - segments.shift]
                start += length
    return found


def judged_tokens(
    items: Sequence[Labelled], p: Iterable[Float[np.ndarray, " T"]]
) -> tuple[Tokens, Float[np.ndarray, " N"]]:
    """The labelled tokens of which something is predicted, and what."""
    said = np.concatenate(list(p))
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
    known = (classes != CONTEXT) & ~np.isnan(said)
    return tokens.select(known), said[known]
