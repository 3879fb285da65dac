"""`report.html`: tables, verdicts, lengths, and every response with its verdict, to look at on any screen.

The page stands alone: nothing is loaded from elsewhere, and no script runs. Long responses are cut in it, so that a
page of ten thousand stays small; each problem's responses stand whole in `responses/<number>.html` beside it. Both are
written as the responses come, so that memory holds one problem at a time.
"""

import html
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tessy_jax.console.html_page import PAGE_END, page_start
from tessy_jax.evals.judged import Judged, JudgedProblem
from tessy_jax.evals.published import SOURCE
from tessy_jax.evals.records import Verdict
from tessy_jax.evals.report import (
    Report,
    Result,
    conditions,
    difference_in_words,
    published_rows,
    share,
    shown,
    unfinished_in_words,
)
from tessy_jax.storage.outputs import upload_pages
from tessy_jax.storage.paths import StorePath

PAGE_BYTES = 8 << 20
"""About how much of responses the page holds."""
_STYLE = """
.wide { overflow-x: auto; } .wide table { white-space: nowrap; }
tr.published td { color: #7b838d; font-style: italic; }
.bar { display: flex; height: 1.1rem; border-radius: 4px; overflow: hidden; background: #eceff2; }
.bar i { display: block; } .key { margin-right: .9rem; white-space: nowrap; }
.key b { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .3rem; }
.steps { display: flex; align-items: flex-end; height: 5.5rem; gap: 2px; border-bottom: 1px solid #d5d9df; }
.steps i { flex: 1; background: #0f8b8d; border-radius: 2px 2px 0 0; } .steps i.few { min-height: 2px; }
.axis { display: flex; justify-content: space-between; margin: .15rem 0 1rem; font-size: 12px; color: #7b838d; }
details { border-top: 1px solid #eceff2; padding: .35rem 0; } details details { margin-left: .8rem; }
summary { cursor: pointer; overflow-wrap: anywhere; } summary:hover { color: #0f8b8d; }
summary .v { margin-left: .1rem; } a { color: #0f8b8d; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f6f8; border-radius: 6px; padding: .6rem .8rem;
font-size: 12.5px; margin: .4rem 0; } .v { border-radius: 4px; color: #fff; padding: 0 .35rem; font-size: 12px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .3rem 0; }
dd { margin: 0; overflow-wrap: anywhere; } dt { color: #7b838d; }
"""
_COLOURS = {
    Verdict.ACCEPTED: "#2a9d5c",
    Verdict.WRONG_ANSWER: "#c8413c",
    Verdict.TIME_LIMIT: "#d98c1f",
    Verdict.MEMORY_LIMIT: "#b8791c",
    Verdict.RUNTIME_ERROR: "#8e4ec6",
    Verdict.OUTPUT_LIMIT: "#a06a2c",
    Verdict.COMPILE_ERROR: "#5b6ee1",
    Verdict.NO_ANSWER: "#6b7280",
    Verdict.TRUNCATED: "#9aa1ac",
    Verdict.SKIPPED: "#b9bec6",
    Verdict.JUDGE_ERROR: "#111111",
}


@dataclass(frozen=True)
class ToShow:
    """The responses of one result.

    Attributes:
        responses: how many there are in all, which decides how much of each the page shows.
        prompts: whether problems may be shown.
    """

    result: Result
    problems: Iterable[JudgedProblem]
    responses: int
    prompts: bool = True


