"""The device mesh of a run."""

import math

import jax
from jax.sharding import AxisType, Mesh

from tessy_jax.config import ConfigError, MeshConfig

AXES = ("data", "fsdp", "tensor", "expert")


def make_mesh(config: MeshConfig, batch: int, key: str = "engine.batch") -> Mesh | None:
    """The mesh of a configuration, over the first devices it needs; None where one device is enough.

    Args:
      config: devices per axis.
      batch: rows that are split over `data` and `fsdp`.
      key: where the configuration says how many.

    Raises:
      ConfigError: there are fewer devices, some processes would have none, or the rows do not divide.
    """
    shape = tuple(getattr(config, axis) for axis in AXES)
    needed, there = math.prod(shape), jax.device_count()
    asked = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True) if size > 1) or "data 1"
    if needed > there:
        raise ConfigError(f"mesh: {asked} needs {needed} devices, there are {there}; lower an axis of `mesh`")
    if jax.process_count() > 1 and needed != there:
        raise ConfigError(f"mesh: {asked} uses {needed} of {there} devices; with several processes it must use all")
    ways = config.data * config.fsdp
    if batch % ways:
        raise ConfigError(
            f"mesh: {key} {batch} does not divide over data {config.data} x fsdp {config.fsdp}; "
            f"make it a multiple of {ways}"
        )
    if needed == 1:
        return None
    # Auto axes on purpose: jax.make_mesh makes Explicit ones by default, and the models name only what they must.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 4, devices=jax.devices()[:needed])
