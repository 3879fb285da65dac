"""Estimators of what the best, or the most frequent, of k responses would be: exact, from n responses."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that of k responses, drawn from n of which c pass, at least one passes."""
    if not 0 < k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {c} in {n}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority_at_k(answers: Sequence[str | None], right: Callable[[str], bool], k: int) -> float:
    """The chance that the most frequent answer of k responses, drawn from these, is right.

    Args:
        answers: as extracted, so equal formulas that are written differently count as different; None has no vote.
        right: whether an answer is right.

    Exact: the draws are counted by how often each answer comes up in them, not one by one.
    """
    if not 0 < k <= len(answers):
        raise ValueError(f"maj@{k} of {len(answers)}")
    counts = Counter(answer for answer in answers if answer is not None)
    silent = len(answers) - counts.total()
    total = 0
    weighted = 0.0
    # ways[drawn][(most votes, answers with so many, right ones among them)] = number of draws
    ways: list[dict[tuple[int, int, int], int]] = [{} for _ in range(k + 1)]
    for drawn in range(min(silent, k) + 1):
        ways[drawn][0, 0, 0] = math.comb(silent, drawn)
    for answer, count in counts.items():
        good = int(right(answer))
        after: list[dict[tuple[int, int, int], int]] = [defaultdict(int) for _ in range(k + 1)]
        for drawn, states in enumerate(ways):
            for (most, ties, hits), number in states.items():
                for votes in range(min(count, k - drawn) + 1):
                    if votes == 0 or votes < most:
                        state = most, ties, hits
                    elif votes == most:
                        state = most, ties + 1, hits + good
                    else:
                        state = votes, 1, good
                    after[drawn + votes][state] += number * math.comb(count, votes)
        ways = after
    for (_, ties, hits), number in ways[k].items():
        total += number
        weighted += number * (hits / ties if ties else 0.0)
    return weighted / total
