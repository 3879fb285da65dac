"""For every test: eight virtual devices, set before JAX starts; one thread for torch; one folder of compiled programs;
shapes and dtypes checked; fewer garbage collections; the demo's weights; Ctrl-C.
"""

import atexit
import gc
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# torch's threads wait for each other actively: with two test processes on two cores, an oracle took 34 s instead of 5.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The user's folder of caches stays as it is.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="caches-")

# What one test has compiled no other compiles again: in this process, in the commands that it starts, in the other test
# process, and in the next run of the tests.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".cache" / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.kit import ROOT, shapes

shapes.install()  # before the package is imported
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

from tessy_jax.console import interrupt as interrupts  # noqa: E402
from tessy_jax.devices.cache_files import keep_whole_files  # noqa: E402
from tessy_jax.devices.host_callbacks import keep_programs_with_callbacks  # noqa: E402
from tessy_jax.models.gguf.packages import prepare  # noqa: E402

keep_programs_with_callbacks()
keep_whole_files()

# Tracing makes many objects that live on. Looking through them all again and again took an eighth of a test's time.
gc.freeze()
gc.set_threshold(50_000, 20, 50)


LONG = ("train/test_step.py", "cooperate/test_oracle.py", "train/test_predictor.py", "text/test_retokenize.py")
"""Files of minutes that would otherwise begin last, when the other test process has nothing left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))


@pytest.fixture(autouse=True)
def folder_of_compiled_programs() -> Iterator[None]:
    """A command in this process may have named another one, or none."""
    yield
    if jax.config.jax_compilation_cache_dir != os.environ["JAX_COMPILATION_CACHE_DIR"]:
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
        compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def demo_weights() -> Path:
    """The folder that holds smollm2-135m-instruct/ and gemma3-270m/: TESSY_DEMO_WEIGHTS, or .cache/demo, prepared where
    they are absent.
    """
    directory = Path(os.environ.get("TESSY_DEMO_WEIGHTS", ROOT / ".cache" / "demo"))
    prepare(directory)
    return directory


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """interrupt(number=SIGINT) signals this process, and returns when the command has said that it will stop."""
    said, say = threading.Event(), interrupts.say

    def heard(console: object, message: str, style: str | None = None) -> None:
        say(console, message, style)
        if message.startswith("stopping after"):
            said.set()

    def send(number: int = signal.SIGINT) -> None:
        signal.raise_signal(number)
        assert said.wait(timeout=60), "the signal was not noticed"

    monkeypatch.setattr(interrupts, "say", heard)
    return send
