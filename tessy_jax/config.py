"""The configuration of `synthesize`, of which the other commands share parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, Strict, model_validator

from tessy_jax.settings import Config, Located, OutputPath, load_as


class PromptConfig(Config):
    template: str | None = Field(default=None, description="Jinja chat template; null: the checkpoint's own.")
    system: str | None = Field(default=None, description="System message put before the problem; null: none.")
    options: dict[str, Any] = Field(default={}, description="Variables of the template, {reasoning_effort: high}.")
    date: str | None = Field(default=None, description="The date that templates write (GPT-OSS); null: today's.")


class ThinkingConfig(Config):
    """How thinking is written in the model's text; only the student's form appears in records. What is null is as the
    model's control tokens say: GPT-OSS's harmony, or else Qwen3's <think>.
    """

    open: str | None = Field(default=None, description="Text that opens the thinking; null: as the model does.")
    before: str | None = Field(default=None, description="Text between the last thought and the marker; null: same.")
    marker: str | None = Field(default=None, min_length=1, description="Text that ends the thinking; null: same.")
    after: str | None = Field(default=None, description="Text between the marker and the answer; null: same.")


class SamplingConfig(Config):
    temperature: float = Field(default=1.0, ge=0, description="Softmax temperature; 0: greedy.")
    top_k: int = Field(default=0, ge=0, description="Keep the k most probable tokens; 0: all.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Keep the fewest tokens with this total probability.")
    min_p: float = Field(default=0.0, ge=0, lt=1, description="Drop tokens below this share of the highest one.")


class RoleConfig(Config):
    model: Located = Field(description="Checkpoint folder, or a model hub id.")
    weights: Literal["int8"] | None = Field(default=None, description="int8: matrices in 8 bits; null: as stored.")
    cache: Literal["int8"] | None = Field(default=None, description="int8: keys and values in 8 bits; null: dtype.")
    experts: Literal["xla", "tokamax"] = Field(
        default="xla", description="What multiplies by the experts' matrices; tokamax needs tessy_jax[kernels]."
    )
    prompt: PromptConfig = PromptConfig()
    thinking: ThinkingConfig = ThinkingConfig()
    sampling: SamplingConfig = SamplingConfig()

    @property
    def loading(self) -> dict[str, Any]:
        """How `models.load` is to load the model."""
        return {"int8": self.weights == "int8", "kernel": self.experts}


class CheckpointPredictor(Config):
    """A token classifier with two labels (1: style, 0: capability)."""

    kind: Literal["checkpoint"] = Field(description="A token-classification checkpoint.")
    model: Located = Field(description="Checkpoint folder, or a model hub id.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="P(style) from which a token counts as style.")
    shift: Literal[0, 1] = Field(
        default=1, description="A token's prediction stands at: 1: the token before; 0: itself."
    )
    block: PositiveInt = Field(default=128, description="Context block in tokens (preset paper); two are seen.")


class UnigramPredictor(Config):
    """A table of P(style | token), without context."""

    kind: Literal["unigram"] = Field(description="A table of P(style | token).")
    table: Located = Field(description="File of the table.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="P(style) from which a token counts as style.")


class ProbePredictor(Config):
    """A linear predictor on the writing model's own hidden states; see `train_probe`."""

    kind: Literal["probe"] = Field(description="A linear predictor on the writing model's own hidden states.")
    model: Located = Field(description="Folder that train_probe wrote.")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="P(style) from which a token counts as style; null: the probe's own."
    )


PredictorConfig = Annotated[CheckpointPredictor | UnigramPredictor | ProbePredictor, Field(discriminator="kind")]


class PredictorsConfig(Config):
    student: PredictorConfig = Field(description="Judges the student's words: kept while they are style.")
    teacher: PredictorConfig = Field(description="Judges the teacher's words: kept while they are capability.")


class LoopConfig(Config):
    """A loop is a cycle of tokens at the end of the text, repeated without a break."""

    repeats: int = Field(default=8, ge=2, description="Repetitions of the cycle that make a loop.")
    min_bytes: PositiveInt = Field(default=64, description="Bytes that the repetitions must cover together.")


class Budgets(Config):
    """Limits of one trace; both presets have them."""

    max_think_tokens: PositiveInt = Field(default=30720, description="Tokens of thinking, each in its author's tokens.")
    max_answer_tokens: PositiveInt = Field(default=8192, description="Tokens of the answer.")
    on_budget: Literal["close", "reject"] = Field(
        default="close", description="Past the budget or in a loop: end the thinking, or reject."
    )
    loop: LoopConfig | None = Field(default=LoopConfig(), description="Loop detection; null: off.")


