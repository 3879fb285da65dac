"""C++ programs, compiled in boxes: a source can make a compiler read files, fill disks and never end."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from tessy_jax.evals.judges.languages import Tool
from tessy_jax.evals.sandbox import BoxLimits, Job, Sandbox

FLAGS = ("-O2", "-pipe", "-std=gnu++17")
"""Of the judges of LiveCodeBench-Pro and OJBench."""
LIMITS = BoxLimits(
    cpu_seconds=10, wall_seconds=40, address_mib=640, stack_mib=64, output_bytes=64 << 20, processes=16, disk_mib=256
)
KEPT = 256
"""Programs that are remembered: a checker serves every response to its problem."""


class CompileError(Exception):
    """The source does not compile; the text is the compiler's."""


class CompilerFailure(Exception):
    """The box of the compiler could not be made: says nothing about the source."""


@dataclass(frozen=True)
class Source:
    """A program: its text, and the headers beside it."""

    text: bytes
    headers: Mapping[str, bytes]

    def key(self) -> str:
        hashed = hashlib.sha256(self.text)
        for name, text in sorted(self.headers.items()):
            hashed.update(f"\0{name}\0{len(text)}\0".encode() + text)
        return hashed.hexdigest()


class Compiler:
    """Compiles each source once, also where several threads ask for it."""

    def __init__(self, tool: Tool, sandbox: Sandbox):
        self.tool, self.sandbox = tool, sandbox
        self._programs: OrderedDict[str, Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, source: Source) -> bytes:
        """The program.

        Raises:
            CompileError: it has none.
            CompilerFailure: the sandbox failed, twice.
        """
        key = source.key()
        with self._lock:
            program, mine = self._programs.get(key), False
            if program is None:
                program, mine = Future(), True
                self._programs[key] = program
            self._programs.move_to_end(key)
            while len(self._programs) > KEPT:
                self._programs.popitem(last=False)
        if mine:
            try:
                program.set_result(self._run(source))
            except CompileError as error:
                program.set_exception(error)
            except BaseException as error:
                with self._lock:
                    self._programs.pop(key, None)  # another try may succeed
                program.set_exception(error)
        return program.result()

    def _run(self, source: Source) -> bytes:
        # The program leaves the box through standard output: nothing of the box is ever on the disk of this machine.
        compile = f"{self.tool.path} {' '.join(FLAGS)} -I /box -o /tmp/program /box/main.cpp && exec cat /tmp/program"
        files = {f"/box/{name}": text for name, text in source.headers.items()} | {"/box/main.cpp": source.text}
        job = Job(("/bin/sh", "-c", compile), LIMITS, files)
        outcome = self.sandbox.run(job)
        if outcome.failure:
            outcome = self.sandbox.run(job)
        if outcome.failure:
            raise CompilerFailure(outcome.failure)
        if outcome.stopped == "output":
            raise CompileError("the program, or what the compiler said, is too large")
        if outcome.stopped or outcome.cpu_seconds > LIMITS.cpu_seconds:
            raise CompileError(f"the compiler was not done after {LIMITS.cpu_seconds:.0f} seconds")
        if outcome.exit_code or not outcome.stdout:
            raise CompileError(outcome.stderr.decode(errors="replace").strip() or f"exit code {outcome.exit_code}")
        return outcome.stdout
