"""The configuration of `synthesize`, of which the other commands share parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tessy_jax.config.schema import Config, Located, OutputPath, load_as
from tessy_jax.config.sections import Budgets, Columns, EngineConfig, MeshConfig, RoleConfig


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


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> SynthesisConfig:
    """The configuration of a YAML file, with overrides such as `engine.batch=8` replacing values or whole sections.

    Raises:
      ConfigError: the file cannot be read, or a key or value is wrong. Every problem is named, one per line.
    """
    return load_as(SynthesisConfig, Path(path), overrides)
