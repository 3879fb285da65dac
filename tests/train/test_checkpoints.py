"""A checkpoint that cannot be written: one message, and the one before it stays."""

import errno
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from tessy_jax.train.checkpoints import CheckpointError, DiskCheckpoints
from tessy_jax.train.step import TrainState

CHAIN = (
    "RESOURCE_EXHAUSTED: Error writing 'params/0' in OCDBT database at local file '/very/long': Failed writing: "
    f"{'/very/long' * 40}: Failed to write 3010560 bytes to file 4: No space left on device [os_error_code='28']"
)


def state(step: int) -> TrainState:
    return TrainState(jnp.int32(step), {"a": jnp.full(3, step, jnp.float32)}, {"m": jnp.zeros(3)}, {})


@pytest.mark.parametrize("error", [ValueError(CHAIN), OSError(errno.ENOSPC, "anything")])
def test_a_full_disk_is_named_and_the_checkpoint_before_it_stays(tmp_path, monkeypatch, error):
    hook = sys.excepthook
    with DiskCheckpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state(1), {"at": 1}, None)
        checkpoints.wait()

        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(CheckpointError) as found:
            checkpoints.save(2, state(2), {"at": 2}, None)
    assert str(found.value) == (
        f"cannot write the checkpoint of step 2 to {tmp_path}: No space left on device (free some); "
        "earlier checkpoints are as they were; repair this and run the same command again"
    )
    assert sys.excepthook is hook
    with DiskCheckpoints(tmp_path) as checkpoints:
        found_state, data = checkpoints.restore(1, state(0))
    assert (data, np.asarray(found_state.params["a"]).tolist()) == ({"at": 1}, [1, 1, 1])
