"""The report of an experiment: `report.json` with all numbers, `report.md` with tables, `report.html` to look at."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tessy_jax.console.progress import duration
from tessy_jax.data.jsonl import replace_file
from tessy_jax.evals.published import SOURCE
from tessy_jax.evals.report import published_rows
from tessy_jax.experiments.numbers import numbers
from tessy_jax.experiments.results import Results
from tessy_jax.experiments.traces import AUTHORS

Numbers = Mapping[str, Any]
"""As in `report.json`."""

METHOD = (
    "95 % intervals are over seeds and problems together, as crossed random effects (Student's t, degrees of freedom "
    "by Satterthwaite); differences are of the same seed and the same problem. With one seed the interval is over "
    "problems alone. docs/experiments.md has the formula."
)


class Table(NamedTuple):
    """A table of texts.

    Attributes:
        title: above it.
        notes: below it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def write_report(folder: Path, results: Results) -> None:
    """Writes all three files."""
    from tessy_jax.experiments.report_html import page  # here, for it takes a second to import what draws

    found = numbers(results)
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    for name, content in (("report.json", text), ("report.md", to_markdown(found)), ("report.html", page(found))):
        replace_file(folder / name, content.encode("utf-8", "backslashreplace"))


def to_markdown(found: Numbers) -> str:
    """The tables, in Markdown."""
    parts = [f"# {_cell(found['title'])}", *map(_cell, remarks(found))]
    for table in tables(found):
        parts += [f"## {_cell(table.title)}", _markdown(table), *map(_cell, table.notes)]
    return "\n\n".join(parts) + "\n"


def remarks(found: Numbers) -> list[str]:
    """What a reader must know, and what the report lacks."""
    unfinished, notes = found["stages"]["unfinished"], list(found["notes"])
    if not unfinished:
        return notes
    named = "; ".join(f"{one['stage']}: {one['why']}" for one in unfinished)
    return [*notes, f"{len(unfinished)} of {found['stages']['all']} stages are not in this report: {named}."]


def tables(found: Numbers) -> Iterator[Table]:
    """All tables that there are numbers for, Table 1 first."""
    if found["benchmarks"]:
        yield _scores(found)
        yield _differences(found, "base", "the model before training")
        if found["control"] is not None:
            yield _differences(found, "control", found["control"])
    if found["lengths"]:
        yield _lengths(found)
    if found["authors"]:
        yield _authors(found)
    if found["cost"]:
        yield _cost(found)
    if found["training"]:
        yield _training(found)
    if found["held_out"]:
        yield _held_out(found)
    if any(found["seconds"].values()):
        yield _seconds(found)


# -- scores ------------------------------------------------------------------------------------------------------------


def _scores(found: Numbers) -> Table:
    cells = {
        (row["arm"], one["label"]): _interval(row["score"]) + _seeds(found, row["arm"], row["score"]["seeds"])
        for one in found["benchmarks"]
        for row in one["rows"]
    }
    rows = _by_benchmark(found, list(found["arms"]), cells)
    published = published_rows([one["label"] for one in found["benchmarks"]])
    rows += [[f"{name} (published)", *values] for name, values in published.items()]
    below = [f"Published: {SOURCE}, under other conditions; not results of this program."] if published else []
    return Table("Table 1: pass@1, %", _columns(found), rows, [METHOD, *below])


def _differences(found: Numbers, other: str, title: str) -> Table:
    cells = {
        (row["arm"], one["label"]): _interval(row[f"less_{other}"], sign=True)
        for one in found["benchmarks"]
        for row in one["rows"]
        if row.get(f"less_{other}") is not None
    }
    arms = [arm for arm in found["arms"] if any(name == arm for name, _ in cells)]
    return Table(f"Less {title}, points", _columns(found), _by_benchmark(found, arms, cells))


def _columns(found: Numbers) -> list[str]:
    return ["", *(f"{one['label']} (N={one['problems']})" for one in found["benchmarks"])]


def _by_benchmark(found: Numbers, arms: Sequence[str], cells: Mapping[tuple[str, str], str]) -> list[list[str]]:
    """A row for each arm, with a cell for each benchmark."""
    return [[arm, *(cells.get((arm, one["label"]), "not run yet") for one in found["benchmarks"])] for arm in arms]


