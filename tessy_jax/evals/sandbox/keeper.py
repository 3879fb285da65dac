"""The process that keeps a slot of the sandbox: it starts boxes, one after another, and buries what ran in them.

Run as a script, with the standard library alone: `python keeper.py [uid]`; its standard input is a socket.
A process of its own, and not the judge, because

- it gives up root once, before anything of a stranger's runs, and can never be asked to take it back;
- it is small: what a child has used at most (`ru_maxrss`) starts from what its parent uses;
- it is a subreaper: every process of a box is waited for, so that none survives and none's time is lost;
- where the judge is killed, the socket closes, and the box dies.

A request is one message: JSON, and file descriptors. Integers in its lists stand for these, by their index.
"""

import ctypes
import json
import os
import resource  # noqa: F401 - os.wait4 imports it, when the interpreter may be out of reach
import select
import signal
import socket
import subprocess
import sys
from typing import Any

KILL = b"kill"
MAX_MESSAGE, MAX_FDS = 1 << 17, 253
PR_SET_CHILD_SUBREAPER = 36


def main(uid: int | None) -> None:
    channel = socket.socket(fileno=0)
    give_up_rights(uid)
    while True:
        message, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE, MAX_FDS)
        if not message:
            return  # the judge is gone
        if message == KILL:
            continue  # it came when the box was dead already
        try:
            report = run(channel, json.loads(message), fds)
        except Exception as error:
            report = {"error": f"{type(error).__name__}: {error}"}  # the judge ends this process, and so the box
        channel.send(json.dumps(report).encode())


def give_up_rights(uid: int | None) -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("800")  # where memory runs out, a box dies before anything else of this machine
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(channel: socket.socket, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Starts one box and waits for its end.

    Returns: {"status", "cpu_seconds", "memory_mib"}, or {"error"} where the box did not start.
    """
    arguments = os.memfd_create("arguments")
    os.write(arguments, "".join(f"{word}\0" for word in insert_fds(request["options"], fds)).encode())
    os.lseek(arguments, 0, os.SEEK_SET)
    stdin, stdout, stderr, *others = fds
    try:
        box = subprocess.Popen(
            [request["bwrap"], "--args", str(arguments), "--", *insert_fds(request["command"], fds)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(arguments, *others),
            env={},
            start_new_session=True,
        )
    except OSError as error:
        return {"error": f"{request['bwrap']}: {error.strerror}"}
    finally:
        for fd in (arguments, *fds):
            os.close(fd)  # the pipes are to end when the box does

    ended = os.pidfd_open(box.pid)
    readable, _, _ = select.select([channel.fileno(), ended], [], [])
    os.close(ended)
    if channel.fileno() in readable:
        channel.recv(len(KILL))  # or the judge is gone
        box.kill()
    return bury(box)


def insert_fds(words: list[str | int], fds: list[int]) -> list[str]:
    return [str(fds[word]) if isinstance(word, int) else word for word in words]


def bury(box: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """Waits for every process of a box; what outlives its first one is killed."""
    cpu, memory, status = 0.0, 0, 0
    while True:
        try:
            pid, code, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        cpu += usage.ru_utime + usage.ru_stime
        memory = max(memory, usage.ru_maxrss)
        if pid == box.pid:
            status = box.returncode = os.waitstatus_to_exitcode(code)
        kill_children()
    return {"status": status, "cpu_seconds": cpu, "memory_mib": memory / 1024}


def kill_children() -> None:
    """Kills the first process of a box's namespace, and so all others of it, where this has come down to the keeper."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
