"""Commands in processes of their own, and some that signal themselves on their way: whatever the machine is doing, they
have begun then and not ended.

`python -m tests.kit.process SIGKILL tessy_jax.devices.processes:anywhere 5 0.03 tessy_jax.sft config.yaml` is
`python -m tessy_jax.sft config.yaml`, killed 0.03 seconds after its fifth call of `anywhere` began: it is
in its fifth step or behind it.
"""

import importlib
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import reduce
from typing import Any

STEP = "tessy_jax.devices.processes:anywhere"
"""Called once in every step of a training."""

DISPATCH = "tessy_jax.data.run_rows:RunDir.write_journal"
"""Called once in every dispatch of `synthesize`, and of the model that `evaluate` asks."""


def start(*command: object, **environment: str) -> subprocess.Popen[str]:
    """What follows `python`, with these variables besides; its messages come through `stderr`."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(command: subprocess.Popen[str], words: str) -> None:
    """Returns when it has said so."""
    assert command.stderr
    while words not in (line := command.stderr.readline()):
        assert line, f"the process ended without saying '{words}'"


def signalled(number: signal.Signals, function: str, call: int, delay: float, module: str, *more: object) -> list[str]:
    """What follows `python`: the module's command, with this signal so long after a call of a function began.

    Args:
        call: which, from 1.
        delay: seconds. If 0, the function runs when the signal is sent; else, no later call begins until then.
    """
    return ["-m", "tests.kit.process", number.name, function, str(call), str(delay), module, *map(str, more)]


def signal_after(number: signal.Signals, call: int, delay: float, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose call of this number starts the clock."""
    calls, sent = 0, threading.Event()

    def send() -> None:
        print(f"sending itself {number.name}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), number)
        sent.set()

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > call:
            sent.wait()
        if calls == call and delay:
            threading.Timer(delay, send).start()
        elif calls == call:
            send()
        return function(*arguments, **named)

    return counted


def main() -> None:
    name, function, call, delay, module, *more = sys.argv[1:]
    place, _, path = function.partition(":")
    *owners, last = path.split(".")
    owner = reduce(getattr, owners, importlib.import_module(place))
    setattr(owner, last, signal_after(signal.Signals[name], int(call), float(delay), getattr(owner, last)))
    sys.argv = [module, *more]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
