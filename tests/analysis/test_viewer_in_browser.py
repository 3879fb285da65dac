"""`report.html` in a real browser: what a reader finds, whatever the texts are, and that nothing else is loaded."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessy_jax.analysis.packed import PAGE_BYTES
from tessy_jax.analysis.page import write_page
from tessy_jax.analysis.report import numbers
from tessy_jax.analysis.traces import DataSet, Trace
from tessy_jax.analysis.vectors import vectors
from tests.kit.browser import PATIENCE, Page
from tests.kit.traces import data_set, reading, trace

EVIL = "<script>document.title='hurt'</script></script><!--<img src=x onerror=\"document.title='hurt'\">"
BIDI = "left \u202eright\u202c \u2067isolate\u2069 \u200fmark"
EMOJI = "👩‍👩‍👧 👍🏽 and 𝔘𝔫𝔦"
LONG = "ab cd ef gh " * 5000

OPEN = "document.getElementById('text').textContent"
IDS = "[...document.querySelectorAll('.row .id')].map(e => e.textContent)"


def sets() -> list[DataSet]:
    ours = data_set(
        "ours",
        trace(EVIL, [("student", f"okay {EVIL}"), ("teacher", f"so {BIDI}")], f"{EMOJI} four", nll=2.0),
        trace("long", [("student", "okay so"), ("teacher", LONG)], "nine", nll=0.5, end="length"),
        trace("plain", [("student", "okay"), ("teacher", "two plus two"), ("student", "good")], "four", nll=1.0),
    )
    ours.traces[2].correct = True
    ours.traces[1].marks = ("truncated",)
    other = data_set(EVIL, trace("other", [("teacher", "we compute the needle hence nine")], "nine", nll=5.0))
    return [ours, other]


def write(path: Path, shown: list[DataSet], counted: list[DataSet] | None = None) -> Path:
    counted = counted or shown
    found = numbers(counted, False, vectors(counted), reading().chat, [])
    write_page(path, found, shown, None)
    return path


def wait(page: Page, what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := page.value(what)):
        assert time.monotonic() < end, f"{what}: {page.value('document.body.innerText')}"
        time.sleep(0.02)
    return found


def press(page: Page, key: str) -> None:
    page.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
    page.send("Input.dispatchKeyEvent", type="keyUp", key=key)


def change(page: Page, name: str, value: str) -> None:
    page.value(
        f"(e => {{ e.value = {value!r}; e.dispatchEvent(new Event('input')); }})(document.getElementById('{name}'))"
    )


def shown(page: Page) -> str:
    """The number of traces in the list, as the page says it."""
    return page.value("document.getElementById('count').textContent").partition(" of")[0]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("report") / "report.html", sets())


def test_a_reader_finds_opens_and_links_traces(report, tmp_path):
    with Page(tmp_path / "profile") as page:
        page.open(report)
        wait(page, "document.body.dataset.ready")
        assert page.value("document.querySelectorAll('#report section svg').length") >= 4
        assert page.value("!document.getElementById('report').hidden && document.getElementById('traces').hidden")

        # The list, and the first trace, coloured by author.
        page.value("location.hash = '#traces'")
        wait(page, f"{OPEN}.includes('okay')")
        assert shown(page) == "4"
        assert page.value(IDS)[1:] == ["long#0 (ours)", "plain#0 (ours)", f"other#0 ({EVIL})"]

        # Keys: the next traces, colours, boundaries, the next surprise.
        press(page, "j")
        press(page, "ArrowDown")
        wait(page, f"{OPEN}.includes('two plus two')")
        colours = "[...document.querySelectorAll('#text .teacher')].map(e => e.textContent).join('')"
        assert page.value(colours) == "two plus two "
        assert page.value("location.hash") == "#trace/0/plain%230"
        press(page, "s")
        wait(page, "document.querySelectorAll('#text [data-nats]').length > 5")
        assert page.value("document.querySelector('#text [data-nats]').title") == "1.00 nats, student"
        press(page, "t")
        assert wait(page, "document.querySelectorAll('#text .b-student').length") == 6
        press(page, "k")
        wait(page, f"{OPEN}.includes('ab cd')")

        # Search: in ids, prompts and texts; the keys belong to the field while one types.
        press(page, "/")
        assert page.value("document.activeElement.id") == "search"
        press(page, "j")
        assert page.value("document.activeElement.value") == "j"
        change(page, "search", "NEEDLE")
        wait(page, "document.getElementById('count').textContent.startsWith('1 of')")
        assert page.value(IDS) == [f"other#0 ({EVIL})"]
        change(page, "search", "problem plain")
        wait(page, f"{IDS}.join() === 'plain#0 (ours)'")
        page.value("document.getElementById('clear').click()")
        wait(page, "document.getElementById('count').textContent.startsWith('4 of')")

        # Filters and orders.
        for name, value, left in (
            ("set", "1", ["other#0"]),
            ("answer", "length", ["long#0"]),
            ("flag", "0", ["long#0"]),
            ("correct", "1", ["plain#0"]),
            ("tokens-min", "1000", ["long#0"]),
            ("switches-max", "0", ["other#0"]),
            ("share-min", "99", ["long#0", "other#0"]),
            ("novelty-max", "1", ["long#0", "plain#0"]),
        ):
            change(page, name, value)
            assert [one.partition(" ")[0] for one in page.value(IDS)] == left, name
            page.value("document.getElementById('clear').click()")
        change(page, "sort", "most surprising")
        assert [one.split(" (")[0] for one in page.value(IDS)] == ["other#0", f"{EVIL}#0", "plain#0", "long#0"]

        # The address of a single trace, from outside.
        page.send("Page.navigate", url="about:blank")
        page.send("Page.navigate", url=f"{report.as_uri()}#trace/1/other%230")
        wait(page, f"document.getElementById('text') && {OPEN}.includes('needle')")
        page.value("location.hash = '#trace/1/nobody'")
        wait(page, f"{OPEN} === 'There is no such trace in this page.'")

    assert not page.complaints
    assert set(page.requests) <= {report.as_uri(), f"{report.as_uri()}#trace/1/other%230", "about:blank"}


def test_any_text_is_text(report, tmp_path):
    texts = [one.content for part in sets() for one in part.traces]
    with Page(tmp_path / "profile") as page:
        page.open(report)
        page.value("location.hash = '#traces'")
        wait(page, f"{OPEN}.includes('okay')")
        for colour in ("author", "surprise", "none"):
            page.value(f"document.getElementById('colour').value = '{colour}'")
            page.value("document.getElementById('colour').onchange()")
            # What was rolled back is told beside the text, and is not of it.
            text = "[...document.querySelectorAll('#text > :not(.dropped)')].map(e => e.textContent).join('')"
            wait(page, f"{text}.endsWith('four ')")
            assert page.value(text) == texts[0]
        press(page, "j")
        wait(page, f"{text}.endsWith('nine ')")
        assert page.value(text) == texts[1]
        assert len(texts[1]) > 60_000
        assert page.value("document.title") == "What is in the data"
        assert page.value("document.querySelectorAll('img').length") == 0
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
        page.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        assert page.value("document.documentElement.scrollWidth <= 390")
    assert not page.complaints
    assert page.requests == [report.as_uri()]


def test_what_was_rolled_back_is_shown_on_request(report, tmp_path):
    spans = [("student", f"okay {EMOJI}"), ("teacher", "two plus two")]
    kept = trace("kept", spans, "four", dropped=f" wait{EVIL}{BIDI}")
    path = write(tmp_path / "report.html", [data_set("ours", kept, trace("other", spans, "four"))])
    dropped = "[...document.querySelectorAll('#text .dropped')].map(e => e.textContent)"
    text = "[...document.querySelectorAll('#text > :not(.dropped)')].map(e => e.textContent).join('')"
    with Page(tmp_path / "profile") as page:
        page.open(path)
        page.value("location.hash = '#traces'")
        wait(page, f"{OPEN}.includes('four')")
        assert page.value(dropped) == [" ⟲1 "] * 3  # the answer's too, as the kit has it

        press(page, "d")
        wait(page, f"{dropped}.join('').includes('wait')")
        assert page.value(dropped) == [f" wait{EVIL}{BIDI}"] * 2
        assert page.value(text) == kept.content
        shown = "document.querySelector('#text .dropped.teacher')"
        assert page.value(f"{shown}.title") == "1 tokens of the teacher, sampled here and rolled back"
        assert page.value(f"getComputedStyle({shown}).textDecorationLine") == "line-through"
        assert page.value(f"{shown}.nextSibling.className") == ""  # behind the teacher's span, before the marker
        assert page.value("document.title") == "What is in the data"

        # A trace that does not hold it, and a page in which none does.
        press(page, "j")
        wait(page, f"{dropped}.length === 3")
        assert page.value(dropped) == [" ⟲1 "] * 3
        assert not page.value("document.getElementById('dropped-choice').hidden")
        page.open(report)
        wait(page, "document.body.dataset.ready")
        assert page.value("document.getElementById('dropped-choice').hidden")
    assert not page.complaints
    assert page.requests == [path.as_uri(), report.as_uri()]


def test_what_predictors_said_is_a_colour(report, tmp_path):
    spans = [("student", f"{EMOJI} so"), ("teacher", "two plus")]
    said = trace("said", spans, "four")
    start = said.content.index("so")
    # "so" was kept, and the word that the student wrote then was not; of "two" nothing is known: it was not judged.
    words = [(start, start + 2, 0.95), (start + 3, start + 3, 0.1), (start + 6, start + 11, 0.25)]
    said = trace("said", spans, "four", scores=words)
    path = write(tmp_path / "report.html", [data_set("ours", said, trace("other", spans, "four"))])
    coloured = "[...document.querySelectorAll('#text [data-style]')].map(e => [e.textContent, e.title])"
    with Page(tmp_path / "profile") as page:
        page.open(path)
        page.value("location.hash = '#traces'")
        wait(page, f"{OPEN}.includes('four')")
        assert page.value(coloured) == []
        assert page.value("document.querySelectorAll('#text .cut').length") == 0

        press(page, "w")
        wait(page, f"{coloured}.length")
        assert page.value(coloured) == [["so", "P(style) 0.95, student"], [" plus", "P(style) 0.25, teacher"]]
        cut = "document.querySelector('#text .cut')"
        assert page.value(f"[{cut}.textContent, {cut}.title]") == ["0.10", "a word was rejected here: P(style) 0.1"]
        behind = f"[{cut}.nextSibling, {cut}.nextSibling.nextSibling].map(e => e.textContent)"
        assert page.value(behind) == [" ⟲1 ", "two"]
        text = "[...document.querySelectorAll('#text > :not(.dropped):not(.cut)')].map(e => e.textContent).join('')"
        assert page.value(text) == said.content
        colours = page.value(
            "[...document.querySelectorAll('#text [data-style]')].map(e => getComputedStyle(e).backgroundColor)"
        )
        assert len(set(colours)) == 2
        assert "rgba(0, 0, 0, 0)" not in colours
        assert "P(style) 0.5" in page.value("document.getElementById('key').textContent")
        press(page, "t")  # with the student's tokens the colour stays, and both are said
        wait(page, "document.querySelectorAll('#text .b-student').length")
        assert page.value(coloured)[0] == ["so", "1.00 nats, P(style) 0.95, student"]

        # A trace that does not hold them, and a page in which none does.
        press(page, "j")
        wait(page, f"{coloured}.length === 0")
        assert page.value("document.getElementById('colour').value") == "style"
        page.open(report)
        wait(page, "document.body.dataset.ready")
        page.value("location.hash = '#traces'")
        wait(page, f"{OPEN}.includes('okay')")
        assert page.value("document.getElementById('style-choice')") is None
        press(page, "w")
        assert page.value("document.getElementById('colour').value") == "author"
    assert not page.complaints
    assert page.requests == [path.as_uri(), report.as_uri()]


def test_ten_thousand_traces(tmp_path):
    """Most of the page stays packed: the list draws what is seen, and a trace opens the block that holds it."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{n}" for n in range(3000)])

    def one(number: int) -> Trace:
        spans = [(by, " ".join(rng.choice(words, 30))) for by in ("student", "teacher")]
        return trace(f"p{number}", spans, f"the answer is {number}")

    many = data_set("many", *map(one, range(10_000)))
    path = write(tmp_path / "report.html", [many], [data_set("few", *many.traces[:5])])
    assert path.stat().st_size < 1.25 * PAGE_BYTES <= 200 << 20
    with Page(tmp_path / "profile") as page:
        page.send("Page.navigate", url=f"{path.as_uri()}#traces")
        wait(page, f"document.getElementById('text') && {OPEN}.includes('the answer is 0')")
        assert page.value("kept.size") <= 2  # blocks
        assert page.value("document.querySelectorAll('.row').length") < 100
        page.send("Performance.enable")
        metrics = {m["name"]: m["value"] for m in page.send("Performance.getMetrics")["metrics"]}
        assert metrics["JSHeapUsedSize"] < 200 << 20
        page.value("document.getElementById('list').scrollTop = 68 * 9000")
        wait(page, f"{IDS}.includes('p9000#0')")
        change(page, "search", "answer is 9876")
        wait(page, f"{IDS}.join() === 'p9876#0'")
        assert page.value("kept.size") <= 8
    assert not page.complaints
