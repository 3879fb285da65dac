"""Write cooperative traces: `python -m tessy_jax.synthesize [configs/demo.yaml] [options] [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.methods import METHODS
from tessy_jax.console import app
from tessy_jax.data.inputs import read_rows

CONFIG = app.ConfigFile(METHODS, "configs/demo.yaml", example="engine.batch=8")


def run(options: argparse.Namespace, console: Console) -> int:
    """Lets two models write together, or one of them, as the method says."""
    config = CONFIG.load(options)
    rows = read_rows(config.input, config.columns, config.limit)
    from tessy_jax.baselines.registry import Methods
    from tessy_jax.engine.run import write_traces

    return write_traces(config, Methods(console), rows, options, console)


main = app.Command(
    name="synthesize",
    description="Two models write reasoning traces together. Running the same command again resumes.",
    config=CONFIG,
    options=app.TRACE_OPTIONS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
