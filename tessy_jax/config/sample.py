"""The configuration of `sample`."""

from pydantic import Field, PositiveInt

from tessy_jax.config.sections import Budgets, RoleConfig, TraceRunConfig


class SampleBudgets(Budgets):
    """Limits of one text."""

    max_answer_tokens: PositiveInt = Field(
        default=1, description="Tokens of the answer; predictors are trained on the thinking alone."
    )
    k: PositiveInt = Field(default=20, description="Tokens generated per turn; no word depends on it.")


class SoloConfig(RoleConfig):
    """Who writes, and how much."""

    budgets: SampleBudgets = SampleBudgets()


class SampleConfig(TraceRunConfig, SoloConfig):
    """Everything `python -m tessy_jax.sample` needs to know. The keys of the model come first."""

    samples: PositiveInt = Field(default=1, description="Texts per problem.")