def write_html(folder: Path, report: Report, shown_results: Sequence[ToShow] = ()) -> None:
    """Writes report.html, and a new folder `responses` in place of an old one."""
    if isinstance(folder, StorePath):
        with tempfile.TemporaryDirectory() as place:
            write_html(Path(place), report, shown_results)
            upload_pages(Path(place), folder, "responses")
        return
    cut = max(200, min(20_000, PAGE_BYTES // max(1, sum(one.responses for one in shown_results))))
    for left in (*folder.glob(".report.*.tmp"), *folder.glob(".responses.*.tmp")):  # by a command that was killed
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    part = uuid.uuid4().hex
    page, pages = folder / f".report.{part}.tmp", folder / f".responses.{part}.tmp"
    try:
        pages.mkdir()
        with page.open("w", encoding="utf-8", errors="replace") as file:
            file.write(page_start(report.title, _STYLE))
            for note in report.notes:
                file.write(f"<p><b>{html.escape(note)}</b></p>\n")
            file.write(_section(_main_table(report)))
            for label in report.labels:
                file.write(_section(_benchmark(label, [one for one in report.results if one.label == label])))
            numbers = iter(range(1, 1 << 62))
            for one in shown_results:
                _write_responses(file, pages, one, cut, numbers)
            file.write(PAGE_END)
        shutil.rmtree(folder / "responses", ignore_errors=True)
        os.replace(pages, folder / "responses")
        os.replace(page, folder / "report.html")
    except BaseException:
        page.unlink(missing_ok=True)
        shutil.rmtree(pages, ignore_errors=True)
        raise


def _section(content: str) -> str:
    return f"<section>{content}</section>\n"


# -- tables ------------------------------------------------------------------------------------------------------------


def _main_table(report: Report) -> str:
    labels = report.labels
    counts = {one.label: one.scores.score.problems for one in report.results}
    head = ["pass@1, %", *(f"{label}<br><small>N={counts[label]}</small>" for label in map(html.escape, labels))]
    rows = [
        ("now", [html.escape(model), *(_score(report.of(model, label)) for label in labels)]) for model in report.models
    ]
    published = published_rows(labels)
    rows += [
        ("published", [f"{html.escape(name)} <small>published</small>", *cells]) for name, cells in published.items()
    ]
    below = "<p><small>± is the standard error over problems."
    if published:
        below += f" Published: {html.escape(SOURCE)}, under other conditions; not results of this program."
    return f"<h2>Results</h2>{_table(head, rows)}{below}</small></p>"


def _score(result: Result | None) -> str:
    return "" if result is None else html.escape(shown(result.scores.score))


def _table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Of cells that are HTML already."""
    body = "".join(f'<tr class="{kind}">{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for kind, row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{"".join(f"<th>{cell}</th>" for cell in head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _benchmark(label: str, results: Sequence[Result]) -> str:
    about = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in conditions(results[0]).items()
    )
    parts = [
        f"<h2>{html.escape(label)}</h2>",
        f"<details><summary>How it was judged</summary><dl>{about}</dl></details>",
    ]
    for one in results:
        scores = one.scores
        runs = ", ".join(f"{run:.2f}" for run in scores.runs)
        at_k = [f"pass@{k} {value:.2f}" for k, value in scores.pass_at.items()]
        at_k += [f"maj@{k} {value:.2f}" for k, value in scores.majority_at.items()]
        numbers = "; ".join([shown(scores.score), *at_k, f"runs: {runs}"])
        parts.append(f"<p><b>{html.escape(one.model)}</b> {html.escape(numbers)}</p>")
        if scores.judge_errors:
            parts.append(f"<p><b>The judge failed on {scores.judge_errors} responses, which are left out.</b></p>")
        if one.difference:
            parts.append(f"<p>{html.escape(difference_in_words(one))}</p>")
        parts += [_verdicts(scores.verdicts), _lengths(one)]
    for tag in dict.fromkeys(tag for one in results for tag in one.scores.groups):
        values = list(dict.fromkeys(value for one in results for value in one.scores.groups.get(tag, {})))
        rows = []
        for one in results:
            found = one.scores.groups.get(tag, {})
            rows.append(
                ("", [html.escape(one.model), *(shown(found[value]) if value in found else "" for value in values)])
            )
        parts.append(_table([html.escape(text) for text in (tag, *values)], rows))
    return "\n".join(parts)


def _verdicts(verdicts: dict[str, int]) -> str:
    """A bar, and what its colours say: the right ones first, the others in the order of `Verdict`."""
    total = max(1, sum(verdicts.values()))
    found = [(verdict, verdicts[verdict]) for verdict in Verdict if verdict in verdicts]
    bar = "".join(
        f'<i style="width:{100 * count / total:.2f}%;background:{_COLOURS[verdict]}" title="{_words(verdict)}"></i>'
        for verdict, count in found
    )
    keys = "".join(
        f'<span class="key"><b style="background:{_COLOURS[verdict]}"></b>{_words(verdict)} '
        f"{count:,} <small>{share(count, total)}</small></span>"
        for verdict, count in found
    )
    return f'<div class="bar">{bar}</div><p>{keys}</p>'


def _words(verdict: Verdict) -> str:
    return f"{verdict} {verdict.name.lower().replace('_', ' ')}"


def _lengths(result: Result) -> str:
    found = result.lengths
    cut = (
        f"{found.truncated:,} of {found.responses:,} responses ({share(found.truncated, found.responses)}) were cut off"
    )
    words = f"<p>{html.escape(unfinished_in_words(result))}</p>" if found.unfinished else ""
    if found.mean is None:
        return f"<p>{cut}; tokens were not counted.</p>{words}"
    most, longest = max(found.histogram), max(1, round(found.percentiles[-1]))
    width = longest / len(found.histogram)
    steps = "".join(
        f'<i class="{"few" if count else ""}" style="height:{100 * count / most:.1f}%" '
        f'title="{number * width:,.0f} to {(number + 1) * width:,.0f} tokens: {count:,} responses"></i>'
        for number, count in enumerate(found.histogram)
    )
    middle, most_of = (f"{found.percentiles[step]:,.0f}" for step in (5, 9))
    return (
        f"<p>{cut}. Lengths: {found.mean:,.0f} tokens on average, {middle} in the middle, {most_of} at 90 %, "
        f'{longest:,} at most.</p>{words}<div class="steps">{steps}</div><div class="axis"><span>0</span>'
        f"<span>{longest // 2:,}</span><span>{longest:,} tokens</span></div>"
    )


# -- responses ---------------------------------------------------------------------------------------------------------


def _write_responses(file: TextIO, pages: Path, show: ToShow, cut: int, numbers: Iterator[int]) -> None:
    result = show.result
    file.write(f"<section><h2>{html.escape(result.label)}: responses of {html.escape(result.model)}</h2>\n")
    for found in show.problems:
        number = next(numbers)
        name = html.escape(found.problem.id)
        tags = ", ".join(found.problem.tags.values())
        marks = " ".join(_mark(one) for one in found.responses)
        file.write(f"<details><summary>{name} <small>{html.escape(tags)}</small> {marks}</summary>\n")
        file.write(f'<p><a href="responses/{number:05d}.html">whole responses</a></p>\n')
        for one in found.responses:
            file.write(_response(one, cut))
        file.write("</details>\n")
        with (pages / f"{number:05d}.html").open("w", encoding="utf-8", errors="replace") as page:
            page.write(page_start(found.problem.id, _STYLE))
            page.write('<p><a href="../report.html">report</a></p>\n')
            if show.prompts:
                for message in found.problem.messages:
                    text = f"{message['role']}\n\n{message['content']}"
                    page.write(f"<pre>{html.escape(text)}</pre>\n")
            for one in found.responses:
                page.write(_section(_response(one, None)))
            page.write(PAGE_END)
    file.write("</section>\n")


def _mark(judged: Judged) -> str:
    verdict = judged.judgement.verdict if judged.judgement else None
    colour = _COLOURS[verdict] if verdict else "#d5d9df"
    return f'<span class="v" style="background:{colour}">{verdict or "not judged"}</span>'


def _response(judged: Judged, cut: int | None) -> str:
    """What was written and said of it. A cut text keeps its beginning and, where the answer stands, its end."""
    response, judgement = judged
    about = [f"run {response.sample_index}", response.finish]
    about += [] if response.n_tokens is None else [f"{response.n_tokens:,} tokens"]
    if judgement and judgement.cases:
        about.append(f"{judgement.cases_passed} of {judgement.cases} tests")
    head = f"{_mark(judged)} {html.escape(', '.join(about))}"
    parts = [f"<p>{html.escape(_cut(judgement.detail, cut))}</p>"] if judgement and judgement.detail else []
    if judgement and judgement.extracted is not None:
        parts.append(f"<small>judged</small><pre>{html.escape(_cut(judgement.extracted, cut and cut // 2))}</pre>")
    parts.append(f"<small>response</small><pre>{html.escape(_cut(response.response, cut))}</pre>")
    opened = "" if cut is not None else " open"
    return f"<details{opened}><summary>{head}</summary>{''.join(parts)}</details>\n"


def _cut(text: str, length: int | None) -> str:
    if length is None or len(text) <= length:
        return text
    first = length // 4
    return f"{text[:first]}\n\n[… {len(text) - length:,} characters …]\n\n{text[len(text) - (length - first) :]}"
