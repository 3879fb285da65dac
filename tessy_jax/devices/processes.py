"""What the processes of a pod or cluster need of each other. All of them must make the same calls in the same order;
in a single process each returns at once.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Shaped

from tessy_jax.errors import ConfigError

LEAST_TIMEOUT = 10
"""Seconds: a process is heard of every few."""


def initialize(timeout: int) -> None:
    """Joins the other processes of the TPU pod, Slurm job or MPI run that this one belongs to: `--pod`.

    Must come before the first use of a device. From then on `jax.devices()` are those of all processes.

    Args:
        timeout: seconds after which JAX ends this process (signal 6) when another one is not heard of, for without it
            nothing can go on. A process is heard of while it compiles or computes, too.

    Raises:
        ConfigError: the timeout is too short.
    """
    if timeout < LEAST_TIMEOUT:
        raise ConfigError(f"--pod-timeout {timeout}: give at least {LEAST_TIMEOUT} seconds")
    jax.distributed.initialize(heartbeat_timeout_seconds=timeout)


def everywhere(local: Shaped[np.ndarray, "B *rest"]) -> Shaped[np.ndarray, "A *rest"]:
    """The host array of every process, one after the other in the order of the processes, on all of them.

    `everywhere([1, 2])` in the first and `everywhere([3, 4])` in the second process give `[1, 2, 3, 4]` in both.
    """
    if jax.process_count() == 1:
        return local
    return np.asarray(multihost_utils.process_allgather(local)).reshape(-1, *local.shape[1:])


def anywhere(here: bool) -> bool:
    """Whether it is true in any process."""
    return bool(everywhere(np.array([here])).any())


def barrier(name: str) -> None:
    """Returns when all processes have come here; `name` is the place, for JAX's message where they differ."""
    multihost_utils.sync_global_devices(name)
