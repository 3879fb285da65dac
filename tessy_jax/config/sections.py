"""Sections that several commands share: a model and how it writes, budgets, engine, mesh, problems and output.

A key's `description` is what `--help` prints; it is the reference.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveInt, Strict, field_validator, model_validator

from tessy_jax.config.compilation_cache import CompilationCache, not_given
from tessy_jax.config.schema import Config, LocatedOrStored, RunPath


class PromptConfig(Config):
    """How a problem becomes a prompt."""

    template: str | None = Field(default=None, description="Jinja chat template; null: the checkpoint's own.")
    system: str | None = Field(default=None, description="System message put before the problem; null: none.")
    options: dict[str, Any] = Field(default={}, description="Variables of the template, {reasoning_effort: high}.")
    date: str | None = Field(default=None, description="The date that templates write (GPT-OSS); null: today's.")


class ThinkingConfig(Config):
    """How thinking is written in a model's text:

        open + thoughts + before + marker + after + answer

    What is null is as the model's control tokens say: as GPT-OSS's harmony, or else as Qwen3's <think>. Records are
    written in the student's form.
    """

    open: str | None = Field(default=None, description="Text that opens the thinking; null: as the model does.")
    before: str | None = Field(default=None, description="Text between the last thought and the marker; null: same.")
    marker: str | None = Field(default=None, min_length=1, description="Text that ends the thinking; null: same.")
    after: str | None = Field(default=None, description="Text between the marker and the answer; null: same.")


NO_THINKING = ThinkingConfig(open="", before="", after="")
"""Of a model that answers at once."""


class SamplingConfig(Config):
    """How a token is drawn from the model's distribution."""

    temperature: float = Field(default=1.0, ge=0, description="Softmax temperature; 0: greedy.")
    top_k: int = Field(default=0, ge=0, description="Keep the k most probable tokens; 0: all.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Keep the fewest tokens with this total probability.")
    min_p: float = Field(default=0.0, ge=0, lt=1, description="Drop tokens below this share of the highest one.")


class RoleConfig(Config):
    """A model that writes: where it is, how its weights are kept, how it is prompted and sampled."""

    model: LocatedOrStored = Field(description="Checkpoint folder, its URL, or a model hub id.")
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
        """Keyword arguments of `models.load`."""
        return {"int8": self.weights == "int8", "kernel": self.experts}


class RepetitionConfig(Config):
    """When a trace counts as caught in a loop: its text ends in one cycle of tokens, repeated without a break."""

    repeats: int = Field(default=8, ge=2, description="Repetitions of the cycle that make a loop.")
    min_bytes: PositiveInt = Field(default=64, description="Bytes that the repetitions must cover together.")


class Budgets(Config):
    """Limits of one trace."""

    max_think_tokens: PositiveInt = Field(default=30720, description="Tokens of thinking, each in its author's tokens.")
    max_answer_tokens: PositiveInt = Field(default=8192, description="Tokens of the answer.")
    on_budget: Literal["close", "reject"] = Field(
        default="close", description="Past the budget or in a loop: end the thinking, or reject."
    )
    loop: RepetitionConfig | None = Field(default=RepetitionConfig(), description="Loop detection; null: off.")


def buckets_field(sizes: Sequence[int], said: str) -> Any:
    """The field `prompt_buckets`; by default those of the `sizes` that the context holds. `said`: what they are."""

    def default(data: dict[str, Any]) -> tuple[int, ...]:
        # Longer prompts are read in pieces of the largest bucket: caches with a window must have room for one piece.
        context = data.get("context", 64)
        return tuple(size for size in sizes if size <= context) or (context,)

    return Field(
        default_factory=default,
        min_length=1,
        description="Padded prompt lengths in tokens, ascending, at most context; longer prompts are read in "
        f"pieces of the last; default: {said}.",
    )


