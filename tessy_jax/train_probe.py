"""Train a probe on hidden states of the model that writes: `python -m tessy_jax.train_probe [CONFIG] [key=value …]`."""

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from tessy_jax.analysis.reproduced import compare
from tessy_jax.config.schema import describe, load_as
from tessy_jax.config.train_probe import TrainProbeConfig
from tessy_jax.console.app import overrides, run
from tessy_jax.console.messages import tell
from tessy_jax.errors import DONE, ERROR
from tessy_jax.train.probe_run import train_probe

DEFAULT = Path("configs/probe_demo.yaml")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_intermixed_args(argv)
    words = ["python", "-m", "tessy_jax.train_probe", *(sys.argv[1:] if argv is None else argv)]
    options.command = shlex.join(words)

    def action(console: Console) -> int:
        if options.compare:
            verdict = compare(*options.compare)
            tell(console, verdict.words)
            return DONE if verdict.reproduced else ERROR
        config = load_as(TrainProbeConfig, options.config, overrides(options, DEFAULT, ("output",)))
        return train_probe(config, options, console)

    return run(action, "interrupted; nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tessy_jax.train_probe",
        description="Trains a probe: a linear predictor on the hidden states of the model that writes.",
        epilog="configuration keys, for the YAML file and as key=value:\n\n" + describe(TrainProbeConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", type=Path, default=DEFAULT, help=f"a YAML file; default: {DEFAULT}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. fit.l2=0.01")
    parser.add_argument("--output", help="folder of the probe; the same as output=…")
    parser.add_argument("--dry-run", action="store_true", help="show data and sizes, then stop")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("PROBE", "SHIPPED"),
        help="say whether one probe reproduces what was measured of another; trains nothing",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
