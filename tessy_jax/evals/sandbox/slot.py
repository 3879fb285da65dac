"""A place where one program runs at a time, seen from the judge: it has the clock, and reads no more than agreed."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tessy_jax.evals.sandbox.box import Box
from tessy_jax.evals.sandbox.job import Job, Outcome, Stopped
from tessy_jax.evals.sandbox.keeper import KILL, MAX_FDS, MAX_MESSAGE
from tessy_jax.evals.sandbox.streams import Streams, memory_file

KEEPER = Path(__file__).with_name("keeper.py")
GRACE = 20.0
"""Seconds in which a box that is killed must be gone."""


class KeeperError(Exception):
    """The keeper of a slot is lost, or does not answer."""


class Slot:
    """Runs jobs, one at a time, through a keeper: `keeper.py`.

    Args:
        uid: the user that programs run as, as seen from outside; None: the judge's own.
    """

    def __init__(self, box: Box, uid: int | None = None):
        self.box, self.uid = box, uid
        self._keeper: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def run(self, job: Job) -> Outcome:
        """Raises nothing that the program could cause. Whatever is raised, nothing of the box is left."""
        try:
            return self._follow(job, self._channel or self._start())
        except (KeeperError, OSError) as error:
            self.close()
            return Outcome(failure=f"the sandbox failed: {error}")
        except BaseException:
            self.close()
            raise

    def interrupt(self) -> None:
        """Ends what another thread runs here: this gets a failure."""
        channel = self._channel
        if channel:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)  # the keeper kills its box, and goes

    def close(self) -> None:
        """Ends the keeper, and with it what runs in its box."""
        channel, keeper = self._channel, self._keeper
        self._channel = self._keeper = None
        if channel:
            channel.close()  # the keeper kills its box, and goes
        if keeper:
            try:
                keeper.wait(GRACE)
            except subprocess.TimeoutExpired:
                keeper.kill()  # the box dies with it
                keeper.wait()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = ours
        with theirs:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(KEEPER), *([] if self.uid is None else [str(self.uid)])],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the judge
            )
        return ours

    def _follow(self, job: Job, channel: socket.socket) -> Outcome:
        """Runs a job and reads what it writes, until it ends or must be ended."""
        with Streams(job.limits.output_bytes, job.result) as streams:
            started = time.monotonic()
            self._send(job, channel, streams)
            streams.listen(channel)
            deadline, ended = started + job.limits.wall_seconds, started
            stopped: Stopped = ""
            report: dict[str, Any] | None = None
            while report is None or streams.unfinished:
                heard = streams.wait(deadline - time.monotonic())
                late = time.monotonic() >= deadline
                if heard:
                    report, ended = _receive(channel), time.monotonic()
                    deadline = ended + GRACE
                elif late and (stopped or report):
                    raise KeeperError(f"a box was still there {GRACE:.0f} seconds after its end")
                elif report is None and not stopped and (late or streams.overflow):
                    stopped = "output" if streams.overflow else "wall"
                    channel.send(KILL)
                    deadline = time.monotonic() + GRACE
            if streams.overflow:
                stopped = "output"  # even where the program had ended by itself
            return _outcome(streams, report, stopped, ended - started)

    def _send(self, job: Job, channel: socket.socket, streams: Streams) -> None:
        """Tells the keeper what to run. Integers in the message stand for the descriptors that go with it."""
        fds = [memory_file(job.stdin), streams.stdout.writing, streams.stderr.writing, streams.status.writing]
        files = [0]  # of fds: those that are made here

        def add(data: bytes) -> int:
            fds.append(memory_file(data))
            files.append(len(fds) - 1)
            return files[-1]

        try:
            contents = {path: add(data) for path, data in job.files.items()}
            rules = self.box.filter()
            seccomp = None if rules is None else add(rules)
            command: list[str | int] = [*job.command]
            if streams.result:
                fds.append(streams.result.writing)
                command.append(len(fds) - 1)
            request = {
                "bwrap": str(self.box.bwrap),
                "options": self.box.options(contents, job.limits, 3, seccomp),
                "command": self.box.limited(job.limits, command),
            }
            message = json.dumps(request).encode()
            if len(message) > MAX_MESSAGE or len(fds) > MAX_FDS:
                raise KeeperError(f"a request of {len(message)} bytes with {len(fds)} files")
            socket.send_fds(channel, [message], fds)
        finally:
            for place in files:
                os.close(fds[place])
        streams.close_writing()


def _receive(channel: socket.socket) -> dict[str, Any]:
    answer = channel.recv(MAX_MESSAGE)
    if not answer:
        raise KeeperError("the process that starts programs was lost")
    report = json.loads(answer)
    if "error" in report:
        raise KeeperError(report["error"])
    return dict(report)


def _outcome(streams: Streams, report: dict[str, Any], stopped: Stopped, seconds: float) -> Outcome:
    # Bubblewrap reports an exit code only where the program was started: its own failures are none of the program's.
    events = [json.loads(line) for line in streams.status.data.splitlines()]
    codes = [event["exit-code"] for event in events if "exit-code" in event]
    stderr = streams.stderr.data
    if not codes and not stopped:
        said = stderr.decode(errors="replace").strip() or f"bwrap ended with {report['status']}"
        return Outcome(failure=said)
    return Outcome(
        exit_code=codes[-1] if codes else 128 + 9,
        stopped=stopped,
        stdout=streams.stdout.data,
        stderr=stderr,
        result=streams.result.data if streams.result else b"",
        cpu_seconds=report["cpu_seconds"],
        wall_seconds=seconds,
        memory_mib=report["memory_mib"],
    )