class EngineConfig(Config):
    """How traces are computed. `context` and `dtype` may change a trace (a longer context reaches further, a dtype
    rounds otherwise), so a run is resumed with the same ones only; all else decides speed and memory alone.

    A dispatch runs `turns_per_dispatch` turns of all `batch` slots on the device, or as many passes as their tokens;
    then the host takes finished rows out, puts new ones in and writes the journal. A prompt is padded to the next of
    `prompt_buckets`: there is one compiled program for each. A model that catches up with what the other wrote reads
    `chunk` tokens at a time.
    """

    batch: PositiveInt = Field(default=8, description="Slots: rows in flight at the same time, over all devices.")
    context: PositiveInt = Field(default=40960, description="Cache slots (tokens) per row and model.")
    cache_tokens: PositiveInt | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # or the configurations of earlier runs would read otherwise
        description="Tokens that a model's cache holds for all rows together, in pages that rows take as they grow; a "
        "row that finds none begins again where it was, later; null: batch x context, each row its own.",
    )
    page: PositiveInt | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Tokens of a page of such a cache; null: 64 on CPUs, 128 on GPUs, 256 on TPUs.",
    )
    prompt_buckets: Annotated[tuple[PositiveInt, ...], Strict(False)] = buckets_field(
        [64, 128, 256, 512, 1024], "powers of two from 64 to 1024"
    )
    chunk: PositiveInt = Field(default=16, description="Tokens per forward pass when a model catches up.")
    turns_per_dispatch: PositiveInt = Field(default=4, description="Turns run on the device before the host looks.")
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="Weights, activations and caches.")
    compilation_cache: CompilationCache = Field(default_factory=not_given)

    @model_validator(mode="after")
    def _check_buckets(self) -> Self:
        buckets = self.prompt_buckets
        if list(buckets) != sorted(set(buckets)) or buckets[-1] > self.context:
            raise ValueError(
                f"has wrong buckets: prompt_buckets must ascend and end at context ({self.context}) or below"
            )
        return self

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        if self.cache_tokens is not None and self.cache_tokens < self.context:
            raise ValueError(f"has cache_tokens {self.cache_tokens}: a single row may grow to context {self.context}")
        return self


class MeshConfig(Config):
    """Devices along each axis of the mesh; their product is the number of devices."""

    data: PositiveInt = Field(default=1, description="Devices along the batch.")
    fsdp: PositiveInt = Field(default=1, description="Devices that share each weight, gathered on use.")
    tensor: PositiveInt = Field(default=1, description="Devices that split heads and hidden features.")
    expert: PositiveInt = Field(default=1, description="Devices that split experts.")


class ThoughtsConfig(Config):
    """How the thinking is marked in conversations that `synthesize` did not write."""

    open: str = Field(default="<think>", description="Opens the thinking; may be absent.")
    marker: str = Field(default="</think>", min_length=1, description="Ends the thinking.")


class ChatApiConfig(Config):
    """A server with the chat API of OpenAI, and how it is asked."""

    url: str = Field(description="Base of the API, e.g. http://localhost:8000/v1.")
    model: str = Field(min_length=1, description="Name of the model there.")
    key_env: str | None = Field(default=None, description="Environment variable that holds the key; null: no key.")
    extra: dict[str, Any] = Field(
        default={}, description="More fields of each request, e.g. {chat_template_kwargs: {enable_thinking: false}}."
    )
    concurrency: PositiveInt = Field(default=8, description="Requests at the same time.")
    timeout: float = Field(default=120.0, gt=0, description="Seconds to wait for the server.")
    retries: int = Field(default=5, ge=0, description="Further attempts where the server fails or is busy.")
    backoff: float = Field(
        default=1.0, gt=0, description="Seconds before the second attempt; doubled each time, at most 60."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("should be a URL such as http://localhost:8000/v1")
        if parts.username or parts.password:
            raise ValueError("must not hold a name or password: name the variable that holds the key as key_env")
        return value.rstrip("/")


class Columns(Config):
    """Names of the input fields, where detection is not wanted; null: detected."""

    prompt: str | None = Field(default=None, description="Field that holds the prompt: a string or a list of messages.")
    id: str | None = Field(default=None, description="Field that holds the id.")


class TraceRunConfig(Config):
    """The last keys of `synthesize` and `sample`: on what a run goes, which problems it reads, and where it writes."""

    engine: EngineConfig = EngineConfig()
    mesh: MeshConfig = MeshConfig()
    input: LocatedOrStored = Field(description="Problems: .jsonl, .jsonl.gz, .parquet, a dataset's folder, or a URL.")
    columns: Columns | None = Field(default=None, description="Names of the input fields; null: detected per row.")
    output: RunPath = Field(description="Run directory or its URL; created, or resumed where it exists.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of all sampling.")
    samples: PositiveInt = Field(default=1, description="Traces per problem.")
    limit: PositiveInt | None = Field(default=None, description="Stop after this many problems; null: all.")

    def texts(self, problems: int) -> int:
        """Texts, of thinking and answer, that a run writes for so many problems at most."""
        return problems * self.samples
