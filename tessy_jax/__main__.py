"""The commands by one name: `python -m tessy_jax [COMMAND [options]]`; alone, it lists them."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from rich.console import Console

from tessy_jax.console import output
from tessy_jax.console.messages import complain, say
from tessy_jax.errors import DONE, USAGE

COMMANDS = (
    *("synthesize", "sample", "select", "merge", "annotate", "train_predictor", "train_probe"),
    *("sft", "evaluate", "serve", "experiment", "analyse", "status", "plan", "convert", "demo"),
)
"""In the order of their use."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command that the first argument names, or lists all; returns the exit code."""
    name, rest = (arguments[0], list(arguments[1:])) if arguments else ("--help", [])
    if name in COMMANDS:
        return import_module(f"tessy_jax.{name}").main(rest)
    if name in ("-h", "--help"):
        return _say_all()
    near = get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the commands: {', '.join(COMMANDS)}"
    say(Console(stderr=True), f"error: there is no command {name!r}; {hint}", "red")
    return USAGE


def _say_all() -> int:
    output.accept_any_character()
    try:
        output.write(_listing() + "\n")
    except output.ReaderLeft as left:
        return left.exit_code
    except output.OutputError as error:
        return complain(Console(stderr=True), error, error.exit_code)
    return DONE


def _listing() -> str:
    """Every command with the first sentence of its description."""
    lines = ["usage: python -m tessy_jax COMMAND [options]; COMMAND --help says more", ""]
    for name in COMMANDS:
        description = import_module(f"tessy_jax.{name}").main.description
        lines.append(f"  {name:<16} {description.partition('. ')[0].rstrip('.')}.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