def _interval(one: Mapping[str, Any], sign: bool = False, digits: int = 2) -> str:
    form = f"{'+' if sign else ''}.{digits}f"
    if one["low"] is None:
        return f"{one['value']:{form}}"
    return f"{one['value']:{form}} ({one['low']:{form}} to {one['high']:{form}})"


def _seeds(found: Numbers, arm: str, count: int) -> str:
    """Said where it is not the number that was asked for."""
    wanted = len(found["seeds"])
    return "" if count == wanted or arm == "base" else f", {count} of {wanted} seeds"


# -- texts, cost, time -------------------------------------------------------------------------------------------------


def _lengths(found: Numbers) -> Table:
    labels = [one["label"] for one in found["benchmarks"]]
    head = ["", "trace trained on", *(name for label in labels for name in (f"{label}: response", "cut off"))]
    rows = []
    for arm, one in found["lengths"].items():
        cells = [_tokens(one["trace_tokens"])]
        for label in labels:
            response = one["responses"].get(label)
            cells += ["", ""] if response is None else [_tokens(response["tokens"]), _percent(response["truncated"])]
        rows.append([arm, *cells])
    return Table("Lengths, mean tokens", head, rows, ["The row of base is before training."] if labels else [])


def _authors(found: Numbers) -> Table:
    head = ["", "tokens of thinking", "characters of thinking", "tokens of answers", "switches per record"]
    keys = ("thinking_tokens", "thinking_characters", "answer_tokens")
    rows = [
        [
            arm,
            *(" / ".join(_percent(one[key][author]) for author in AUTHORS) for key in keys),
            f"{one['switches_per_record']:.1f}",
        ]
        for arm, one in found["authors"].items()
    ]
    return Table("Who wrote what: student / teacher", head, rows)


def _cost(found: Numbers) -> Table:
    names = ("generated", "kept", "rolled_back", "left_out")
    head = ["", "records", "rejected"]
    head += [f"{author}: {name.replace('_', ' ')}" for author in AUTHORS for name in (*names, "per record")]
    head.append("rolled back by either")
    rows = []
    for arm, one in found["cost"].items():
        cells = [f"{one['records']:,}", f"{one['rejected']:,}"]
        for author in AUTHORS:
            model = one["models"][author]
            cells += [*(f"{model[name]:,}" for name in names), f"{model['generated_per_record']:,.1f}"]
        rows.append([arm, *cells, f"{one['rolled_back_by_either']:,}"])
    below = (
        "Generated is kept, rolled back, or left out (texts of steps that are in no record). Rolled back by either: in "
        "turns that kept nothing, where both models wrote; a record does not say whose, and it is in no other column."
    )
    return Table("Cost of the data, tokens of all seeds, each in its model's tokens", head, rows, [below])


def _training(found: Numbers) -> Table:
    head = ["", "steps of all seeds", "tokens trained on", "rows rejected", "loss of the first step", "of the last"]
    rows = [
        [arm, *(f"{one[name]:,}" for name in ("steps", "tokens", "rejected")), *_losses(one, "first_loss", "last_loss")]
        for arm, one in found["training"].items()
    ]
    return Table("Training", head, rows)


def _held_out(found: Numbers) -> Table:
    rows = [
        [arm, *_losses(one, "before", "after"), _interval(one["change"], sign=True, digits=4)]
        for arm, one in found["held_out"].items()
    ]
    below = "The interval is over seeds. Where sft holds out a share of its data, arms do not hold out the same."
    return Table("Loss on what sft holds out, nats per token", ["", "before", "after", "change"], rows, [below])


def _losses(one: Mapping[str, Any], *names: str) -> list[str]:
    return [f"{one[name]:.4f}" for name in names]


def _seconds(found: Numbers) -> Table:
    commands = list(dict.fromkeys(name for one in found["seconds"].values() for name in one))
    rows = [
        [arm, *(duration(one[name]) if name in one else "" for name in commands)]
        for arm, one in found["seconds"].items()
        if one
    ]
    return Table("Wall time of all seeds", ["", *commands], rows)


def _tokens(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _markdown(table: Table) -> str:
    lines = [table.head, ["---"] + ["---:"] * (len(table.head) - 1), *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that Markdown takes for text: labels come from files of others."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
