"""Make a Hugging Face folder of a GGUF file: `python -m tessy_jax.convert model.gguf out/ [options]`."""

import argparse
import sys

from rich.console import Console

from tessy_jax.console.app import Command, option
from tessy_jax.errors import DONE
from tessy_jax.storage.paths import as_path


def run(options: argparse.Namespace, _: Console) -> int:
    """Makes the folder and says so."""
    from tessy_jax.models.gguf.convert import convert

    convert(options.source, options.out, options.dtype, options.overwrite)
    print(f"{options.out}: converted from {options.source} ({options.dtype})")
    return DONE


main = Command(
    name="convert",
    description="Make a Hugging Face folder of a GGUF file (llama, gemma3).",
    options=(
        option("source", "the GGUF file", type=as_path, metavar="model.gguf"),
        option("out", "the folder to make", type=as_path),
        option("--dtype", "default: %(default)s", choices=("float32", "bfloat16"), default="float32"),
        option("--overwrite", "replace the folder if it is a model folder already", action="store_true"),
    ),
    interrupted="interrupted; nothing was written",
    run=run,
)

if __name__ == "__main__":
    sys.exit(main())
