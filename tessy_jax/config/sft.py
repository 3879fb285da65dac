"""What `python -m tessy_jax.sft` can be told. The defaults are the paper's, where it says (arXiv 2604.14164, §4.1)."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from tessy_jax.config.schema import Config, Located, OutputPath
from tessy_jax.config.sections import MeshConfig, PromptConfig, ThinkingConfig

Strings = Annotated[tuple[str, ...], Strict(False)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _share_or_source(value: Any, check: ValidatorFunctionWrapHandler) -> float | str:
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"should be a share (0 or more, less than 1) or a path, got {value!r}") from None


Sources = Annotated[tuple[Located, ...], Strict(False), BeforeValidator(_one_or_more)]
ShareOrSource = Annotated[Share | Located, WrapValidator(_share_or_source)]


class WeightsConfig(Config):
    """Weight in the loss of a token, by what it is."""

    style: float = Field(default=1.0, ge=0, description="Thinking that the student wrote.")
    capability: float = Field(default=1.0, ge=0, description="Thinking that the teacher wrote.")
    answer: float = Field(default=1.0, ge=0, description="The answer, the end of thinking and the end of the turn.")
    assistant: float = Field(default=1.0, ge=0, description="An assistant's text of an unknown author (foreign data).")


class DataConfig(Config):
    train: Sources = Field(
        min_length=1, description="Run directories of synthesize; .jsonl(.gz), .parquet or folders with conversations."
    )
    held_out: ShareOrSource = Field(
        default=0.01, description="Share of the problems kept for evaluation, or a source like those of train; 0: none."
    )
    turns: Literal["last", "all"] = Field(
        default="last", description="Train on the last assistant message of a conversation, or on each."
    )
    length: PositiveInt = Field(default=40960, ge=2, description="Tokens of a row.")
    long: Literal["truncate", "drop"] = Field(default="truncate", description="What to do with longer examples.")
    pack: bool = Field(default=True, description="Several examples in a row, each for itself; false: one.")
    weights: WeightsConfig = WeightsConfig()


class BatchConfig(Config):
    rows: PositiveInt = Field(default=128, description="Rows of an optimizer step, over all devices.")
    accumulate: PositiveInt = Field(default=1, description="Pieces in which a step computes its gradient, for memory.")

    @model_validator(mode="after")
    def _check_pieces(self) -> Self:
        if self.rows % self.accumulate:
            raise ValueError(f"has {self.rows} rows, which are not {self.accumulate} equal pieces (accumulate)")
        return self


class OptimizerConfig(Config):
    """AdamW."""

    lr: PositiveFloat = Field(default=5e-5, description="Highest learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(default="cosine", description="After the warm-up.")
    warmup: Share = Field(default=0.03, description="Share of the steps in which the learning rate rises from 0.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled decay of matrices.")
    b1: Share = Field(default=0.9, description="Decay of the gradient's mean.")
    b2: Share = Field(default=0.999, description="Decay of the squared gradient's mean.")
    eps: PositiveFloat = Field(default=1e-8, description="Added to the root of the squared gradient's mean.")
    clip: PositiveFloat | None = Field(default=1.0, description="Largest norm of the gradient; null: any.")


class LoraConfig(Config):
    """Low-rank adapters. Paper, Fig. 13: rank 8 with alpha 16 collapses on Teacher-Only data; prefer full training."""

    rank: PositiveInt = Field(description="Rank of an adapter.")
    alpha: PositiveFloat = Field(description="The update is scaled by alpha / rank.")
    targets: Strings = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="Linear layers that get an adapter.",
    )


class ComputeConfig(Config):
    dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="Of the weights' copy and the activations; masters and moments are float32."
    )
    remat: Literal["none", "block", "full"] = Field(
        default="block", description="Recompute in the backward pass: nothing, all but matrix products, or all."
    )
    attention: Literal["dense", "blocks"] = Field(
        default="blocks", description="blocks: no [length, length] array in memory; dense: one, faster for short rows."
    )
    loss_chunk: PositiveInt = Field(default=1024, description="Tokens whose logits are in memory at the same time.")
    compilation_cache: OutputPath | None = Field(default=None, description="JAX's compilation cache; null: none.")


class CheckpointConfig(Config):
    every: PositiveInt = Field(default=100, description="Steps between two checkpoints.")
    keep: PositiveInt = Field(default=2, description="Newest checkpoints to keep.")
    best: int = Field(default=1, ge=0, description="Checkpoints with the lowest held-out loss to keep besides.")


class ReportConfig(Config):
    tensorboard: bool = Field(default=False, description="Write event files for TensorBoard too.")
    peak_tflops: PositiveFloat | None = Field(
        default=None, description="Peak of one device in the compute dtype, for the MFU; null: known for some devices."
    )


class SftConfig(Config):
    """Everything `python -m tessy_jax.sft` needs to know."""

    model: Located = Field(description="The student: checkpoint folder, or a model hub id.")
    prompt: PromptConfig = PromptConfig()
    thinking: ThinkingConfig = ThinkingConfig()
    data: DataConfig
    batch: BatchConfig = BatchConfig()
    epochs: PositiveInt = Field(default=9, description="Passes over the data.")
    max_steps: PositiveInt | None = Field(default=None, description="Stop after this many steps; null: after epochs.")
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig | None = Field(default=None, description="Train adapters; null: all weights.")
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate_every: PositiveInt | None = Field(
        default=None, description="Steps between two evaluations; null: at checkpoints only."
    )
    report: ReportConfig = ReportConfig()
    output: OutputPath = Field(description="Run directory; created, or resumed where it exists.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the data's order and of adapters.")
