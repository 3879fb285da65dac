"""Train a probe on hidden states of the model that writes: `python -m tessy_jax.train_probe [CONFIG] [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.train_probe import TrainProbeConfig
from tessy_jax.console import app

CONFIG = app.ConfigFile(TrainProbeConfig, "configs/probe_demo.yaml", example="fit.l2=0.01")
COMPARED = "say whether one probe reproduces what was measured of another; trains nothing"
COMPARE = app.compare_option(COMPARED, ("PROBE", "SHIPPED"))


def run(options: argparse.Namespace, console: Console) -> int:
    """Trains the probe, or compares two probes."""
    if options.compare:
        from tessy_jax.analysis.reproduced import compare_probes

        mine, shipped = options.compare
        return compare_probes(mine, shipped, console)
    config = CONFIG.load(options)
    from tessy_jax.train.probe_run import train_probe

    return train_probe(config, options, console)


main = app.Command(
    name="train_probe",
    description="Trains a probe: a linear predictor on the hidden states of the model that writes.",
    config=CONFIG,
    options=(app.output_option("folder of the probe"), app.dry_run_option("data and sizes"), COMPARE),
    interrupted="interrupted; nothing was written",
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
