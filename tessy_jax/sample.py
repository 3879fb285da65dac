"""Let one model write alone: `python -m tessy_jax.sample [configs/sample_demo.yaml] [options] [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.sample import SampleConfig
from tessy_jax.console import app
from tessy_jax.data.inputs import read_rows

CONFIG = app.ConfigFile(SampleConfig, "configs/sample_demo.yaml", example="engine.batch=8")


def run(options: argparse.Namespace, console: Console) -> int:
    """Lets one model write alone."""
    config = CONFIG.load(options)
    rows = read_rows(config.input, config.columns, config.limit)
    from tessy_jax.engine.run import write_traces
    from tessy_jax.engine.solo import Solo

    return write_traces(config, Solo, rows, options, console)


main = app.Command(
    name="sample",
    description="One model writes its thinking, and an answer where asked. Running the same command again resumes.",
    config=CONFIG,
    options=app.TRACE_OPTIONS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
