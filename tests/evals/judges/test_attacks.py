"""Programs that attack the judge, the machine or the answers; each has the verdict that says that nothing came of it.

Most print "safe" where their attack failed in the way it should: their verdict is AC.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tessy_jax.evals.judges.code import CodeJudge
from tessy_jax.evals.records import Verdict
from tests.kit import ROOT
from tests.kit.judging import SLEEPY, SLOW, Row, faults, function_target, read_rows, stdin_target

ANSWER = "4711"
"""What the programs are after."""
safe, answer = stdin_target(("input", "safe")), stdin_target(("input", ANSWER))
TARGETS = {
    "safe": safe,
    "answer": answer,
    "slow": replace(answer, limits=SLOW),
    "sleepy": replace(answer, limits=SLEEPY),
    "cpp": stdin_target(("", "x"), language="cpp17"),
    "function": function_target("f", ("1", f'["{ANSWER}"]')),
    "number": function_target("f", ("1", ANSWER)),
    "five": function_target("f", ("1", "5")),
    "one": function_target("f", ("1", "1")),
    "true": function_target("f", ("1", "true")),
    "nan": function_target("f", ("1", "NaN")),
}
ATTACKS = read_rows(Path(__file__).with_name("attacks.txt"), TARGETS, ROOT=str(ROOT))
CALLS = {
    "ptrace": (101, 16, 1, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount": (166, 0, 0),
    "shared memory": (29, 0, 1 << 30, 0o1600),
    "keyctl": (250, 0, -3, 0, 0, 0),
    "unshare": (272, 0x10000000),
    "perf": (298, 0, 0, 0, 0, 0),
    "setns": (308, 0, 0),
    "memory of another process": (310, 1, 0, 0, 0, 0, 0),
    "anonymous files": (319, 0, 0),
    "bpf": (321, 0, 0, 0),
    "userfaultfd": (323, 0),
    "io_uring": (425, 8, 0),
}
"""Numbers of x86-64, with arguments."""


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSY_SECRET", ANSWER)


def test_attacks_get_the_verdict_that_says_that_nothing_came_of_them(judge: CodeJudge):
    assert not faults(judge, ATTACKS)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system calls have other numbers on other machines")
def test_the_kernel_refuses_what_no_program_needs(judge: CodeJudge):
    program = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
refused = libc.syscall(%s) == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS)
print("safe" if refused else "done")
"""
    rows = [Row(name, safe, program % ", ".join(map(str, numbers)), "AC") for name, numbers in CALLS.items()]
    assert not faults(judge, rows)


def sockets() -> Iterator[tuple[str, socket.socket]]:
    """Listeners of this machine, with a Python expression that connects to each."""
    server = socket.create_server(("127.0.0.1", 0))
    yield f"socket.create_connection({server.getsockname()!r}, timeout=3)", server
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0tessy-{os.getpid()}")
    abstract.listen()
    yield f"socket.socket(socket.AF_UNIX).connect('\\0tessy-{os.getpid()}')", abstract


def test_programs_cannot_reach_this_machine(judge: CodeJudge):
    listeners = dict(sockets())
    program = "import socket\ntry:\n    %s\n    print('done')\nexcept OSError: print('safe')"
    rows = [Row(connect, safe, program % connect, "AC") for connect in listeners]
    assert not faults(judge, rows)
    for server in listeners.values():
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
        server.close()


def test_attacks_leave_the_judge_as_it_was(judge: CodeJudge):
    assert judge.judge(answer, f"print({ANSWER})").verdict is Verdict.ACCEPTED
