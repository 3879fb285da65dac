"""How long commands need before anything long begins: `python benchmarks/start_times.py [--repeats 3]`.

CPU seconds (user and system, of all threads) and wall seconds of each command in a process of its own, the best of the
repeats. `make demo` has prepared the models; a run of two short traces, runs/start_times, is written first where it is
not there yet.
"""

import argparse
import os
import subprocess
import sys
import time

SHORT = ("--limit", "2", "engine.batch=2", "cooperation.max_think_tokens=16", "cooperation.max_answer_tokens=8")
WRITTEN = ("synthesize", "configs/demo.yaml", "--output", "runs/start_times", *SHORT)

COMMANDS = {
    "synthesize --help": ("synthesize", "--help"),
    "dry run of synthesize": ("synthesize", "configs/demo.yaml", "--dry-run"),
    "synthesize, nothing left": WRITTEN,
    "dry run of sample": ("sample", "configs/sample_demo.yaml", "--dry-run"),
}


def measure(arguments: tuple[str, ...]) -> tuple[float, float]:
    """CPU and wall seconds of a command."""
    before, begun = os.times(), time.monotonic()
    command = [sys.executable, "-m", f"tessy_jax.{arguments[0]}", *arguments[1:]]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts")
    repeats = parser.parse_args().repeats
    measure(WRITTEN)
    print("| command | CPU s | wall s |\n|---|---:|---:|")
    for name, arguments in COMMANDS.items():
        cpu, wall = map(min, zip(*(measure(arguments) for _ in range(repeats)), strict=True))
        print(f"| {name} | {cpu:.1f} | {wall:.1f} |", flush=True)


if __name__ == "__main__":
    main()
