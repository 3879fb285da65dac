"""Write cooperative traces: `python -m tessy_jax.synthesize [configs/demo.yaml] [options] [key=value …]`."""

import argparse
import sys
from pathlib import Path

from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.engine.pair import Pair
from tessy_jax.engine.run import run_command

DEMO = Path("configs/demo.yaml")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code (design §6)."""
    parser = argparse.ArgumentParser(
        prog="python -m tessy_jax.synthesize",
        description="Two models write reasoning traces together. Running the same command again resumes.",
    )
    return run_command(argv, parser, SynthesisConfig, DEMO, Pair.open)


if __name__ == "__main__":
    sys.exit(main())
