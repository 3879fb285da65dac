"""What `train_predictor` and `train_probe` can be told."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Strict

from tessy_jax.config.schema import Config, Located, OutputPath
from tessy_jax.config.sections import MeshConfig, RoleConfig
from tessy_jax.config.sft import CheckpointConfig, ComputeConfig, OptimizerConfig, ReportConfig, Sources

HeldOut = Annotated[float, Field(gt=0, lt=1)]
Two = Annotated[tuple[PositiveFloat, PositiveFloat], Strict(False)]


class SegmentsConfig(Config):
    train: Sources = Field(
        min_length=1, description="Run directories of annotate, or files of its or the released format."
    )
    held_out: HeldOut = Field(
        default=0.05, description="Share of the prompts whose segments are kept for evaluation, all of them."
    )
    length: PositiveInt = Field(default=512, ge=2, description="Tokens of a row; longer segments lose their end.")


class TrainPredictorConfig(Config):
    """Everything `python -m tessy_jax.train_predictor` needs to know. The defaults are the paper's, where it says."""

    model: Located = Field(description="Where to start: a language model, or a token classifier to train on.")
    data: SegmentsConfig
    shift: Literal[0, 1] = Field(
        default=1, description="A token's prediction stands at: 1: the token before, as released; 0: itself."
    )
    class_weights: Literal["balanced"] | Two | None = Field(
        default=None, description="Weight of [capability, style] in the loss; balanced: by how rare they are."
    )
    threshold: float = Field(default=0.5, gt=0, lt=1, description="P(style) from which a token counts as style.")
    batch: PositiveInt = Field(default=32, description="Segments of an optimizer step.")
    accumulate: PositiveInt = Field(default=1, description="Pieces in which a step computes its gradient, for memory.")
    epochs: PositiveInt = Field(default=3, description="Passes over the segments.")
    max_steps: PositiveInt | None = Field(default=None, description="Stop after this many steps; null: after epochs.")
    patience: PositiveInt | None = Field(
        default=None, description="Stop when F1 has not risen for this many evaluations; null: never."
    )
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5, schedule="constant", warmup=0.0, clip=None)
    compute: ComputeConfig = ComputeConfig(remat="none", attention="dense")
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = Field(
        default=CheckpointConfig(every=500), description="An evaluation comes with each checkpoint."
    )
    baseline: Located | None = Field(default=None, description="A word list to compare with in the report; null: none.")
    report: ReportConfig = ReportConfig()
    output: OutputPath = Field(description="Run directory; created, or resumed where it exists.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the order and of the new head.")


class ProbeDataConfig(Config):
    annotated: Sources = Field(min_length=1, description="Run directories of annotate.")
    responses: Sources = Field(
        min_length=1, description="Run directories whose responses were annotated; they give prompts and whole texts."
    )
    held_out: HeldOut = Field(default=0.2, description="Share of the prompts that only the report sees.")
    choose: HeldOut = Field(
        default=0.25, description="Share of the other prompts that choose layer and threshold; then trained on too."
    )
    length: PositiveInt = Field(default=2048, ge=2, description="Tokens of a row: prompt and thinking; more is cut.")
    max_tokens: PositiveInt = Field(default=100_000, description="Labelled tokens to use at most, by whole responses.")


class ProbeFitConfig(Config):
    l2: PositiveFloat = Field(default=1e-3, description="Shrinks the weights, for features of variance 1.")
    token_bias: bool = Field(default=True, description="Learn a bias for each token that is seen often enough.")
    token_bias_l2: PositiveFloat = Field(default=1e-4, description="Shrinks the biases of tokens.")
    min_count: PositiveInt = Field(default=3, description="Labels that a token needs for a bias of its own.")
    steps: PositiveInt = Field(default=200, description="Steps of L-BFGS at most.")


class TrainProbeConfig(Config):
    """Everything `python -m tessy_jax.train_probe` needs to know."""

    writer: RoleConfig = Field(description="The writing model, as in the configuration of synthesize.")
    data: ProbeDataConfig
    layers: Annotated[tuple[int, ...], Strict(False)] | None = Field(
        default=None, description="Layers to try, from 0; negative: from the last; null: all."
    )
    fit: ProbeFitConfig = ProbeFitConfig()
    rows: PositiveInt = Field(default=4, description="Rows that the model reads at a time.")
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="Weights and activations.")
    mesh: MeshConfig = MeshConfig()
    baseline: Located | None = Field(
        default="configs/style_words.json",
        description="A word list to compare with in the report; null: none.",
        validate_default=True,
    )
    output: OutputPath = Field(description="Folder for the probe and its report; replaced by a new run.")
