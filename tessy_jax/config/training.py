"""Sections that the commands which train have in common: data sources, optimizer, compute, checkpoints, report.

Their defaults are those of `sft`; `train_predictor` gives others where the paper does.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, Strict

from tessy_jax.config.compilation_cache import CompilationCache, not_given
from tessy_jax.config.schema import Config, LocatedOrStored


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Sources = Annotated[tuple[LocatedOrStored, ...], Strict(False), BeforeValidator(_one_or_more)]
"""Files and run directories: one path, or a list of them."""

Share = Annotated[float, Field(ge=0, lt=1)]
"""A part of a whole, which may be nothing and is never all."""

HeldOut = Annotated[float, Field(gt=0, lt=1)]
"""A part of a whole that is neither nothing nor all."""

MaxSteps = Annotated[PositiveInt | None, Field(description="Stop after this many steps; null: after epochs.")]


class OptimizerConfig(Config):
    """AdamW."""

    lr: PositiveFloat = Field(default=5e-5, description="Highest learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(default="cosine", description="After the warm-up.")
    warmup: Share = Field(default=0.03, description="Share of the steps in which the learning rate rises to lr.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled decay of matrices.")
    b1: Share = Field(default=0.9, description="Decay of the gradient's mean.")
    b2: Share = Field(default=0.999, description="Decay of the squared gradient's mean.")
    eps: PositiveFloat = Field(default=1e-8, description="Added to the root of the squared gradient's mean.")
    clip: PositiveFloat | None = Field(default=1.0, description="Largest norm of the gradient; null: any.")


class ComputeConfig(Config):
    """How a step is computed: precision against memory, memory against time."""

    dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="Of the weights' copy and the activations; masters and moments are float32."
    )
    remat: Literal["none", "block", "full"] = Field(
        default="block", description="Recompute in the backward pass: nothing, all but matrix products, or all."
    )
    attention: Literal["dense", "blocks"] = Field(
        default="blocks", description="blocks: no [length, length] array in memory; dense: one, faster for short rows."
    )
    loss_chunk: PositiveInt = Field(default=1024, description="Tokens whose logits are in memory at the same time.")
    compilation_cache: CompilationCache = Field(default_factory=not_given)


class CheckpointConfig(Config):
    """When a run is saved, and which checkpoints stay."""

    every: PositiveInt = Field(default=100, description="Steps between two checkpoints.")
    keep: PositiveInt = Field(default=2, description="Newest checkpoints to keep.")
    best: int = Field(default=1, ge=0, description="Checkpoints with the lowest held-out loss to keep besides.")


class ReportConfig(Config):
    """What is said of a run besides `metrics.jsonl`."""

    tensorboard: bool = Field(default=False, description="Write event files for TensorBoard too.")
    peak_tflops: PositiveFloat | None = Field(
        default=None, description="Peak of one device in the compute dtype, for the MFU; null: known for some devices."
    )
