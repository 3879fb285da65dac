"""The demo's real weights, for tests: TESSY_DEMO_WEIGHTS, or .cache/demo, prepared where they are absent."""

import os
from pathlib import Path

import pytest

from tessy_jax.demo import prepare


@pytest.fixture(scope="session")
def demo_weights() -> Path:
    """The folder that holds smollm2-135m-instruct/ and gemma3-270m/."""
    directory = Path(os.environ.get("TESSY_DEMO_WEIGHTS", Path(__file__).parent.parent / ".cache" / "demo"))
    prepare(directory)
    return directory
