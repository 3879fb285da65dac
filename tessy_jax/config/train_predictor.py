"""The configuration of `train_predictor`. The defaults are the paper's, where it says (arXiv 2604.14164, §4.1)."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Strict

from tessy_jax.config.schema import Config, LocatedOrStored, RunPath
from tessy_jax.config.sections import MeshConfig
from tessy_jax.config.training import (
    CheckpointConfig,
    ComputeConfig,
    HeldOut,
    MaxSteps,
    OptimizerConfig,
    ReportConfig,
    Sources,
)


class SegmentsConfig(Config):
    """Annotated segments to learn from."""

    train: Sources = Field(
        min_length=1, description="Run directories of annotate, or files of its or the released format."
    )
    held_out: HeldOut = Field(
        default=0.05, description="Share of the prompts whose segments are kept for evaluation, all of them."
    )
    length: PositiveInt = Field(default=512, ge=2, description="Tokens of a row; longer segments lose their end.")


class TrainPredictorConfig(Config):
    """Everything `python -m tessy_jax.train_predictor` needs to know."""

    model: LocatedOrStored = Field(description="Where to start: a language model, or a token classifier to train on.")
    data: SegmentsConfig
    shift: Literal[0, 1] = Field(
        default=1, description="A token's prediction stands at: 1: the token before, as released; 0: itself."
    )
    class_weights: Literal["balanced"] | Annotated[tuple[PositiveFloat, PositiveFloat], Strict(False)] | None = Field(
        default=None, description="Weight of [capability, style] in the loss; balanced: by how rare they are."
    )
    threshold: float = Field(default=0.5, gt=0, lt=1, description="P(style) from which a token counts as style.")
    batch: PositiveInt = Field(default=32, description="Segments of an optimizer step.")
    accumulate: PositiveInt = Field(default=1, description="Pieces in which a step computes its gradient, for memory.")
    epochs: PositiveInt = Field(default=3, description="Passes over the segments.")
    max_steps: MaxSteps = None
    patience: PositiveInt | None = Field(
        default=None, description="Stop when F1 has not risen for this many evaluations; null: never."
    )
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5, schedule="constant", warmup=0.0, clip=None)
    compute: ComputeConfig = ComputeConfig(remat="none", attention="dense")
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = Field(
        default=CheckpointConfig(every=500), description="An evaluation comes with each checkpoint."
    )
    baseline: LocatedOrStored | None = Field(
        default=None, description="A word list to compare with in the report; null: none."
    )
    report: ReportConfig = ReportConfig()
    output: RunPath = Field(description="Run directory; created, or resumed where it exists.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the order and of the new head.")
