"""`report.html`: the report, and a viewer of all traces, in one file that loads nothing and opens from disk."""

import html
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from tessy_jax.analysis.figures import figures
from tessy_jax.analysis.packed import write_blocks
from tessy_jax.analysis.report import Numbers
from tessy_jax.analysis.traces import DataSet
from tessy_jax.console.html_page import PAGE_END, page_start
from tessy_jax.storage.outputs import upload_pages
from tessy_jax.storage.paths import StorePath
from tessy_jax.text.tokenizer import ContentTokenizer

_ONLY_ITSELF = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)
"""What the browser may load for the page: nothing."""


def write_page(path: Path, found: Numbers, sets: Sequence[DataSet], teacher: ContentTokenizer | None) -> None:
    """Writes the page at once: a reader sees the old one or the new, never a part.

    Args:
        found: the numbers of the report.
        sets: the traces.
        teacher: whose token boundaries are shown besides the student's.
    """
    if isinstance(path, StorePath):
        with tempfile.TemporaryDirectory() as place:
            write_page(Path(place, path.name), found, sets, teacher)
            upload_pages(Path(place), path.parent)
        return
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(page_start("What is in the data", _asset("viewer.css"), _ONLY_ITSELF))
            file.write('<nav><a href="#report">Report</a><a href="#traces">Traces</a></nav>\n<div id="report">\n')
            for section in _sections(found):
                file.write(f"<section>{section}</section>\n")
            file.write(f"</div>\n{_asset('viewer.html')}\n")
            write_blocks(file, sets, teacher)
            file.write(f"<script>\n{_asset('viewer.js')}</script>\n{PAGE_END}")
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _asset(name: str) -> str:
    return files("tessy_jax.analysis").joinpath(name).read_text("utf-8")


# -- the report --------------------------------------------------------------------------------------------------------


def _sections(found: Numbers) -> Iterator[str]:
    sets = found["sets"]
    yield from (_verdict(one) for one in sets if not one["is_reference"])
    yield _overview(found)
    yield _losses(sets)
    for title, about, figure in figures(found):
        yield f"<h2>{html.escape(title)}</h2><p>{html.escape(about)}</p>{figure}"
    yield _similarity(found)
    yield from map(_dearest, sets)
    yield from map(_words, sets)
    yield _flags(found)
    yield from (_contamination(one) for one in sets if one["contamination"])


def _verdict(one: Numbers) -> str:
    said = one["verdict"]
    near = [[f"{row['name']} ({row['where']})", f"{row['excess']:+.2f}", row["what"]] for row in said["nearest"]]
    table = _table(["nearest of the measured sets", "excess, nats per token", "what came out"], near) if near else ""
    return (
        f"<h2>Does {html.escape(one['name'])} suit the student?</h2><p class='verdict {said['verdict']}'>"
        f"{html.escape(said['words'])}</p>{table}<p><small>{html.escape(said['limits'])}</small></p>"
    )


def _overview(found: Numbers) -> str:
    head = ["", *(one["name"] + (" (own text)" if one["is_reference"] else "") for one in found["sets"])]
    rows = [
        ("traces", [f"{one['traces']:,}" for one in found["sets"]]),
        ("rows rejected", [f"{one['rejected']:,}" for one in found["sets"]]),
        ("cut off at the length", [f"{one['cut_off']:,}" for one in found["sets"]]),
        ("tokens to learn", [f"{sum(one['tokens'].values()):,}" for one in found["sets"]]),
        ("tokens of a response, mean", [_number(one["lengths"]["mean"], 0) for one in found["sets"]]),
        ("thinking by the teacher", [_percent(one["authors"]["shares"].get("teacher")) for one in found["sets"]]),
        ("switches per 1,000 tokens", [_number(one["switches_per_1k_tokens"], 1) for one in found["sets"]]),
        ("rolled back per token kept", [_number(one["rolled_back_per_kept"], 2) for one in found["sets"]]),
        ("end of thinking", [_counted(one["finish"]["think"]) for one in found["sets"]]),
        ("end of the answer", [_counted(one["finish"]["answer"]) for one in found["sets"]]),
        ("answers right, of those judged", [_percent(one["correct"]["share"]) for one in found["sets"]]),
        ("four-word pieces said before", [_percent(one["repetition"]["mean"]) for one in found["sets"]]),
        ("traces with a near-duplicate", [f"{one['near_duplicates']['traces']:,}" for one in found["sets"]]),
    ]
    return f"<h2>What there is</h2>{_table(head, [[name, *cells] for name, cells in rows])}"


