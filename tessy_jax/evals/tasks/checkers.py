"""Checkers that a benchmark's files name: only known ones, with arguments that they take."""

import inspect
from collections.abc import Mapping
from typing import Any

from tessy_jax.evals.compare import COMPARATORS
from tessy_jax.evals.targets import Checker
from tessy_jax.evals.tasks.rows import Row


def named_checker(row: Row, name: str, args: Mapping[str, Any]) -> Checker:
    """The comparator of this name.

    Raises:
        TaskError: there is none, or it does not take these arguments.
    """
    if name not in COMPARATORS:
        row.fail(f"the checker {name!r} is not known here; known are {', '.join(sorted(COMPARATORS))}")
    taken = {key: one.default for key, one in list(inspect.signature(COMPARATORS[name]).parameters.items())[2:]}
    for key, value in args.items():
        if key not in taken:
            row.fail(f"the checker {name!r} takes no {key!r}; it takes {', '.join(taken) or 'no arguments'}")
        if type(value) is not type(taken[key]):
            row.fail(f"the checker {name!r} takes {key!r} as {type(taken[key]).__name__}, not {value!r}")
    return Checker(name, dict(args))
