"""Train a boundary predictor: `python -m tessy_jax.train_predictor [configs/predictor.yaml] [options] [key=value]`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from tessy_jax.config.schema import describe, load_as
from tessy_jax.config.train_predictor import TrainPredictorConfig
from tessy_jax.console.app import overrides, run
from tessy_jax.train.run import train_predictor

DEFAULT = Path("configs/predictor.yaml")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_intermixed_args(argv)

    def action(console: Console) -> int:
        config = load_as(TrainPredictorConfig, options.config, overrides(options, DEFAULT, ("output",)))
        return train_predictor(config, options, console)

    return run(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tessy_jax.train_predictor",
        description="Trains a token classifier on annotated segments. Running it again resumes.",
        epilog="configuration keys, for the YAML file and as key=value:\n\n" + describe(TrainPredictorConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", type=Path, default=DEFAULT, help=f"a YAML file; default: {DEFAULT}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. optimizer.lr=2e-5")
    parser.add_argument("--output", help="run directory; the same as output=…")
    parser.add_argument("--dry-run", action="store_true", help="show data, plan and memory, then stop")
    parser.add_argument("--overwrite", action="store_true", help="start anew where an earlier run wrote")
    return parser


if __name__ == "__main__":
    sys.exit(main())
