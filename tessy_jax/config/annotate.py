"""The configuration of `annotate`."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from tessy_jax.config.schema import Config, LocatedOrStored, OutputPath
from tessy_jax.config.sections import (
    ChatApiConfig,
    EngineConfig,
    MeshConfig,
    PromptConfig,
    SamplingConfig,
    ThinkingConfig,
    ThoughtsConfig,
)


class LexiconConfig(Config):
    """A list of style phrases."""

    kind: Literal["lexicon"] = Field(description="A list of phrases: weak labels.")
    phrases: LocatedOrStored = Field(
        default="configs/style_phrases.json", description="File of the list.", validate_default=True
    )


class ReplySamplingConfig(SamplingConfig):
    """Greedy, where nothing else is said."""

    temperature: float = Field(default=0.0, ge=0, description="Softmax temperature; 0: greedy.")


class ReplyEngineConfig(EngineConfig):
    """For short prompts and replies."""

    context: PositiveInt = Field(default=2048, description="Cache slots (tokens) per row: the task and the reply.")


class LlmConfig(Config):
    """A language model on our engine."""

    kind: Literal["llm"] = Field(description="A language model on this machine.")
    model: LocatedOrStored = Field(description="Checkpoint folder, or a model hub id.")
    prompt: PromptConfig = PromptConfig()
    thinking: ThinkingConfig | None = Field(
        default=None,
        description="How the model writes its thinking, left empty unless max_think_tokens; null: it never thinks.",
    )
    sampling: ReplySamplingConfig = ReplySamplingConfig()
    max_think_tokens: int = Field(default=0, ge=0, description="Tokens of thinking before the reply.")
    max_answer_tokens: PositiveInt = Field(default=512, description="Tokens of the reply.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the sampling.")
    engine: ReplyEngineConfig = ReplyEngineConfig()
    mesh: MeshConfig = MeshConfig()

    @model_validator(mode="after")
    def _check_thinking(self) -> Self:
        if self.max_think_tokens and self.thinking is None:
            raise ValueError("needs thinking where max_think_tokens is given: say how the model writes it")
        return self


class EndpointConfig(ChatApiConfig):
    """A server with the chat API of OpenAI; vLLM, SGLang, llama.cpp and many others have it."""

    kind: Literal["endpoint"] = Field(description="A server with OpenAI's chat API.")
    temperature: float = Field(default=0.0, ge=0, description="Sent with each request.")
    max_tokens: PositiveInt = Field(default=512, description="Sent with each request.")


AnnotatorConfig = Annotated[LexiconConfig | LlmConfig | EndpointConfig, Field(discriminator="kind")]


class SegmentsConfig(Config):
    """How a response is cut into segments, and how many of them are drawn."""

    words: PositiveInt = Field(default=60, description="Words of a segment, as white space separates them.")
    per_response: PositiveInt = Field(default=100, description="Segments of a response at most; may be raised later.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the drawing.")


class AnnotateConfig(Config):
    """All that `python -m tessy_jax.annotate` needs to know."""

    annotator: AnnotatorConfig
    segments: SegmentsConfig = SegmentsConfig()
    thoughts: ThoughtsConfig = ThoughtsConfig()
    input: LocatedOrStored = Field(
        description="Thinking text: a run directory, .jsonl, .jsonl.gz, .parquet, a dataset folder, or a URL."
    )
    output: OutputPath = Field(description="Run directory; created, or resumed where it exists.")
    limit: PositiveInt | None = Field(default=None, description="Stop after this many responses; null: all.")
