"""What a run is doing: `python -m tessy_jax.status RUN [--watch]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.console import app
from tessy_jax.storage.paths import as_path


def run(options: argparse.Namespace, console: Console) -> int:
    """Shows the state of a run."""
    from tessy_jax.analysis.status import status

    return status(options, console)


main = app.Command(
    name="status",
    description="Shows a run in progress or done, from another terminal or machine: progress, rates, rejects.",
    options=(
        app.option("run", "directory of a run, an evaluation or an experiment", type=as_path),
        app.option(
            "--watch",
            "show it again every so many seconds (default: %(const)s), until it ends",
            nargs="?",
            const=5.0,
            type=float,
            metavar="SECONDS",
        ),
    ),
    interrupted="",
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
