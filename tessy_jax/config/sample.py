"""The configuration of `sample`."""

from pydantic import Field, PositiveInt

from tessy_jax.config.schema import Located, OutputPath
from tessy_jax.config.sections import Budgets, Columns, EngineConfig, MeshConfig, RoleConfig


class SampleBudgets(Budgets):
    """Limits of one text."""

    max_answer_tokens: PositiveInt = Field(
        default=1, description="Tokens of the answer; predictors are trained on the thinking alone."
    )
    k: PositiveInt = Field(default=20, description="Tokens generated per turn; no word depends on it.")


class SampleConfig(RoleConfig):
    """Everything `python -m tessy_jax.sample` needs to know: a model, how it writes, and how much."""

    budgets: SampleBudgets = SampleBudgets()
    engine: EngineConfig = EngineConfig()
    mesh: MeshConfig = MeshConfig()
    input: Located = Field(description="Problems: .jsonl, .jsonl.gz, .parquet or a folder of a dataset.")
    columns: Columns | None = Field(default=None, description="Names of the input fields; null: detected per row.")
    output: OutputPath = Field(description="Run directory; created, or resumed where it exists.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of all sampling.")
    samples: PositiveInt = Field(default=1, description="Texts per problem.")
    limit: PositiveInt | None = Field(default=None, description="Stop after this many problems; null: all.")
