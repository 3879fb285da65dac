"""Compare methods, as in the paper's Table 1: `python -m tessy_jax.experiment CONFIG [options] [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.experiment import ExperimentConfig
from tessy_jax.console import app

CONFIG = app.ConfigFile(ExperimentConfig, "configs/experiments/paper.yaml", example="seeds=[0,1]")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs what is left of an experiment."""
    config = CONFIG.load(options)
    from tessy_jax.experiments.run import experiment

    return experiment(config, options, console)


main = app.Command(
    name="experiment",
    description="Methods and seeds go through synthesize, sft and evaluate, and one report compares them. "
    "Running the same command again resumes.",
    config=CONFIG,
    options=(
        app.output_option("folder of the experiment"),
        app.dry_run_option("all stages, which are done, and what each would cost at most"),
        app.option("--report", "write the report of what is done, and stop", action="store_true"),
    ),
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