class PaperCooperation(Budgets):
    """Algorithm 1 of the paper; k changes the speed, never the text."""

    preset: Literal["paper"] = Field(description="Algorithm 1 of the paper.")
    k: PositiveInt = Field(default=20, description="Tokens generated per turn.")


class ReleasedCodeCooperation(Budgets):
    """The behaviour of the released code, for comparison with the released data."""

    preset: Literal["released_code"] = Field(description="The behaviour of the released code.")
    k_student: int = Field(default=5, ge=4, description="Tokens per turn of the student; 4 hold a whole character.")
    k_teacher: int = Field(default=10, ge=4, description="Tokens per turn of the teacher.")
    window: PositiveInt = Field(default=200, description="Tokens that the predictors see.")


CooperationConfig = Annotated[PaperCooperation | ReleasedCodeCooperation, Field(discriminator="preset")]


def _default_buckets(data: dict[str, Any]) -> tuple[int, ...]:
    # Longer prompts are read in pieces of the largest bucket: caches with a window must have room for one piece.
    context = data.get("context", 64)
    return tuple(2**n for n in range(6, 11) if 2**n <= context) or (context,)


class EngineConfig(Config):
    batch: PositiveInt = Field(default=8, description="Slots: rows in flight at the same time, over all devices.")
    context: PositiveInt = Field(default=40960, description="Cache slots (tokens) per row and model.")
    prompt_buckets: Annotated[tuple[PositiveInt, ...], Strict(False)] = Field(
        default_factory=_default_buckets,
        min_length=1,
        description="Padded prompt lengths in tokens, ascending, at most context; longer prompts are read in "
        "pieces of the last; default: powers of two from 64 to 1024.",
    )
    chunk: PositiveInt = Field(default=16, description="Tokens per forward pass when a model catches up.")
    turns_per_dispatch: PositiveInt = Field(default=4, description="Turns run on the device before the host looks.")
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="Weights, activations and caches.")
    compilation_cache: OutputPath | None = Field(default=None, description="JAX's compilation cache; null: none.")

    @model_validator(mode="after")
    def _check_buckets(self) -> Self:
        buckets = self.prompt_buckets
        if list(buckets) != sorted(set(buckets)) or buckets[-1] > self.context:
            raise ValueError(
                f"has wrong buckets: prompt_buckets must ascend and end at context ({self.context}) or below"
            )
        return self


class MeshConfig(Config):
    data: PositiveInt = Field(default=1, description="Devices along the batch.")
    fsdp: PositiveInt = Field(default=1, description="Devices that share each weight, gathered on use.")
    tensor: PositiveInt = Field(default=1, description="Devices that split heads and hidden features.")
    expert: PositiveInt = Field(default=1, description="Devices that split experts.")


class Columns(Config):
    """Names of the input fields, where detection is not wanted; null: detected."""

    prompt: str | None = Field(default=None, description="Field that holds the prompt: a string or a list of messages.")
    id: str | None = Field(default=None, description="Field that holds the id.")


class SynthesisConfig(Config):
    """Everything `python -m tessy_jax.synthesize` needs to know."""

    student: RoleConfig
    teacher: RoleConfig
    predictors: PredictorsConfig
    cooperation: CooperationConfig = Field(default=PaperCooperation(preset="paper"), description="Meaning of a trace.")
    engine: EngineConfig = EngineConfig()
    mesh: MeshConfig = MeshConfig()
    input: Located = Field(description="Problems: .jsonl, .jsonl.gz, .parquet or a folder of a dataset.")
    columns: Columns | None = Field(default=None, description="Names of the input fields; null: detected per row.")
    output: OutputPath = Field(description="Run directory; created, or resumed where it exists.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of all sampling.")
    samples: PositiveInt = Field(default=1, description="Traces per problem.")
    limit: PositiveInt | None = Field(default=None, description="Stop after this many problems; null: all.")


def load_config(path: Path, overrides: Sequence[str] = ()) -> SynthesisConfig:
    """The configuration of a YAML file, with overrides such as `engine.batch=8` replacing values or whole sections.

    Raises:
      ConfigError: the file cannot be read, or a key or value is wrong. Every problem is named, one per line.
    """
    return load_as(SynthesisConfig, path, overrides)
