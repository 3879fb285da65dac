"""Find style in thinking text: `python -m tessy_jax.annotate [configs/annotate_demo.yaml] [options] [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.annotate import AnnotateConfig
from tessy_jax.console import app
from tessy_jax.storage.paths import as_path

CONFIG = app.ConfigFile(AnnotateConfig, "configs/annotate_demo.yaml", example="segments.words=40")


def run(options: argparse.Namespace, console: Console) -> int:
    """Annotates, or compares two annotations."""
    from tessy_jax.annotation.run import annotate, compare_runs

    return compare_runs(*options.compare) if options.compare else annotate(CONFIG.load(options), options, console)


main = app.Command(
    name="annotate",
    description="Finds the style phrases in segments of thinking text. Running the same command again resumes.",
    config=CONFIG,
    options=(
        app.input_option("thinking text"),
        app.output_option(),
        app.limit_option("responses"),
        app.dry_run_option("the plan and the first segment"),
        app.OVERWRITE,
        app.show_option("annotated segments with their style in colour"),
        app.compare_option("print how far two annotations agree; annotates nothing", "RUN", as_path),
    ),
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
