"""Ctrl-C and SIGTERM end every command with one line and exit code 130, whatever it is doing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import ROOT


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C is heard in the processes that tests start, even where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


AT_IMPORT = """
import os, sys

class SignalAtImport:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, SignalAtImport())
"""
SIGNAL = f"import os\nos.kill(os.getpid(), {int(signal.SIGINT)})\n"
INTERRUPTED = "interrupted; the same command goes on from here\n"


def run_as_command(body: str) -> subprocess.CompletedProcess[str]:
    """A command that executes `body`, in a process that is its own."""
    code = "import sys\nfrom tessy_jax.console import app, stopping\nstopping.leave_at_once()\n"
    code += f"run = lambda *_: exec({body!r}, {{}}) or 0\n"
    code += "sys.exit(app.Command(name='x', description='', options=(), run=run)([]))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("module", "number", "said"),
    [
        ("tessy_jax.synthesize", signal.SIGINT, "interrupted\n"),  # nothing but the package itself is imported yet
        ("pydantic", signal.SIGINT, "interrupted\n"),
        ("rich.console", signal.SIGTERM, "interrupted\n"),
        ("jax._src.core", signal.SIGINT, INTERRUPTED),
        ("jaxlib.cpu_feature_guard", signal.SIGTERM, INTERRUPTED),
        ("transformers", signal.SIGINT, INTERRUPTED),
    ],
)
def test_while_a_command_imports(tmp_path: Path, module: str, number: int, said: str):
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT.format(module=module, number=int(number)))
    process = subprocess.run(
        [sys.executable, "-m", "tessy_jax.synthesize", "--dry-run"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
    )
    assert (process.returncode, process.stdout, process.stderr) == (130, "", said)


@pytest.mark.parametrize(
    "body",
    [
        f"try:\n  exec({SIGNAL!r})\nexcept KeyboardInterrupt:\n  raise ImportError('numpy is broken')",
        f"try:\n  exec({SIGNAL!r})\nfinally:\n  raise OSError('half written')",
        f"import os\nos.kill(os.getpid(), {int(signal.SIGTERM)})",
    ],
    ids=["another error in its place", "an error while it leaves", "SIGTERM"],
)
def test_while_a_command_runs(body):
    process = run_as_command(body)
    assert (process.returncode, process.stderr) == (130, INTERRUPTED)


def test_in_a_destructor_where_python_loses_it():
    process = run_as_command(f"class Lost:\n  def __del__(self):\n    exec({SIGNAL!r})\nLost()\nprint('goes on')")
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "interrupted\n")


def test_while_a_thread_computes():
    """The process does not wait for it."""
    process = run_as_command(
        f"import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n{SIGNAL}"
    )
    assert (process.returncode, process.stderr) == (130, INTERRUPTED)


def test_while_the_main_thread_computes_without_python():
    """As in XLA: here the C library sleeps, and takes no notice of a signal that another thread receives."""
    body = "import ctypes, os, signal, threading\n"
    body += f"threading.Timer(0.2, os.kill, (os.getpid(), {int(signal.SIGINT)})).start()\n"
    body += f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(signal.SIGINT)}])\nctypes.CDLL(None).sleep(60)"
    process = run_as_command(body)
    assert (process.returncode, process.stderr) == (130, "interrupted\n")


def test_a_long_farewell_is_not_cut_short():
    process = run_as_command(f"import time\ntry:\n  exec({SIGNAL!r})\nfinally:\n  time.sleep(2.5)\n  print('removed')")
    assert (process.returncode, process.stdout, process.stderr) == (130, "removed\n", INTERRUPTED)


def test_a_second_signal_leaves_at_once():
    process = run_as_command(f"try:\n  exec({SIGNAL!r})\nfinally:\n  exec({SIGNAL!r})\n  print('not reached')")
    assert (process.returncode, process.stdout) == (130, "")


def test_what_is_switched_off_stays_so():
    """`nohup`, or `&` in a script."""
    body = f"import signal\nassert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n{SIGNAL}print('goes on')"
    code = "import signal, subprocess, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += f"from tests.console.test_stopping import run_as_command\nprint(run_as_command({body!r}).stdout)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.strip() == "goes on", process.stderr


def test_a_program_that_imports_the_package_keeps_its_handlers():
    code = "import signal, tessy_jax\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
