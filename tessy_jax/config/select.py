"""The configuration of `select`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, PositiveInt, model_validator

from tessy_jax.config.benchmarks import Benchmark
from tessy_jax.config.evaluate import JudgeConfig
from tessy_jax.config.schema import Config, LocatedOrStored, RunPath

ThinkFinish = Literal["end", "eos", "channel", "length", "loop"]
AnswerFinish = Literal["stop", "length"]


class FinishRule(Config):
    """How a record must have ended; null: as it likes."""

    think: tuple[ThinkFinish, ...] | None = Field(
        default=None, strict=False, min_length=1, description="How the thinking may have ended; null: however."
    )
    answer: tuple[AnswerFinish, ...] | None = Field(
        default=None, strict=False, min_length=1, description="How the answer may have ended; null: however."
    )


class TokensRule(Config):
    """How long a record may be: thinking and answer, in their authors' tokens."""

    min: PositiveInt | None = Field(default=None, description="Least tokens of a record; null: any.")
    max: PositiveInt | None = Field(default=None, description="Most tokens of a record; null: any.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"keeps nothing: min is {self.min}, and max is {self.max}")
        return self


class ScoreRule(Config):
    """A number that stands in a field of the record."""

    field: str = Field(default="score", min_length=1, description="Field of the record that holds its score.")
    min: float | None = Field(default=None, description="Least score; null: any.")


class SelectConfig(Config):
    """All that `python -m tessy_jax.select` needs to know."""

    input: tuple[LocatedOrStored, ...] = Field(
        default=(), strict=False, description="Runs of synthesize or sample, or files of their records."
    )
    output: RunPath = Field(description="Run directory or its URL; created, or resumed where it exists.")
    finish: FinishRule = FinishRule()
    tokens: TokensRule = TokensRule()
    score: ScoreRule = ScoreRule()
    correct: Benchmark | None = Field(
        default=None, description="Keep right answers only: the benchmark whose problems have the records' ids."
    )
    judge: JudgeConfig = JudgeConfig()
    n: PositiveInt | None = Field(default=None, description="Records kept per problem; null: all.")
    prefer: Literal["first", "shortest", "score"] = Field(
        default="first", description="Which of a problem's records are kept first; of equals the first."
    )


class Words(NamedTuple):
    """What stands on the command line: a configuration file, if there is one, and overrides."""

    file: str | None
    overrides: list[str]


def sort_words(words: Sequence[str], output: str | None) -> Words:
    """Tells runs, a configuration file and overrides apart: `runs/a runs/b n=1` is `n=1 input=["runs/a", "runs/b"]`."""
    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    files = [word for word in words if Path(word).suffix in (".yaml", ".yml")]
    runs = [word for word in words if word not in (*overrides, *files[:1])]
    overrides += [f"input={json.dumps(runs)}"] if runs else []
    return Words(files[0] if files else None, overrides + ([] if output is None else [f"output={json.dumps(output)}"]))
