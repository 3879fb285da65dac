"""The configuration of `sft`. The defaults are the paper's, where it says (arXiv 2604.14164, §4.1)."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
    model_validator,
)

from tessy_jax.config import evaluate
from tessy_jax.config.benchmarks import Benchmark
from tessy_jax.config.schema import Config, LocatedOrStored, RunPath
from tessy_jax.config.sections import MeshConfig, PromptConfig, ThinkingConfig
from tessy_jax.config.training import (
    CheckpointConfig,
    ComputeConfig,
    MaxSteps,
    OptimizerConfig,
    ReportConfig,
    Share,
    Sources,
)


def _share_or_source(value: Any, check: ValidatorFunctionWrapHandler) -> float | str:
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"should be a share (0 or more, less than 1) or a path, got {value!r}") from None


ShareOrSource = Annotated[Share | LocatedOrStored, WrapValidator(_share_or_source)]
"""A share of the problems, or files that hold others."""


class WeightsConfig(Config):
    """Weight of a token in the loss, by what it is."""

    style: float = Field(default=1.0, ge=0, description="Thinking that the student wrote.")
    capability: float = Field(default=1.0, ge=0, description="Thinking that the teacher wrote.")
    answer: float = Field(default=1.0, ge=0, description="The answer, the end of thinking and the end of the turn.")
    assistant: float = Field(default=1.0, ge=0, description="An assistant's text of an unknown author (foreign data).")


class DataConfig(Config):
    """What the student learns from, and how it becomes rows."""

    train: Sources = Field(
        min_length=1, description="Run directories of synthesize; .jsonl(.gz), .parquet or folders with conversations."
    )
    held_out: ShareOrSource = Field(
        default=0.01, description="Share of the problems kept for evaluation, or a source like those of train; 0: none."
    )
    limit: PositiveInt | None = Field(
        default=None,
        description="Train on so many examples, drawn by the seed; fewer ones are among more. null: all.",
        exclude_if=lambda value: value is None,  # or the configurations of earlier runs would read otherwise
    )
    turns: Literal["last", "all"] = Field(
        default="last", description="Train on the last assistant message of a conversation, or on each."
    )
    length: PositiveInt = Field(default=40960, ge=2, description="Tokens of a row.")
    long: Literal["truncate", "drop"] = Field(default="truncate", description="What to do with longer examples.")
    pack: bool = Field(default=True, description="Several examples in a row, each for itself; false: one.")
    weights: WeightsConfig = WeightsConfig()


class BatchConfig(Config):
    """What one step of the optimizer sees."""

    rows: PositiveInt = Field(default=128, description="Rows of an optimizer step, over all devices.")
    accumulate: PositiveInt = Field(default=1, description="Pieces in which a step computes its gradient, for memory.")

    @model_validator(mode="after")
    def _check_pieces(self) -> Self:
        if self.rows % self.accumulate:
            raise ValueError(f"has {self.rows} rows, which are not {self.accumulate} equal pieces (accumulate)")
        return self


class LoraConfig(Config):
    """Low-rank adapters. Paper, Fig. 13: rank 8 with alpha 16 collapses on Teacher-Only data; prefer full training."""

    rank: PositiveInt = Field(description="Rank of an adapter.")
    alpha: PositiveFloat = Field(description="The update is scaled by alpha / rank.")
    targets: Annotated[tuple[str, ...], Strict(False)] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="Linear layers that get an adapter.",
    )


def _epoch_or_steps(value: Any, check: ValidatorFunctionWrapHandler) -> str | int:
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"should be epoch, or a number of steps, got {value!r}") from None


class BenchmarksConfig(Config):
    """Which benchmarks the student is asked while it is trained, and when: a configuration of `evaluate`, without the
    model and the output.
    """

    every: Annotated[Literal["epoch"] | PositiveInt, WrapValidator(_epoch_or_steps)] = Field(
        default="epoch", description="epoch, or a number of steps; also before the first step and after the last."
    )
    model: evaluate.AnswersConfig = Field(
        default=evaluate.AnswersConfig(), description="Its prompt and thinking are those of the training by default."
    )
    benchmarks: tuple[Benchmark, ...] = Field(strict=False, min_length=1, description="What the student is asked.")
    judge: evaluate.JudgeConfig = evaluate.JudgeConfig()
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of all sampling.")
    limit: PositiveInt | None = Field(default=None, description="Stop after this many problems of each; null: all.")
    keep_exports: bool = Field(
        default=False, description="Keep each student that was evaluated as a Hugging Face folder, in exports/."
    )

    def of(self, model: Path, output: Path) -> evaluate.EvaluateConfig:
        """The configuration with which `evaluate` asks a model the same."""
        answers = {name: getattr(self.model, name) for name in evaluate.AnswersConfig.model_fields}
        return evaluate.EvaluateConfig(
            model=evaluate.CheckpointConfig(kind="checkpoint", model=str(model), **answers),
            output=output,
            **{name: getattr(self, name) for name in ("benchmarks", "judge", "seed", "limit")},
        )


class SftConfig(Config):
    """Everything `python -m tessy_jax.sft` needs to know."""

    model: LocatedOrStored = Field(description="The student: checkpoint folder, or a model hub id.")
    prompt: PromptConfig = PromptConfig()
    thinking: ThinkingConfig = ThinkingConfig()
    data: DataConfig
    batch: BatchConfig = BatchConfig()
    epochs: PositiveInt = Field(default=9, description="Passes over the data.")
    max_steps: MaxSteps = None
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig | None = Field(default=None, description="Train adapters; null: all weights.")
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate_every: PositiveInt | None = Field(
        default=None, description="Steps between two held-out losses; null: at checkpoints only."
    )
    evaluate: BenchmarksConfig | None = Field(default=None, description="Accuracy on benchmarks; null: none.")
    report: ReportConfig = ReportConfig()
    output: RunPath = Field(description="Run directory; created, or resumed where it exists.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the data's order and of adapters.")

    @model_validator(mode="before")
    @classmethod
    def _prompt_as_trained(cls, values: Any) -> Any:
        """Evaluations ask as the training does, unless they say otherwise."""
        section = values.get("evaluate") if isinstance(values, dict) else None
        if not isinstance(section, dict) or not isinstance(model := section.get("model") or {}, dict):
            return values
        trained = {name: values[name] for name in ("prompt", "thinking") if name in values}
        return values | {"evaluate": section | {"model": trained | model}}

    @model_serializer(mode="wrap")
    def _without_evaluations(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run without evaluations is written down as one was before there were any."""
        values: dict[str, Any] = dump(self)
        return {name: value for name, value in values.items() if name != "evaluate" or value is not None}
