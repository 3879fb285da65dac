"""Eight virtual devices for every test, set before JAX starts, one thread for torch, and the demo's real weights."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# torch's threads wait for each other actively: with two test processes on two cores, an oracle took 34 s instead of 5.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tessy_jax.demo import prepare


@pytest.fixture(scope="session")
def demo_weights() -> Path:
    """The folder that holds smollm2-135m-instruct/ and gemma3-270m/: TESSY_DEMO_WEIGHTS, or .cache/demo, prepared where
    they are absent.
    """
    directory = Path(os.environ.get("TESSY_DEMO_WEIGHTS", Path(__file__).parent.parent / ".cache" / "demo"))
    prepare(directory)
    return directory
