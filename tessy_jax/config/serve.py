"""The configuration of `serve`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, Strict

from tessy_jax.config.schema import Config, LocatedOrStored, load_as, read_yaml
from tessy_jax.config.sections import NO_THINKING, EngineConfig, MeshConfig, RoleConfig, SamplingConfig, buckets_field
from tessy_jax.config.synthesize import PairConfig, PaperCooperation, ScheduleName, SynthesisConfig


class ServeEngine(EngineConfig):
    """Looks at the rows often, so that streams flow."""

    context: PositiveInt = Field(default=4096, description="Cache slots (tokens) per row: prompt, thinking, answer.")
    # Each is compiled before the first request.
    prompt_buckets: Annotated[tuple[PositiveInt, ...], Strict(False)] = buckets_field([64, 512], "64 and 512")
    turns_per_dispatch: PositiveInt = Field(default=1, description="Turns of k tokens before clients get the text.")


class ServeSampling(SamplingConfig):
    """What a request gets that does not ask for anything else."""


class LimitsConfig(Config):
    """What is refused."""

    queue: int = Field(default=64, ge=0, description="Texts that wait for a slot at most; more are answered by 429.")
    body: PositiveInt = Field(default=4_000_000, description="Bytes of a request at most; larger ones: 413.")
    choices: PositiveInt = Field(default=64, description="Texts that one request may ask for: prompts times n.")


class ServerConfig(Config):
    """Where it listens, for whom, and what it refuses."""

    name: str | None = Field(default=None, min_length=1, description="Name for clients; null: that of the folder.")
    host: str = Field(default="127.0.0.1", min_length=1, description="Address; 0.0.0.0: for other machines too.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0: any that is free.")
    key_env: str | None = Field(default=None, description="Environment variable with the key clients must send.")
    key_file: LocatedOrStored | None = Field(
        default=None, description="File with that key; null, both: no key is asked for."
    )
    limits: LimitsConfig = LimitsConfig()


class ServeConfig(ServerConfig, RoleConfig):
    """Everything `python -m tessy_jax.serve` needs to know of one model."""

    thinks: bool | None = Field(
        default=None,
        description="Whether chat answers begin with thinking; null: where its end is a token of the vocabulary.",
    )
    max_think_tokens: PositiveInt | None = Field(
        default=None, description="Tokens after which thinking is ended and the answer begun; null: no such limit."
    )
    sampling: ServeSampling = ServeSampling()
    k: PositiveInt = Field(default=8, description="Tokens generated per turn; no text depends on it.")
    engine: ServeEngine = ServeEngine()
    mesh: MeshConfig = MeshConfig()

    def role(self, thinks: bool) -> RoleConfig:
        """The same as every command that opens a model has it."""
        values = {name: getattr(self, name) for name in RoleConfig.model_fields}
        sampling = SamplingConfig.model_validate(self.sampling.model_dump())
        thinking = self.thinking if thinks else NO_THINKING
        return RoleConfig.model_validate(values | {"thinking": thinking, "sampling": sampling})


class PairEngine(EngineConfig):
    """Looks at the rows often, so that streams flow."""

    turns_per_dispatch: PositiveInt = Field(default=1, description="Turns of k tokens before clients get the text.")


_OF_RUNS = ("seed", "input", "output", "columns", "samples", "limit", "keep_dropped", "keep_scores")
_UNREAD: Any = Field(default=None, description="Only `synthesize` reads it.")


class ServePairConfig(ServerConfig, PairConfig):
    """Everything that it needs to know of a pair that writes together: a configuration of `synthesize` will do."""

    method: Literal["tessy"] = Field(default="tessy", description="The only method that is served.")
    cooperation: PaperCooperation = Field(
        default=PaperCooperation(preset="paper"), description="Meaning of a trace, and its budgets."
    )
    schedule: ScheduleName | None = Field(default=None, description="As in synthesis; no text depends on it.")
    engine: PairEngine = PairEngine()
    mesh: MeshConfig = MeshConfig()
    seed: Any = _UNREAD
    input: Any = _UNREAD
    output: Any = _UNREAD
    columns: Any = _UNREAD
    samples: Any = _UNREAD
    limit: Any = _UNREAD
    keep_dropped: Any = _UNREAD
    keep_scores: Any = _UNREAD

    @property
    def unused(self) -> list[str]:
        """Keys that are given, and that mean something to runs only."""
        return [name for name in _OF_RUNS if name in self.model_fields_set]

    @property
    def synthesis(self) -> SynthesisConfig:
        """The same as `synthesize` has it, without problems."""
        shared = ("student", "teacher", "predictors", "cooperation", "schedule", "engine", "mesh")
        values = {name: getattr(self, name) for name in shared}
        return SynthesisConfig.model_validate(values | {"input": "none", "output": "none"})


def load_serve(file: Path, overrides: Sequence[str]) -> ServeConfig | ServePairConfig:
    """The configuration of a YAML file, which is of a pair where it names a teacher; or for a model: a checkpoint
    folder or a model hub id.

    Raises:
        ConfigError: see `load_as`.
    """
    if file.suffix in (".yaml", ".yml"):
        values = read_yaml(file)
        if "teacher" in values:
            return load_as(ServePairConfig, file, overrides, values)
        return load_as(ServeConfig, file, overrides, values)
    return load_as(ServeConfig, file, overrides, values={"model": str(file)})
