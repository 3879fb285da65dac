"""Manners that the commands share: exit codes, overrides, messages, the log file, Ctrl-C."""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tessy_jax.console.messages import complain, say
from tessy_jax.errors import ERROR, INTERRUPTED, UserError


def run(
    action: Callable[[Console], int],
    interrupted: str = "interrupted; the same command goes on from here",
) -> int:
    """Does what a command does and returns its exit code (design §6); an error of the user's ends in a message.

    Args:
      action: gets the console for messages, and returns the code where nothing goes wrong.
      interrupted: what Ctrl-C says outside of a loop; within one see `Interrupt`.
    """
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        return action(console)
    except UserError as error:
        return complain(console, error, error.exit_code)
    except OSError as error:  # a file of the user's, which nobody expected to fail
        return complain(console, error, ERROR)
    except KeyboardInterrupt:
        say(console, interrupted)
        return INTERRUPTED


def overrides(options: argparse.Namespace, default: Path, names: tuple[str, ...]) -> list[str]:
    """All overrides, those of the named options last. `key=value` may stand where the configuration is left out, which
    is then `default`.
    """
    values = list(options.overrides)
    if "=" in str(options.config) and not options.config.exists():
        values.insert(0, str(options.config))
        options.config = default
    for name in names:
        if getattr(options, name) is not None:
            values.append(f"{name}={json.dumps(getattr(options, name))}")
    return values
