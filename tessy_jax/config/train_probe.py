"""The configuration of `train_probe`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Strict

from tessy_jax.config.compilation_cache import CompilationCache, not_given
from tessy_jax.config.schema import Config, LocatedOrStored, RunPath
from tessy_jax.config.sections import MeshConfig, RoleConfig
from tessy_jax.config.training import HeldOut, Sources


class ProbeDataConfig(Config):
    """Annotated segments, and the responses in which they stand."""

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
    """The logistic regression: P(style) = sigmoid(weight · hidden + bias + bias of the token)."""

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
    compilation_cache: CompilationCache = Field(default_factory=not_given)
    baseline: LocatedOrStored | None = Field(
        default="configs/style_words.json",
        description="A word list to compare with in the report; null: none.",
        validate_default=True,
    )
    output: RunPath = Field(description="Folder for the probe and its report; replaced by a new run.")
