"""Boxes: what they are limited to, what is left of them, and what happens when the judge itself is ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tessy_jax.evals.sandbox import BoxLimits, Job, Outcome, Sandbox
from tests.kit import ROOT

PYTHON = ("/usr/bin/python3", "-s", "-B", "/box/main.py")
LIMITS = BoxLimits(cpu_seconds=3, wall_seconds=20, address_mib=512, stack_mib=8, output_bytes=1 << 16)


def job(source: str, **changes: object) -> Job:
    return replace(Job(PYTHON, LIMITS, {"/box/main.py": source.encode()}), **changes)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.open(2) as opened:
        yield opened


def children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def descendants(pid: int) -> set[int]:
    try:
        below = set(children(pid))
    except FileNotFoundError:  # it has just ended
        return set()
    return below.union(*(descendants(child) for child in below))


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_input_output_and_result_are_bytes(sandbox: Sandbox):
    source = "import os, sys\ndata = sys.stdin.buffer.read()\nos.write(1, data[::-1])\nos.write(2, b'\\xff')\n"
    outcome = sandbox.run(
        job(source + "os.write(int(sys.argv[1]), b'\\0x')\nos._exit(7)", stdin=b"ab\0\xfe", result=True)
    )
    assert (outcome.stdout, outcome.stderr, outcome.result) == (b"\xfe\0ba", b"\xff", b"\0x")
    assert (outcome.exit_code, outcome.stopped, outcome.failure) == (7, "", "")


def test_large_input_that_is_not_read_stops_nothing(sandbox: Sandbox):
    outcome = sandbox.run(job("print(1)", stdin=bytes(8 << 20)))
    assert outcome.stdout == b"1\n"


def test_output_is_kept_up_to_its_limit(sandbox: Sandbox):
    whole = sandbox.run(job("print('x' * 65535)"))
    assert (len(whole.stdout), whole.stopped) == (65536, "")
    more = sandbox.run(job("import os\nos.write(1, b'x' * 65537)"))
    assert (len(more.stdout) <= 65536, more.stopped) == (True, "output")
    said = sandbox.run(job("import sys\nprint('a' * 9000 + 'end', file=sys.stderr)"))
    assert (len(said.stderr), said.stderr[-4:]) == (4000, b"end\n")


def test_exit_codes_of_signals(sandbox: Sandbox):
    for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM):
        assert sandbox.run(job(f"import os\nos.kill(os.getpid(), {int(number)})")).exit_code == 128 + number


def test_nothing_is_left(sandbox: Sandbox):
    """Of programs that end, are ended, or leave children behind: processes, descriptors, folders."""
    sandbox.run(job("print(1)"))
    descriptors, kept = len(os.listdir("/proc/self/fd")), descendants(os.getpid())
    daemon = "import os, time\nfor _ in range(2):\n    if not os.fork():\n        os.setsid()\n        time.sleep(99)\n"
    loud, short = "while True: print('x' * 999)", replace(LIMITS, wall_seconds=0.5)
    for source, limits in ((daemon, LIMITS), (daemon + "time.sleep(99)", short), (loud, LIMITS)):
        sandbox.run(job(source, limits=limits))
    assert descendants(os.getpid()) == kept
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert {slot.uid for slot in sandbox._slots}.isdisjoint(entry.stat().st_uid for entry in Path("/tmp").iterdir())


def test_alone_means_that_nothing_else_runs(sandbox: Sandbox):
    spans: list[tuple[float, float, bool]] = []
    source = "import time\nprint(time.monotonic())\ntime.sleep(0.2)\nprint(time.monotonic())"

    def run(alone: bool) -> None:
        begin, end = map(float, sandbox.run(job(source), alone=alone).stdout.split())
        spans.append((begin, end, alone))

    threads = [threading.Thread(target=run, args=(number % 3 == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spans) == 6
    lone = [span for span in spans if span[2]]
    for one in lone:
        for other in spans:
            assert other is one or other[1] <= one[0] or one[1] <= other[0]


def test_a_keeper_that_is_killed_is_replaced(sandbox: Sandbox):
    """What ran in its box says nothing, and the next program runs."""
    slot = sandbox._slots[-1]
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(slot.run(job("import time\ntime.sleep(99)"))))
    slot.run(job("print(1)"))
    assert slot._keeper
    thread.start()
    wait_until(lambda: len(children(slot._keeper.pid)) > 0)
    os.kill(slot._keeper.pid, signal.SIGKILL)
    thread.join()
    assert outcomes[0].failure == "the sandbox failed: the process that starts programs was lost"
    assert slot.run(job("print(2)")).stdout == b"2\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_boxes_end_with_the_judge(number: int):
    """However it ends: its keepers see that it is gone, and kill what they keep."""
    source = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
sys.path.insert(0, {str(ROOT)!r})
from tests.evals.sandbox.test_sandbox import LIMITS, Sandbox, job, replace
with Sandbox.open(1) as sandbox:
    print("open", flush=True)
    sandbox.run(job("import time; time.sleep(99)", limits=replace(LIMITS, wall_seconds=99)))
"""
    judge = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with judge:
        try:
            assert judge.stdout
            assert judge.stdout.readline() == b"open\n"
            wait_until(lambda: len(descendants(judge.pid)) >= 4)  # a keeper, bubblewrap twice, the program
            running = descendants(judge.pid)
            judge.send_signal(number)
            judge.wait(20)
            wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running))
        finally:
            judge.kill()


def test_closing_ends_what_runs():
    with Sandbox.open(1) as sandbox:
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.append(sandbox.run(job("import time\ntime.sleep(99)"))))
        thread.start()
        keeper = sandbox._slots[0]._keeper
        assert keeper
        wait_until(lambda: len(children(keeper.pid)) > 0)
    thread.join(5)
    assert outcomes[0].failure == "the sandbox failed: the process that starts programs was lost"
    assert sandbox.run(job("print(1)")).failure == "the sandbox is closed"
    assert not Path(f"/proc/{keeper.pid}").exists()
