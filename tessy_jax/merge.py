"""Put the shards of a run together: `python -m tessy_jax.merge RUN … --output DIR`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.console import app
from tessy_jax.console.messages import say
from tessy_jax.data.merging import merge
from tessy_jax.errors import DONE
from tessy_jax.storage.paths import as_path


def run(options: argparse.Namespace, console: Console) -> int:
    """Merges runs and says what came together."""
    merged = merge(options.runs, options.output, partial=options.partial, overwrite=options.overwrite)
    say(console, f"{merged.records} records, {merged.rejects} rejected, {merged.missing} missing; in {options.output}")
    if merged.twice:
        say(console, f"{merged.twice} stood there more than once, always the same")
    return DONE


main = app.Command(
    name="merge",
    description="Checks that the shards of a run have every row of its input, and writes them into one run.",
    options=(
        app.option("runs", "run directories of synthesize or sample", nargs="+", type=as_path, metavar="RUN"),
        app.option("--output", "the new run directory", type=as_path, required=True),
        app.option("--partial", "merge although rows are missing", action="store_true"),
        app.OVERWRITE,
    ),
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
