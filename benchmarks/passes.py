"""How many forward passes the schedule `stream` makes, by simulation: no model runs, and counts are exact.

    python benchmarks/passes.py rows RUN [--cost C]      the rows of a run of synthesize, whose records say their spans
    python benchmarks/passes.py costs [--rows N]         rows without an end, and models of different costs

`rows` also prints what no schedule can do without; see `least_passes`. What the numbers say: docs/benchmarks.md.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tessy_jax.cooperate.state import Role
from tessy_jax.data.jsonl import read_objects
from tessy_jax.engine.build import fullest_pass, pass_shapes
from tessy_jax.engine.rows import NAMES
from tessy_jax.planning.pair_rate import SpanLengths, pair_rate
from tessy_jax.planning.simulation import PassCount, SpanTokens, simulate

Row = list[SpanTokens]

CHUNK = 8
SPANS = ((5.0, 17.0), (10.0, 10.0), (17.0, 5.0))
COSTS = (0.1, 0.3, 0.6, 1.5)
POWERS = (0.0, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows")
    rows.add_argument("run", type=Path)
    rows.add_argument("--slots", type=int, help="rows at the same time (default: all)")
    rows.add_argument("--cost", type=float, default=1.0, help="of the student's pass, over the teacher's (default: 1)")
    rows.add_argument(
        "--ahead", type=int, default=3000, help="how many beginnings the look ahead keeps (default: %(default)s)"
    )
    costs = commands.add_parser("costs")
    costs.add_argument("--rows", type=int, default=32)
    costs.add_argument("--rounds", type=int, default=800)
    options = parser.parse_args()
    if options.command == "costs":
        show_costs(options.rows, options.rounds)
    else:
        recorded = recorded_rows(options.run)
        show_rows(recorded, options.slots or len(recorded), options.cost, options.ahead)


def recorded_rows(run: Path) -> list[Row]:
    """The spans of each record, thinking and answer."""
    return [
        [SpanTokens(NAMES.index(s["by"]), s["n_tokens"], s["dropped_tokens"]) for s in row["spans"]]
        for path in sorted((run / "data").glob("part-*.jsonl"))
        for _, row in read_objects(path)
        if row
    ]


# -- rows of a run -----------------------------------------------------------------------------------------------------


def show_rows(rows: list[Row], slots: int, cost: float, ahead: int) -> None:
    """Passes for these rows, for them with something left out, and the least."""
    shapes = pass_shapes(slots, CHUNK, 1)
    policy = fullest_pass(shapes, (cost, 1))
    cases = {
        f"{len(rows)} rows in {slots} slots": rows,
        "each row 8 times, so that others wait": [row for row in rows for _ in range(8)],
        "no first two spans": [row[2:] for row in rows],
        "no answers": [row[:-1] for row in rows],
        "nothing dropped": [[span._replace(dropped=0) for span in row] for row in rows],
    }
    print("| | passes | per kept token | places per kept | generated per kept |\n|---|---:|---:|---:|---:|")
    for name, some in cases.items():
        _print_count(name, simulate(policy, shapes, some, slots))

    kept, texts = sum(span.kept for row in rows for span in row), [_authors(row) for row in rows]
    bounds = {
        "least: the longest row": max(map(len, texts)),
        "least: each author's longest": sum(max(int(np.sum(text == role)) for text in texts) for role in Role),
        "least: any two rows": least_passes(texts),
        "found by looking ahead": look_ahead(texts, ahead),
    }
    for name, passes in bounds.items():
        print(f"| {name} | {passes} | {passes / kept:.3f} | | |")


def _print_count(name: str, count: PassCount) -> None:
    per_kept = (sum(count.passes) / count.kept, count.places / count.kept, count.generated / count.kept)
    print(f"| {name} | {sum(count.passes)} | " + " | ".join(f"{x:.3f}" for x in per_kept) + " |", flush=True)


def _authors(row: Row) -> np.ndarray:
    """Who writes each token of a row, dropped ones too. Example: [student 2 kept 1 dropped, teacher 1] -> [0 0 0 1]"""
    return np.repeat([span.role for span in row], [span.kept + span.dropped for span in row])


def least_passes(rows: Sequence[np.ndarray]) -> int:
    """Passes that any schedule needs, whatever it knows and however wide its passes are.

    A schedule is a list of authors, whose model runs next, and every row's authors are in it, in their order. For two
    rows the shortest such list is known exactly (the shortest common supersequence); all need the longest of these.
    """
    return max(_both(*pair) for pair in itertools.combinations(rows, 2)) if len(rows) > 1 else len(rows[0])


def _both(a: np.ndarray, b: np.ndarray) -> int:
    """The length of the shortest list in which both are."""
    shortest = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, shortest = shortest, [i]
        for j, y in enumerate(b, 1):
            shortest.append(1 + (above[j - 1] if x == y else min(above[j], shortest[-1])))
    return shortest[-1]


def look_ahead(rows: Sequence[np.ndarray], width: int) -> int:
    """Passes of the best schedule that is found by who knows all rows before: of all beginnings of so many passes the
    `width` most promising are gone on with. Every pass serves all rows of its model.
    """
    which, longest = np.arange(len(rows)), max(map(len, rows))
    author = np.full((len(rows), longest + 1), -1)
    left = np.zeros((len(Role), len(rows), longest + 1), int)  # tokens that each author has still to write
    for i, row in enumerate(rows):
        author[i, : len(row)] = row
        for role in Role:
            left[role, i, : len(row)] = np.cumsum((row == role)[::-1])[::-1]

    at, passes = np.zeros((1, len(rows)), int), 0
    while True:
        left_now = left[:, which, at]
        if not left_now.sum(axis=(0, 2)).all():
            return passes
        if len(at) > width:
            at = at[np.argpartition(left_now.max(axis=2).sum(axis=0) + 0.1 * left_now.sum(axis=(0, 2)), width)[:width]]
        served = [author[which, at] == role for role in Role]
        at = np.unique(np.concatenate([(at + rows_)[rows_.any(axis=1)] for rows_ in served]), axis=0)
        passes += 1


# -- models of different costs -----------------------------------------------------------------------------------------


def show_costs(rows: int, rounds: int) -> None:
    """Time of a kept token over one of the teacher alone, where its pass costs 1 and the student's `cost`; rows wait.

    The policy counts a model's cost with a power: 0 does not count it, 1 counts it in full.
    """
    shapes = pass_shapes(rows, CHUNK, 1)
    print("| spans of tokens | student's pass | " + " | ".join(f"power {power:g}" for power in POWERS) + " |")
    print("|---|---:|" + "---:|" * len(POWERS))
    for kept, cost in itertools.product(SPANS, COSTS):
        spans = SpanLengths(kept, (1.0, 1.0), "given")
        seconds = [each * (1 if shape.width == 1 else 1.5) for each in (cost, 1.0) for shape in shapes]
        over = []
        for power in POWERS:
            policy = fullest_pass(shapes, (cost ** (2 * power), 1.0))  # of which it takes the root
            over.append(rows / pair_rate(policy, shapes, seconds, spans, rows, rows, rounds).kept_per_second)
        print(f"| {kept[0]:g}, {kept[1]:g} | {cost:g} | " + " | ".join(f"{x:.2f}" for x in over) + " |", flush=True)


if __name__ == "__main__":
    main()
