"""Keep the good records: `python -m tessy_jax.select RUN … [configs/select.yaml] [options] [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.schema import load_as
from tessy_jax.config.select import SelectConfig, sort_words
from tessy_jax.console import app

CONFIG = app.ConfigFile(SelectConfig, "configs/select.yaml", example="finish.answer=[stop]")


def run(options: argparse.Namespace, console: Console) -> int:
    """Selects records."""
    from tessy_jax.evals.selection import select

    file, overrides = sort_words([str(options.config), *options.overrides], options.output)
    return select(load_as(SelectConfig, file or CONFIG.default, overrides), options, console)


main = app.Command(
    name="select",
    description="Records of runs that pass the rules go on into a run of their own, the rest to its rejects. "
    "Running the same command again resumes.",
    config=CONFIG,
    options=(app.output_option(), app.dry_run_option("how many records each rule takes out"), app.OVERWRITE),
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
