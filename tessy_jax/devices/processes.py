"""Several processes that run one program: join them, gather what each has, wait for all."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Shaped


def initialize() -> None:
    """Joins the other processes of a TPU pod or cluster, whose environment says where they are."""
    jax.distributed.initialize()


def everywhere(local: Shaped[np.ndarray, "N *more"]) -> Shaped[np.ndarray, "M *more"]:
    """`local` of every process, one after the other: what the host decides by it is the same on all of them."""
    if jax.process_count() == 1:
        return local
    return np.asarray(multihost_utils.process_allgather(local)).reshape(-1, *local.shape[1:])


def anywhere(here: bool) -> bool:
    """Whether it holds on any process; all of them must ask."""
    return bool(everywhere(np.array([here])).any())


def barrier(name: str) -> None:
    """Waits until all processes are here; `name` is the same on all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
