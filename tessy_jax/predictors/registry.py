"""The kinds of boundary predictors, by the name that a configuration calls them: one line a kind."""

from typing import Any, get_args

from tessy_jax.config.boundary_predictors import PredictorConfig
from tessy_jax.config.synthesize import add_predictor_section
from tessy_jax.predictors.base import JudgedModel, Predictor, PredictorKind, PredictorSource, Shapes
from tessy_jax.predictors.checkpoint import CHECKPOINT
from tessy_jax.predictors.probe import PROBE
from tessy_jax.predictors.unigram import UNIGRAM

KINDS: dict[str, PredictorKind] = {
    "checkpoint": CHECKPOINT,
    "unigram": UNIGRAM,
    "probe": PROBE,
}


def register(kind: PredictorKind) -> None:
    """Adds a kind from elsewhere, so that configurations may name it. ValueError if its name is taken."""
    (name,) = get_args(kind.section.model_fields["kind"].annotation)
    if name in KINDS:
        raise ValueError(f"there is a predictor kind '{name}' already")
    add_predictor_section(kind.section)
    KINDS[name] = kind


def open_predictor(config: PredictorConfig, key: str, judged: JudgedModel) -> PredictorSource:
    """Finds and checks the files of the predictor whose section the configuration has at `key`."""
    return KINDS[config.kind].open(config, key, judged)


def identify_predictor(config: PredictorConfig, key: str) -> dict[str, Any] | None:
    """The identity of what `open_predictor` would give, from its files; None where only that can tell."""
    identify = KINDS[config.kind].identify
    return None if identify is None else identify(config, key)


def abstract_predictor(config: PredictorConfig, key: str, judged: JudgedModel, shapes: Shapes) -> Predictor:
    """The same with shapes for parameters; no file is read that is not there."""
    return KINDS[config.kind].abstract(config, key, judged, shapes)
