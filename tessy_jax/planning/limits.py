"""The largest size that fits, by doubling and halving."""

from collections.abc import Callable


def largest(fits: Callable[[int], bool], unit: int, limit: int = 1 << 20) -> int | None:
    """The largest multiple of `unit`, at most `limit`, that fits; None if `unit` itself does not.

    What fits must fit in every smaller size too.
    """
    most = limit // unit
    good, bad = 0, 1
    while bad <= most and fits(bad * unit):
        good, bad = bad, 2 * bad
    bad = min(bad, most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle * unit) else (good, middle)
    return good * unit or None
