"""What the processes of a pod or cluster need of each other. All of them must make the same calls in the same order;
in a single process each returns at once.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Shaped

from tessy_jax.devices import pod
from tessy_jax.errors import ConfigError, UserError

log = logging.getLogger(__name__)

LEAST_TIMEOUT = 10
"""Seconds: a process is heard of every few."""

_JAX_LATER = 30
"""Seconds by which JAX waits longer for a process that is not heard of than we do."""

COMING = 300
"""Seconds that a process waits for the others when it starts."""

_SETTINGS = "tessy_jax/settings"


class PodError(UserError, RuntimeError):
    """The processes of a pod did not come together."""


def initialize(timeout: int, settings: Mapping[str, Any]) -> None:
    """Joins the other processes of the TPU pod, Slurm job or MPI run that this one belongs to: `--pod`.

    Must come before the first use of a device. From then on `jax.devices()` are those of all processes.

    Args:
        timeout: seconds after which this process ends, with a message and exit code 1, when another one is not heard
            of, for without it nothing can go on. A process is heard of while it compiles or computes, too.
        settings: what must be the same in all processes, by name.

    Raises:
        ConfigError: the timeout is too short, or this process has other settings than the first.
        PodError: this process belongs to no pod, or the others did not come.
    """
    if timeout < LEAST_TIMEOUT:
        raise ConfigError(f"--pod-timeout {timeout}: give at least {LEAST_TIMEOUT} seconds")
    watched = _can_watch()
    later = _JAX_LATER if watched else 0
    absent = f"--pod: the other processes did not come within {COMING} s: start all of them, each with --pod"
    try:
        with pod.ended_after(COMING, absent):
            jax.distributed.initialize(
                heartbeat_timeout_seconds=timeout + later, initialization_timeout=COMING + _JAX_LATER
            )
    except ValueError as error:
        raise PodError(
            f"--pod: this process is not told of a pod ({error}): start it on a TPU pod, by srun or by mpirun "
            "(docs/pods.md)"
        ) from error
    except RuntimeError as error:
        raise PodError(f"--pod: the processes did not come together: {' '.join(str(error).split())[:300]}") from error
    if watched:
        from jax._src.distributed import global_state as known

        client: Any = known.client
        pod.join(pod.Member(client, known.process_id, known.num_processes, timeout, known.coordinator_address))
        _compare(client, known.process_id, known.num_processes, {"jax": jax.__version__, **settings})


def _can_watch() -> bool:
    """Whether JAX has what we watch by, for which it has no public name; else it watches alone, as it does it."""
    try:
        from jax._src.distributed import global_state
        from jax._src.lib import _jax

        wanted = ("key_value_set", "key_value_dir_get", "blocking_key_value_get")
        known = ("client", "process_id", "num_processes", "coordinator_address")
        found = all(hasattr(_jax.DistributedRuntimeClient, name) for name in wanted)
        found = found and all(hasattr(global_state, name) for name in known)
    except (ImportError, AttributeError):
        found = False
    if not found:
        log.debug("jax %s: a process whose neighbour is gone is ended by JAX", jax.__version__)
    return found


def _compare(client: Any, index: int, count: int, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError, which names every difference, where the first process has other settings."""
    ours = dict(_flat(settings))
    if not index:
        client.key_value_set(_SETTINGS, json.dumps(ours), allow_overwrite=True)
        return
    theirs = json.loads(client.blocking_key_value_get(_SETTINGS, 1000 * COMING))
    lines = [
        f"  {name}: {theirs.get(name, 'absent')} there, {ours.get(name, 'absent')} here"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if lines:
        told = "\n".join(lines)
        raise ConfigError(
            f"process {index} of {count} (counted from 0) was started otherwise than process 0:\n{told}\n"
            "start the same command in all of them"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value, ensure_ascii=False)


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
