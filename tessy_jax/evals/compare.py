"""How what a program wrote is compared with what is expected. All of it is text of others: bytes, of any shape.

Where an official judge is known to accept what is wrong, its rule stands here under one name, and the sounder one
beside it under another: `lines` and `numbers`, `python` and `json`.

DMOJ's checkers follow their documentation (https://docs.dmoj.ca/#/problem_format/checkers); no code of theirs was used.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Any

Comparator = Callable[..., bool]
"""`(expected, actual, **args)`: bytes and bytes; whether the second is right."""


def compare(name: str, expected: bytes, actual: bytes, args: Mapping[str, Any]) -> bool:
    """Whether `actual` is right, as the comparator of this name sees it.

    Raises:
        ValueError: `expected` is not what the comparator can read: the benchmark is wrong, not the program.
    """
    return COMPARATORS[name](expected, actual, **args)


# LiveCodeBench: programs that read standard input


def lines(expected: bytes, actual: bytes) -> bool:
    """LiveCodeBench's own rule: as many lines, each the same text without its outer blanks, or the same numbers.

    Numbers are what Python's Decimal takes: `1.0` is `1`, `1e3` is `1000`, and so are `1_000` and Arabic digits.
    """
    return _same_lines(expected, actual, lambda word: Decimal(word))


def numbers(expected: bytes, actual: bytes) -> bool:
    """As `lines`, but a number is written in ASCII digits, without underscores, and is finite."""
    return _same_lines(expected, actual, _plain_decimal)


def _same_lines(expected: bytes, actual: bytes, number: Callable[[str], Decimal]) -> bool:
    wanted, written = (
        [line.strip() for line in text.decode(errors="replace").strip().split("\n")] for text in (expected, actual)
    )
    return len(wanted) == len(written) and all(
        one == other or _same_numbers(one, other, number) for one, other in zip(wanted, written, strict=True)
    )


def _same_numbers(one: str, other: str, number: Callable[[str], Decimal]) -> bool:
    try:
        return [number(word) for word in one.split()] == [number(word) for word in other.split()]
    except (InvalidOperation, ValueError):
        return False


def _plain_decimal(word: str) -> Decimal:
    value = Decimal(word)
    if not (word.isascii() and "_" not in word and value.is_finite()):
        raise ValueError(word)
    return value


# DMOJ's checkers, which OJBench uses


def _token_lines(text: bytes) -> list[list[bytes]]:
    """The words of each line that has any."""
    return [words for line in text.replace(b"\r", b"\n").split(b"\n") if (words := line.split())]


def standard(expected: bytes, actual: bytes) -> bool:
    """The same words in the same lines. Blank lines, and how many blanks stand between words, do not matter."""
    return _token_lines(expected) == _token_lines(actual)


def easy(expected: bytes, actual: bytes) -> bool:
    """The same characters, in any order; blanks and case do not matter. Official, and as weak as that sounds."""
    return Counter(b"".join(expected.lower().split())) == Counter(b"".join(actual.lower().split()))


def identical(expected: bytes, actual: bytes, pe_allowed: bool = True) -> bool:
    """The same bytes. `pe_allowed` is about DMOJ's message to the writer, and changes nothing here."""
    return expected == actual


def linecount(expected: bytes, actual: bytes) -> bool:
    """Line by line, as `standard`. DMOJ gives points for each line; a program is right here if all of them are."""
    return _token_lines(expected) == _token_lines(actual)


def sorted_lines(expected: bytes, actual: bytes, split_on: str = "lines") -> bool:
    """The same lines, or words with `split_on` "whitespace", in any order."""
    if split_on == "whitespace":
        return sorted(expected.split()) == sorted(actual.split())
    return sorted(_token_lines(expected)) == sorted(_token_lines(actual))


def floats(expected: bytes, actual: bytes, precision: int = 6, error_mode: str = "default") -> bool:
    """As `standard`, but a word that is expected to be a number may differ by 10^-precision.

    Args:
        error_mode: "absolute", "relative" to what is expected, or "default": whichever is kinder.
    """
    if error_mode not in ("absolute", "relative", "default"):
        raise ValueError(f"error_mode {error_mode!r} is none of absolute, relative, default")
    wanted, written = _token_lines(expected), _token_lines(actual)
    if [len(line) for line in wanted] != [len(line) for line in written]:
        return False
    pairs = zip(chain.from_iterable(wanted), chain.from_iterable(written), strict=True)
    return all(_close(one, other, 10.0**-precision, error_mode) for one, other in pairs)


def _close(expected: bytes, actual: bytes, tolerance: float, mode: str) -> bool:
    try:
        wanted = float(expected)
    except ValueError:
        return expected == actual
    try:
        error = abs(float(actual) - wanted)
    except ValueError:
        return False
    # A number that is none is near to nothing: comparisons with it are false. So it must be written as expected.
    if not math.isfinite(wanted):
        return expected.lower() == actual.lower()
    absolute, relative = error <= tolerance, error <= tolerance * abs(wanted)
    return {"absolute": absolute, "relative": relative, "default": absolute or relative}[mode]


# What functions return


def json_values(expected: bytes, actual: bytes) -> bool:
    """The same JSON value. 1 is 1.0, but not true; NaN equals nothing; tuples have become lists."""
    return _same_values(expected, actual, strict=True)


def python_values(expected: bytes, actual: bytes) -> bool:
    """The same JSON value as Python's `==` sees it, and with it LiveCodeBench: 1 is also true."""
    return _same_values(expected, actual, strict=False)


def _same_values(expected: bytes, actual: bytes, strict: bool) -> bool:
    right = json.loads(expected)
    try:
        pairs = [(right, json.loads(actual))]
    except (ValueError, RecursionError):  # no JSON, several values, thousands of digits, a tower of brackets
        return False
    while pairs:  # without recursion: a value may be as deep as the parser allows
        wanted, given = pairs.pop()
        if isinstance(wanted, list) and isinstance(given, list):
            if len(wanted) != len(given):
                return False
            pairs += zip(wanted, given, strict=True)
        elif isinstance(wanted, dict) and isinstance(given, dict):
            if wanted.keys() != given.keys():
                return False
            pairs += [(wanted[key], given[key]) for key in wanted]
        elif wanted != given or (strict and isinstance(wanted, bool) != isinstance(given, bool)):
            return False
    return True


COMPARATORS: dict[str, Comparator] = {
    "lines": lines,
    "numbers": numbers,
    "standard": standard,
    "easy": easy,
    "identical": identical,
    "linecount": linecount,
    "sorted": sorted_lines,
    "floats": floats,
    "json": json_values,
    "python": python_values,
}
