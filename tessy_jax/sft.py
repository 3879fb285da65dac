"""Train the student on traces: `python -m tessy_jax.sft [configs/sft_demo.yaml] [options] [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.sft import SftConfig
from tessy_jax.console import app

CONFIG = app.ConfigFile(SftConfig, "configs/sft_demo.yaml", example="optimizer.lr=1e-5")
EXPORT = "export a checkpoint and stop: newest (default), best (lowest held-out loss) or a step"


def run(options: argparse.Namespace, console: Console) -> int:
    """Trains the student, shows what it would be trained on, or exports a checkpoint."""
    config = CONFIG.load(options)
    from tessy_jax.train.run import sft

    return sft(config, options, console)


main = app.Command(
    name="sft",
    description="Trains a student on traces and writes a Hugging Face folder. Running it again resumes.",
    config=CONFIG,
    options=(
        app.output_option(),
        app.dry_run_option("data, plan and memory"),
        app.option("--inspect", "show the rows of the first N steps, then stop", type=int, metavar="N"),
        app.OVERWRITE,
        app.option("--export-only", EXPORT, nargs="?", const="newest", metavar="STEP"),
        app.POD,
        app.POD_TIMEOUT,
    ),
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
