"""Let one model write alone: `python -m tessy_jax.sample [configs/sample_demo.yaml] [options] [key=value …]`."""

import argparse
import sys
from pathlib import Path

from tessy_jax.config.sample import SampleConfig
from tessy_jax.engine.run import run_command
from tessy_jax.engine.solo import Solo

DEMO = Path("configs/sample_demo.yaml")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code (design §6)."""
    parser = argparse.ArgumentParser(
        prog="python -m tessy_jax.sample",
        description="One model writes its thinking, and an answer where asked. Running the same command again resumes.",
    )
    return run_command(argv, parser, SampleConfig, DEMO, Solo.open)


if __name__ == "__main__":
    sys.exit(main())
