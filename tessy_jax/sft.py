"""Train the student on traces: `python -m tessy_jax.sft [configs/sft_demo.yaml] [options] [key=value …]`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from tessy_jax.config.schema import describe, load_as
from tessy_jax.config.sft import SftConfig
from tessy_jax.console.app import overrides, run
from tessy_jax.train.run import sft

DEMO = Path("configs/sft_demo.yaml")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_intermixed_args(argv)

    def action(console: Console) -> int:
        return sft(load_as(SftConfig, options.config, overrides(options, DEMO, ("output",))), options, console)

    return run(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tessy_jax.sft",
        description="Trains a student on traces and writes a Hugging Face folder. Running it again resumes.",
        epilog="configuration keys, for the YAML file and as key=value:\n\n" + describe(SftConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", type=Path, default=DEMO, help=f"a YAML file; default: {DEMO}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. optimizer.lr=1e-5")
    parser.add_argument("--output", help="run directory; the same as output=…")
    parser.add_argument("--dry-run", action="store_true", help="show data, plan and memory, then stop")
    parser.add_argument("--inspect", type=int, metavar="N", help="show the rows of the first N steps, then stop")
    parser.add_argument("--overwrite", action="store_true", help="start anew where an earlier run wrote")
    parser.add_argument(
        "--export-only",
        nargs="?",
        const="newest",
        metavar="STEP",
        help="export a checkpoint and stop: newest (default), best (lowest held-out loss) or a step",
    )
    parser.add_argument("--pod", action="store_true", help="join the other processes of a TPU pod or cluster")
    return parser


if __name__ == "__main__":
    sys.exit(main())
