"""Train a boundary predictor: `python -m tessy_jax.train_predictor [configs/predictor.yaml] [options] [key=value]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.train_predictor import TrainPredictorConfig
from tessy_jax.console import app

CONFIG = app.ConfigFile(TrainPredictorConfig, "configs/predictor.yaml", example="optimizer.lr=2e-5")


def run(options: argparse.Namespace, console: Console) -> int:
    """Trains the predictor, or shows what it would be trained on."""
    config = CONFIG.load(options)
    from tessy_jax.train.run import train_predictor

    return train_predictor(config, options, console)


main = app.Command(
    name="train_predictor",
    description="Trains a token classifier on annotated segments. Running it again resumes.",
    config=CONFIG,
    options=(app.output_option(), app.dry_run_option("data, plan and memory"), app.OVERWRITE),
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
