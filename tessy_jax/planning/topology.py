"""Machines that need not be there: TPU slices that the compiler knows, and this machine's own devices."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from tessy_jax.config.sections import MeshConfig
from tessy_jax.devices.jax_settings import WITHOUT_A_TPU
from tessy_jax.devices.mesh import AXES, asked, lay_out, shape_of
from tessy_jax.errors import ConfigError, UserError


class PlanError(UserError, RuntimeError):
    """A plan that cannot be made; the message is meant for the user."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip has.

    Attributes:
        memory: GiB that the compiler lets a program use; nominally a little more.
        bandwidth: of its memory, 1e9 bytes per second.
        peak: dense bfloat16 operations, 1e12 per second.
    """

    memory: float
    bandwidth: float
    peak: float


CHIPS = {
    "v5e": Chip(memory=15.75, bandwidth=819, peak=197),
    "v5p": Chip(memory=95.74, bandwidth=2765, peak=459),
    "v6e": Chip(memory=31.25, bandwidth=1640, peak=918),
}
"""`memory` is what libtpu 0.0.42 names as available when a program is too large (nominal: 16, 95 and 32 GiB); the other
two are Google's, https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e ("HBM bandwidth per chip", "peak compute").
"""
_NAME = re.compile(r"(v\w+):(\d+(?:x\d+)+)")


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice.

    Attributes:
        name: as the user gave it.
        size: its chips; for "cpu" this machine's devices, of which a mesh may leave some unused.
        chip: facts; None for "cpu", where nothing is known.
    """

    name: str
    size: int
    chip: Chip | None

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """Reads "v5p:2x2x4" or "cpu". ConfigError for anything else."""
        if name == "cpu":
            return cls(name, jax.device_count("cpu"), None)
        found = _NAME.fullmatch(name)
        if not found or found[1] not in CHIPS:
            raise ConfigError(
                f"--topology '{name}' is not known; give cpu, or one of {', '.join(CHIPS)} with its chips, "
                "for example v5e:16x16, v5p:2x2x4 or v6e:2x4"
            )
        return cls(name, math.prod(map(int, found[2].split("x"))), CHIPS[found[1]])

    def check(self, mesh: MeshConfig) -> None:
        """ConfigError unless the mesh uses all chips (on "cpu": no more than there are)."""
        needed = math.prod(shape_of(mesh))
        if needed == self.size or (self.chip is None and needed < self.size):
            return
        raise ConfigError(
            f"mesh: {asked(mesh)} is {needed} devices, {self.name} has {self.size}; {self._offer(mesh, needed)}"
        )

    def _offer(self, mesh: MeshConfig, needed: int) -> str:
        sizes = zip(AXES, shape_of(mesh), strict=True)
        fitting = [
            f"mesh.{axis}={self.size * size // needed}" for axis, size in sizes if self.size * size % needed == 0
        ]
        if not fitting:
            return f"choose axes whose product is {self.size}"
        return f"change one axis: {' or '.join(fitting)}"

    def mesh(self, config: MeshConfig) -> Mesh:
        """The configuration's mesh on this slice.

        Raises:
            ConfigError: it has another number of devices. PlanError: libtpu is not installed, or refuses the slice.
        """
        self.check(config)
        return lay_out(config, self._devices()[: math.prod(shape_of(config))])

    def _devices(self) -> Sequence[jax.Device]:
        if self.chip is None:
            return jax.devices("cpu")
        if importlib.util.find_spec("libtpu") is None:
            raise PlanError(
                f"compiling for {self.name} needs libtpu, which is not installed: pip install 'tessy_jax[tpu]' "
                "(no TPU is needed)"
            )
        for name, value in WITHOUT_A_TPU.items():
            os.environ.setdefault(name, value)
        from jax.experimental import topologies

        try:
            return topologies.get_topology_desc(self.name, platform="tpu").devices
        except jax.errors.JaxRuntimeError as error:
            raise PlanError(f"--topology {self.name}: libtpu refuses it: {error}") from None
