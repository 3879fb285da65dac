"""Score a model on benchmarks: `python -m tessy_jax.evaluate [configs/evaluate.yaml] [options] [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.evaluate import EvaluateConfig
from tessy_jax.console import app
from tessy_jax.storage.paths import as_path

CONFIG = app.ConfigFile(EvaluateConfig, "configs/evaluate.yaml", example="model.sampling.temperature=0")


def run(options: argparse.Namespace, console: Console) -> int:
    """Evaluates, or compares two evaluations."""
    from tessy_jax.evals.run import compare_runs, evaluate

    return compare_runs(*options.compare) if options.compare else evaluate(CONFIG.load(options), options, console)


main = app.Command(
    name="evaluate",
    description="A model answers benchmarks, its answers are judged, and a report is written. "
    "Running the same command again resumes.",
    config=CONFIG,
    options=(
        app.output_option(),
        app.limit_option("problems of each benchmark"),
        app.option("--stage", "run one stage alone", choices=("generate", "judge", "score")),
        app.dry_run_option("benchmarks, prompts and the judge"),
        app.OVERWRITE,
        app.compare_option("print how two evaluations differ; evaluates nothing", "RUN", as_path),
    ),
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
