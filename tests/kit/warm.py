"""A process that has imported a command; its children are the command, begin at once, and can be killed.

Python and JAX take longer to be imported than a tiny run takes.
"""

import json
import os
import subprocess
import sys


class Warm:
    """The parent. Its environment is that of the moment in which it is started."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *arguments: object) -> int:
        """Starts `synthesize` with these arguments; returns its process id. One at a time."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps([*map(str, arguments)]) + "\n")
        self._parent.stdin.flush()
        return self._number()

    def wait(self) -> int:
        """Its exit code; of a signal, less than 0."""
        return self._number()

    def close(self) -> None:
        self._parent.kill()
        self._parent.communicate()

    def _number(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())


def main() -> None:
    import s3fs  # noqa: F401

    import tessy_jax.baselines.registry
    import tessy_jax.engine.run  # noqa: F401
    from tessy_jax import synthesize

    for line in sys.stdin:
        child = os.fork()
        if not child:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            sys.exit(synthesize.main(json.loads(line)))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
