"""The device mesh of a run."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from tessy_jax.config.sections import MeshConfig
from tessy_jax.errors import ConfigError

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
    needed, there = math.prod(shape_of(config)), jax.device_count()
    if needed > there:
        raise ConfigError(f"mesh: {asked(config)} needs {needed} devices, there are {there}; lower an axis of `mesh`")
    if jax.process_count() > 1 and needed != there:
        raise ConfigError(
            f"mesh: {asked(config)} uses {needed} of {there} devices; with several processes it must use all"
        )
    check_rows(config, batch, key)
    return None if needed == 1 else lay_out(config, jax.devices()[:needed])


def shape_of(config: MeshConfig) -> tuple[int, ...]:
    """Devices along each of `AXES`."""
    return tuple(getattr(config, axis) for axis in AXES)


def asked(config: MeshConfig) -> str:
    """The axes of the mesh that have more than one device, for messages."""
    sizes = zip(AXES, shape_of(config), strict=True)
    return " x ".join(f"{axis} {size}" for axis, size in sizes if size > 1) or "data 1"


def check_rows(config: MeshConfig, batch: int, key: str) -> None:
    """ConfigError unless the `batch` rows that the configuration names at `key` divide over `data` and `fsdp`."""
    ways = config.data * config.fsdp
    if batch % ways:
        raise ConfigError(
            f"mesh: {key} {batch} does not divide over data {config.data} x fsdp {config.fsdp}; "
            f"make it a multiple of {ways}"
        )


def lay_out(config: MeshConfig, devices: Sequence[jax.Device]) -> Mesh:
    """The mesh of a configuration over exactly these devices."""
    # Auto axes on purpose: jax.make_mesh makes Explicit ones by default, and the models name only what they must.
    return jax.make_mesh(shape_of(config), AXES, axis_types=(AxisType.Auto,) * 4, devices=devices)