def _losses(sets: Sequence[Numbers]) -> str:
    parts = list(dict.fromkeys(part for one in sets for part in one["loss"]["by_part"]))
    head = ["nats per token", "all", *parts, "loss of sft at step 0", "perplexity", "a trace: 5 % to 95 %"]
    rows = []
    for one in sets:
        loss = one["loss"]
        by_part = [_number(loss["by_part"].get(part, {}).get("nats"), 3) for part in parts]
        spread = f"{loss['traces']['0.05']:.2f} to {loss['traces']['0.95']:.2f}"
        numbers = [_number(loss["step_0_loss"], 3), _number(loss["perplexity"], 1), spread]
        rows.append([one["name"], _number(loss["all"]["nats"], 3), *by_part, *numbers])
    return (
        "<h2>How likely the student finds it</h2><p>style: thinking that the student wrote; capability: that "
        f"the teacher wrote; assistant: by an unknown author. All before any training.</p>{_table(head, rows)}"
    )


def _similarity(found: Numbers) -> str:
    names = [one["name"] for one in found["sets"]]
    parts = []
    for key, title in (
        ("mean", "mean over all pairs of responses (Fig. 14)"),
        ("centres", "of the sets' mean vectors"),
        ("same_problem", "mean over responses to the same problem"),
    ):
        rows = [
            [name, *(_number(cell[key], 3) for cell in row)]
            for name, row in zip(names, found["similarity"], strict=True)
        ]
        parts.append(_table([title, *names], rows))
    return f"<h2>How alike the data sets are</h2><p>Cosines of TF-IDF in the student's tokens.</p>{''.join(parts)}"


def _dearest(one: Numbers) -> str:
    def listed(rows: Sequence[Numbers]) -> str:
        cells = [[row["text"], str(row["count"]), f"{row['nats']:.0f}", f"{row['mean']:.2f}"] for row in rows]
        return _table(["", "times", "nats", "each"], cells, code=True)

    return (
        f"<h2>What costs the student most: {html.escape(one['name'])}</h2><div class='two'>"
        f"<div><p>Tokens</p>{listed(one['dearest_tokens'])}</div>"
        f"<div><p>Phrases, said twice or more</p>{listed(one['dearest_phrases'])}</div></div>"
    )


def _words(one: Numbers) -> str:
    columns = [
        f"<div><p>{html.escape(by)}</p>"
        + _table(["word", "per 1,000"], [[row["word"], f"{row['per_1k']:.1f}"] for row in rows], code=True)
        + "</div>"
        for by, rows in one["words"].items()
    ]
    return (
        f"<h2>Most frequent words (Fig. 16): {html.escape(one['name'])}</h2><div class='two'>{''.join(columns)}</div>"
    )


def _flags(found: Numbers) -> str:
    rows = [
        [f"{flag}: {about}", *(f"{one['flags'][flag]:,}" for one in found["sets"])]
        for flag, about in found["flags"].items()
    ]
    named = [
        [f"{one['name']}: {flag}", ", ".join(ids)] for one in found["sets"] for flag, ids in one["flagged"].items()
    ]
    examples = _table(["examples", "traces"], named) if named else ""
    return (
        "<h2>Quality flags</h2><p>The list of traces can be filtered by each.</p>"
        f"{_table(['', *(one['name'] for one in found['sets'])], rows)}{examples}"
    )


def _contamination(one: Numbers) -> str:
    rows = [
        [file, f"{hit['problems_found']:,} of {hit['problems']:,}", f"{hit['traces_hit']:,}"]
        for file, hit in one["contamination"].items()
    ]
    hits = [
        [example["problem"], example["trace"], example["words"]]
        for hit in one["contamination"].values()
        for example in hit["examples"]
    ]
    return (
        f"<h2>Benchmarks in the data: {html.escape(one['name'])}</h2><p>13 words in a row, or a whole problem that is "
        f"shorter.</p>{_table(['benchmark', 'problems found', 'traces'], rows)}"
        + (_table(["problem", "trace", "words"], hits) if hits else "")
    )


# -- pieces ------------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], code: bool = False) -> str:
    """A table of texts. `code`: the first cells show their white space."""
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{f'<code>{html.escape(cell)}</code>' if code and not n else html.escape(cell)}</td>"
            for n, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f"<div class='wide'><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
