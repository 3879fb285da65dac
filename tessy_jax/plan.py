"""What a configuration needs of a machine: `python -m tessy_jax.plan CONFIG --topology v6e:2x4 [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.plan import load_either
from tessy_jax.console import app
from tessy_jax.storage.paths import as_path

DEMO = "configs/demo.yaml"


def run(options: argparse.Namespace, _: Console) -> int:
    """Prints the plan."""
    file, overrides = app.choose_config(options, DEMO)
    config = load_either(file, overrides)
    from tessy_jax.planning.run import plan

    return plan(config, file, overrides, options)


main = app.Command(
    name="plan",
    description="Says what a configuration needs of each chip, without weights and without the chips.",
    options=(
        *app.config_options(DEMO, "engine.batch=8", help="a YAML file of synthesize or of sft"),
        app.option("--topology", "v5e:16x16, v5p:2x2x4, v6e:2x4, … (needs tessy_jax[tpu]), or cpu", required=True),
        app.option("--tokens", "tokens of a row of a synthesis, on average; default: full rows", type=int, metavar="N"),
        app.option("--spans", "run whose records say how long spans are", type=as_path, metavar="RUN"),
        app.option("--json", "write all numbers here too, in bytes and seconds", type=as_path, metavar="FILE"),
    ),
    epilog="exit codes: 0 it fits, 1 it does not fit (or an error), 2 bad usage",
    interrupted="interrupted",
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
