"""Look at data, ours or foreign: `python -m tessy_jax.analyse RUN_OR_DATA … --student MODEL [options]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.analysis.options import OPTIONS
from tessy_jax.console import app


def run(options: argparse.Namespace, console: Console) -> int:
    """Analyses data sets."""
    from tessy_jax.analysis.run import analyse

    return analyse(options, console)


main = app.Command(
    name="analyse",
    description="Shows traces, and says whether data suits a student. It trains nothing and changes no data.",
    options=OPTIONS,
    interrupted="interrupted; nothing was written",
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
