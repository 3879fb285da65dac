"""Serve a model or a pair: `python -m tessy_jax.serve [MODEL | configs/serve_demo.yaml] [key=value …]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.config.serve import ServeConfig, load_serve
from tessy_jax.console import app

CONFIG = app.ConfigFile(
    ServeConfig,
    "configs/serve_demo.yaml",
    example="port=8080",
    help="a checkpoint folder, a model hub id or a YAML file; default: configs/serve_demo.yaml",
)


def run(options: argparse.Namespace, console: Console) -> int:
    """Serves until it is stopped."""
    config = load_serve(*app.choose_config(options, CONFIG.default))
    from tessy_jax.serving.run import serve

    return serve(config, console)


main = app.Command(
    name="serve",
    description="Serves a model by OpenAI's API: /v1/chat/completions, /v1/completions, /v1/models; /health, /metrics; "
    "and a page for conversations at /. A file that names a teacher, as configs/demo.yaml, serves that pair. "
    "Ctrl-C or SIGTERM finishes what runs.",
    config=CONFIG,
    options=(),
    run=run,
    interrupted="interrupted",
)

if __name__ == "__main__":
    sys.exit(main())
