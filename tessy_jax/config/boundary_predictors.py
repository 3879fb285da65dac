"""The sections of a configuration that name boundary predictors, one class a kind.

The kinds that come with the package have their sections here, so that `--help` imports no model code. A kind from
elsewhere brings a section of its own: see `predictors.registry.register`.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tessy_jax.config.schema import Config, LocatedOrStored


class PredictorConfig(Config):
    """What the section of every kind has: `kind`, a literal, tells it from the others."""

    kind: str


class CheckpointPredictor(PredictorConfig):
    """A token classifier with two labels (1: style, 0: capability)."""

    kind: Literal["checkpoint"] = Field(description="A token-classification checkpoint.")
    model: LocatedOrStored = Field(description="Checkpoint folder, its URL, or a model hub id.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="P(style) from which a token counts as style.")
    shift: Literal[0, 1] = Field(
        default=1, description="A token's prediction stands at: 1: the token before; 0: itself."
    )
    block: PositiveInt = Field(default=128, description="Context block in tokens (preset paper); two are seen.")


class UnigramPredictor(PredictorConfig):
    """A table of P(style | token), without context."""

    kind: Literal["unigram"] = Field(description="A table of P(style | token).")
    table: LocatedOrStored = Field(description="File of the table.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="P(style) from which a token counts as style.")


class ProbePredictor(PredictorConfig):
    """A linear predictor on the writing model's own hidden states; see `train_probe`."""

    kind: Literal["probe"] = Field(description="A linear predictor on the writing model's own hidden states.")
    model: LocatedOrStored = Field(description="Folder that train_probe wrote.")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="P(style) from which a token counts as style; null: the probe's own."
    )


AnyPredictor = Annotated[CheckpointPredictor | UnigramPredictor | ProbePredictor, Field(discriminator="kind")]


class PredictorsConfig(Config):
    student: AnyPredictor = Field(description="Judges the student's words: kept while they are style.")
    teacher: AnyPredictor = Field(description="Judges the teacher's words: kept while they are capability.")
