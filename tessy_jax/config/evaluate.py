"""The configuration of `evaluate`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tessy_jax.config.benchmarks import Benchmark
from tessy_jax.config.schema import Config, LocatedOrStored, RunPath
from tessy_jax.config.sections import (
    NO_THINKING,
    ChatApiConfig,
    EngineConfig,
    MeshConfig,
    PromptConfig,
    RepetitionConfig,
    RoleConfig,
    SamplingConfig,
    ThinkingConfig,
    ThoughtsConfig,
)


class EvaluationSampling(SamplingConfig):
    """As in the paper, section 3.2."""

    temperature: float = Field(default=0.6, ge=0, description="Softmax temperature; 0: greedy. 0.6 as in the paper.")


class EvaluationBudgets(Config):
    """Limits of one response. Past a limit of the thinking it is ended, and the answer is written all the same: what
    that answer counts for is `judge.on_truncated`'s to say.
    """

    max_think_tokens: PositiveInt = Field(default=40960, description="Tokens of thinking; 40K as in the paper.")
    max_answer_tokens: PositiveInt = Field(default=8192, description="Tokens of the answer.")
    k: PositiveInt = Field(default=20, description="Tokens generated per turn; no word depends on it.")
    loop: RepetitionConfig | None = Field(
        default=RepetitionConfig(), description="Loop detection, which counts as a limit; null: off."
    )


class EvaluationEngine(EngineConfig):
    """Has room for the paper's budget."""

    context: PositiveInt = Field(default=53248, description="Cache slots (tokens) per row: prompt, thinking, answer.")


class _Place(Config):
    kind: Literal["checkpoint"] = Field(description="A model on this machine.")
    model: LocatedOrStored = Field(description="Checkpoint folder (an export of sft is one), or a model hub id.")


class AnswersConfig(Config):
    """How a model on our engine answers, whichever it is."""

    weights: Literal["int8"] | None = Field(default=None, description="int8: matrices in 8 bits; null: as stored.")
    cache: Literal["int8"] | None = Field(default=None, description="int8: keys and values in 8 bits; null: dtype.")
    experts: Literal["xla", "tokamax"] = Field(
        default="xla", description="What multiplies by the experts' matrices; tokamax needs tessy_jax[kernels]."
    )
    prompt: PromptConfig = PromptConfig()
    thinking: ThinkingConfig | None = Field(
        default=ThinkingConfig(), description="How the model writes its thinking; null: it answers at once."
    )
    sampling: EvaluationSampling = EvaluationSampling()
    budgets: EvaluationBudgets = EvaluationBudgets()
    engine: EvaluationEngine = EvaluationEngine()
    mesh: MeshConfig = MeshConfig()


class CheckpointConfig(AnswersConfig, _Place):  # in this order its keys are `kind`, `model` and how it answers
    """A model on our engine."""

    @property
    def role(self) -> RoleConfig:
        """The same as every command that opens a model has it."""
        values = {name: getattr(self, name) for name in RoleConfig.model_fields}
        return RoleConfig.model_validate(values | {"thinking": self.thinking or NO_THINKING})


class ServerConfig(ChatApiConfig):
    """A model behind OpenAI's chat API."""

    kind: Literal["server"] = Field(description="A server with OpenAI's chat API.")
    temperature: float = Field(default=0.6, ge=0, description="Sent with each request. 0.6 as in the paper.")
    max_tokens: PositiveInt = Field(default=49152, description="Sent with each request: thinking and answer.")
    timeout: float = Field(default=3600.0, gt=0, description="Seconds to wait for the server.")
    thoughts: ThoughtsConfig | None = Field(
        default=ThoughtsConfig(), description="How thinking is marked in its text; null: it does not think."
    )


class ResponsesConfig(Config):
    """Responses that were written elsewhere."""

    kind: Literal["responses"] = Field(description="Responses in a file.")
    path: LocatedOrStored = Field(
        description="JSON lines of responses, OJBench's rows, or LiveCodeBench's custom_evaluator JSON."
    )
    model: str = Field(min_length=1, description="Name of the model, for the report.")
    thoughts: ThoughtsConfig | None = Field(
        default=ThoughtsConfig(), description="How thinking is marked in its text; null: there is none."
    )


ModelConfig = Annotated[CheckpointConfig | ServerConfig | ResponsesConfig, Field(discriminator="kind")]


class JudgeConfig(Config):
    """How responses are judged."""

    on_truncated: Literal["fail", "keep", "forced"] = Field(
        default="fail",
        description="Thinking that its budget ended: fail; keep: judge the thinking's text, as OpenCompass does; "
        "forced: judge the answer that was asked for all the same.",
    )
    workers: PositiveInt | None = Field(default=None, description="Responses judged at a time; null: one per core.")
    allow_judge_errors: bool = Field(default=False, description="Score although some responses could not be judged.")


class EvaluateConfig(Config):
    """All that `python -m tessy_jax.evaluate` needs to know."""

    model: ModelConfig
    benchmarks: tuple[Benchmark, ...] = Field(strict=False, min_length=1, description="What the model is asked.")
    judge: JudgeConfig = JudgeConfig()
    output: RunPath = Field(description="Run directory or its URL; created, or resumed where it exists.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of all sampling.")
    limit: PositiveInt | None = Field(default=None, description="Stop after this many problems of each; null: all.")
