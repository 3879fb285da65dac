"""The configuration of `serve`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, Strict

from tessy_jax.config.schema import Config, Located, load_as
from tessy_jax.config.sections import NO_THINKING, EngineConfig, MeshConfig, RoleConfig, SamplingConfig, buckets_field


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


class ServeConfig(RoleConfig):
    """Everything `python -m tessy_jax.serve` needs to know."""

    name: str | None = Field(default=None, min_length=1, description="Name for clients; null: that of the folder.")
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
    host: str = Field(default="127.0.0.1", min_length=1, description="Address; 0.0.0.0: for other machines too.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0: any that is free.")
    key_env: str | None = Field(default=None, description="Environment variable with the key clients must send.")
    key_file: Located | None = Field(default=None, description="File with that key; null, both: no key is asked for.")
    limits: LimitsConfig = LimitsConfig()

    def role(self, thinks: bool) -> RoleConfig:
        """The same as every command that opens a model has it."""
        values = {name: getattr(self, name) for name in RoleConfig.model_fields}
        sampling = SamplingConfig.model_validate(self.sampling.model_dump())
        thinking = self.thinking if thinks else NO_THINKING
        return RoleConfig.model_validate(values | {"thinking": thinking, "sampling": sampling})


def load_serve(file: Path, overrides: Sequence[str]) -> ServeConfig:
    """The configuration of a YAML file, or for a model: a checkpoint folder or a model hub id.

    Raises:
        ConfigError: see `load_as`.
    """
    if file.suffix in (".yaml", ".yml"):
        return load_as(ServeConfig, file, overrides)
    return load_as(ServeConfig, file, overrides, values={"model": str(file)})
