"""The configurations of pairs that come with the package: read, their models known, their memory as said."""

from pathlib import Path

import pytest
from jax.sharding import AbstractMesh, AxisType

from tessy_jax import models
from tessy_jax.config.synthesize import load_config
from tessy_jax.devices.mesh import AXES, shape_of
from tessy_jax.planning.shapes import read_shapes
from tests.kit import ROOT

PAIRS = sorted((ROOT / "configs/pairs").glob("*.yaml"))
GIB = {
    "openai/gpt-oss-120b": 60.8,
    "openai/gpt-oss-20b": 12.8,
    "Qwen/Qwen3-8B": 15.3,
    "Qwen/Qwen3-32B": 61.0,
    "Qwen/Qwen3-30B-A3B": 56.9,
    "Qwen/Qwen3-235B-A22B-Thinking-2507": 437.9,
    "deepseek-ai/DeepSeek-R1": 625,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": 15.0,
}
"""Weights as stored, with what is not quantised in bfloat16: of the model cards' parameter counts."""


def test_there_is_one_for_each_pair_of_the_paper() -> None:
    assert len(PAIRS) >= 6


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_a_pair(path: Path) -> None:
    config = load_config(path)
    for role in (config.student, config.teacher):
        shapes = read_shapes(role.model, "model")
        assert models.parameter_bytes(shapes, config.engine.dtype) / 2**30 == pytest.approx(GIB[role.model], rel=0.01)
        assert config.engine.context <= shapes.max_position_embeddings
        mesh = AbstractMesh(shape_of(config.mesh), AXES, axis_types=(AxisType.Auto,) * len(AXES))
        for name, spec in models.describe(shapes).items():  # everything divides
            models.sharding_for(mesh, models.INFERENCE, spec.dims, name)
    budgets = config.cooperation
    assert budgets.max_think_tokens + budgets.max_answer_tokens + 1024 <= config.engine.context
