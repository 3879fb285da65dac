"""Plans as Markdown tables: `python benchmarks/scale.py PLAN.json … [--write docs/scale.md]`.

The files are those of `python -m tessy_jax.plan CONFIG --topology … --json PLAN.json`. With `--write`, the tables
replace what stands between the marks `<!-- plans -->` and `<!-- /plans -->` of a page.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARKS = ("<!-- plans -->", "<!-- /plans -->")
GIB = 2**30


def table(plans: list[dict[str, Any]]) -> str:
    """One column per plan."""
    rows: list[tuple[str, list[str]]] = []

    def row(name: str, cell: Callable[[dict[str, Any]], str | None]) -> None:
        cells = [cell(plan) or "" for plan in plans]
        if any(cells):
            rows.append((name, cells))

    row("chips", lambda p: f"{p['topology']['name']} ({p['chips']})")
    row("mesh", lambda p: p["mesh"])
    row("overrides", lambda p: " ".join(o for o in p["overrides"] if not o.startswith("mesh.")))
    kinds = dict.fromkeys(kind for plan in plans for kind in plan["kinds"])
    for kind in kinds:
        row(f"{kind}, GiB", lambda p, k=kind: f"{p['kinds'][k] / GIB:.2f}" if k in p["kinds"] else None)
    row("**sum of a chip, GiB**", lambda p: f"**{p['total'] / GIB:.2f}** of {p['capacity'] / GIB:.2f}")
    row(
        "fits",
        lambda p: "yes" if p["fits"] else "**no**" + "".join(f"; {r['name']}: {r['reason']}" for r in p["too_large"]),
    )
    for key in dict.fromkeys(key for plan in plans for key in plan["limits"]):
        row(f"largest {key} (estimate)", lambda p, k=key: str(p["limits"].get(k) or "none"))
    for role in ("student", "teacher"):
        _step_rows(row, role)
    row("compile time in all, s", lambda p: f"{sum(_all_seconds(p)):.0f}")
    for note in range(max(len(plan["notes"]) for plan in plans)):
        row("note", lambda p, i=note: p["notes"][i] if i < len(p["notes"]) else None)
    head = ["", *(f"`{Path(plan['config']).stem}`" for plan in plans)]
    lines = [head, ["---", *["---:"] * len(plans)], *([name, *cells] for name, cells in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _step_rows(row: Callable[..., None], role: str) -> None:
    def of(cell: Callable[[dict[str, Any], dict[str, Any]], str]) -> Callable[[dict[str, Any]], str | None]:
        def found(plan: dict[str, Any]) -> str | None:
            step = next((s for s in plan["steps"] if s["role"] == role), None)
            return None if step is None else cell(step, plan)

        return found

    title = f"{role}'s decode step"
    row(
        f"{title}: least GB (weights + cache)",
        of(lambda s, p: f"{s['least'] / 1e9:.2f} ({s['weights'] / 1e9:.2f} + {s['cache'] / 1e9:.2f})"),
    )
    row(
        f"{title}: main memory, GB (over least)",
        of(lambda s, p: f"{s['moved'] / 1e9:.2f} ({s['moved'] / s['least']:.2f})"),
    )
    row(
        f"{title}: compiler's sum, GB (over least)",
        of(lambda s, p: f"{s['program']['moved'] / 1e9:.2f} ({s['program']['moved'] / s['least']:.2f})"),
    )
    row(f"{title}: GFLOP", of(lambda s, p: f"{s['program']['operations'] / 1e9:.0f}"))
    row(f"{title}: ms (estimate)", of(lambda s, p: f"{s['estimated_seconds'] * 1e3:.1f}"))
    row(
        f"{title}: tokens/s per chip (estimate)",
        of(lambda s, p: f"{s['tokens'] / s['estimated_seconds'] / p['chips']:.0f}"),
    )


def _all_seconds(plan: dict[str, Any]) -> list[float]:
    programs = [*plan["programs"], *(step["program"] for step in plan["steps"])]
    return [program["compile_seconds"] for program in programs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="+", type=Path, help="JSON files of tessy_jax.plan")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the tables of a Markdown page")
    options = parser.parse_args()
    plans = [json.loads(path.read_text(encoding="utf-8")) for path in options.plans]
    groups = [
        [p for p in plans if bool(p["steps"] or "weights, student" in p["kinds"]) == pair] for pair in (True, False)
    ]
    text = "\n\n".join(table(group) for group in groups if group)
    if options.write is None:
        print(text)
        return 0
    page = options.write.read_text(encoding="utf-8")
    before, mark, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        print(f"error: {options.write} has no place between {MARKS[0]} and {MARKS[1]}", file=sys.stderr)
        return 1
    options.write.write_text(f"{before}{mark}\n\n{text}\n\n{end}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
