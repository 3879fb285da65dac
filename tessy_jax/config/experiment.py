"""The configuration of `experiment`: methods and seeds through synthesize, sft and evaluate."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, Strict, StringConstraints, ValidationInfo, field_validator, model_validator

from tessy_jax.config.methods import METHODS
from tessy_jax.config.schema import Config, LocatedOrStored, RunPath, nearest

BASE = "base"
"""What the student is called before training, in folders and tables."""

Overrides = Annotated[tuple[str, ...], Strict(False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
ArmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$")]
"""It is the name of a folder."""


class ArmConfig(Config):
    """A row of the table: what the student is trained on, and how."""

    method: str | None = Field(default=None, description="Method of synthesize that writes its data.")
    data: str | None = Field(default=None, description="Instead of method: the arm on whose data it trains.")
    synthesize: Overrides = Field(default=(), description="Overrides of synthesize, as on the command line.")
    sft: Overrides = Field(default=(), description="Overrides of sft.")

    @field_validator("method")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in METHODS.schemas:
            raise ValueError(f"names no method: '{name}'; {nearest(name, METHODS.schemas)}")
        return name

    @model_validator(mode="after")
    def _method_or_data(self) -> Self:
        if (self.method is None) == (self.data is None):
            raise ValueError("needs method (it writes data of its own) or data (an arm that does), one of the two")
        if self.data is not None and self.synthesize:
            raise ValueError(f"trains on the data of {self.data} and synthesizes nothing: leave synthesize out")
        return self


class ExperimentConfig(Config):
    """All that `python -m tessy_jax.experiment` needs to know."""

    synthesize: LocatedOrStored = Field(description="Configuration of synthesize for all arms; its method is not read.")
    sft: LocatedOrStored = Field(description="Configuration of sft; its model and data.train are not read.")
    evaluate: LocatedOrStored | None = Field(
        default=None, description="Configuration of evaluate; its model.model is not read; null: nothing is evaluated."
    )
    arms: dict[ArmName, ArmConfig] = Field(min_length=1, description="Rows of the table, by name.")
    control: str | None = Field(
        default=None, description="The arm that all others are compared with, besides the base model; null: none."
    )
    seeds: Annotated[tuple[Seed, ...], Strict(False)] = Field(
        default=(0,), min_length=1, description="Of every stage of every arm: one run each."
    )
    jobs: PositiveInt = Field(default=1, description="Stages at the same time; 1 on an accelerator.")
    output: RunPath = Field(description="Folder of the experiment or its URL; created, or resumed where it exists.")

    @field_validator("arms")
    @classmethod
    def _check_arms(cls, arms: dict[str, ArmConfig]) -> dict[str, ArmConfig]:
        folded: dict[str, str] = {}
        for name, arm in arms.items():
            if name.lower() == BASE:
                raise ValueError(f"has an arm '{name}': this is the name of the model before training")
            if (other := folded.setdefault(name.lower(), name)) != name:
                raise ValueError(f"has '{other}' and '{name}', whose folders some file systems do not tell apart")
            if arm.data is not None and arm.data not in arms:
                raise ValueError(f"has '{name}' whose data names no arm: '{arm.data}'; {nearest(arm.data, arms)}")
        for name in arms:
            chain = [name]
            while (source := arms[chain[-1]].data) is not None:
                if source in chain:
                    raise ValueError(f"has a cycle, in which no arm writes data: {' -> '.join([*chain, source])}")
                chain.append(source)
        return arms

    @field_validator("control")
    @classmethod
    def _check_control(cls, control: str | None, info: ValidationInfo) -> str | None:
        arms = info.data.get("arms", {control: None})  # where arms are wrong, that is what is said
        if control is not None and control not in arms:
            raise ValueError(f"names no arm: '{control}'; {nearest(control, arms)}")
        return control

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise ValueError(f"has {twice[0]} twice: the same seed gives the same run")
        return seeds

    def source(self, arm: str) -> str:
        """The arm whose data an arm trains on: itself, where it has a method."""
        while (source := self.arms[arm].data) is not None:
            arm = source
        return arm
