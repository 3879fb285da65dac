"""`report.html` in a real browser: what a reader sees and can open, and that nothing else is loaded or said."""

from tessy_jax.evals.report import Report
from tessy_jax.evals.report_html import ToShow, write_html
from tests.evals.test_report import EVIL, JUDGEMENTS, PROBLEMS, RESPONSES, judged, result
from tests.kit.browser import Page

VISIBLE = "e => e.checkVisibility() && e.getBoundingClientRect().height > 0"


def test_a_reader_sees_tables_and_opens_every_response(tmp_path):
    report = Report(EVIL, [result(), result(label="GSM")], [EVIL])
    shown = [ToShow(each, judged(), len(RESPONSES)) for each in report.results]
    write_html(tmp_path, report, shown)
    path = tmp_path / "report.html"
    with Page(tmp_path / "profile") as page:
        page.open(path)

        # The table: our row beside the published ones, which are marked; bars of verdicts and lengths.
        table = page.value("document.querySelector('table').innerText")
        assert "LCB-V5" in table
        assert "25.00 ± 25.00" in table
        rows = page.value("[...document.querySelectorAll('tr.published')].map(row => row.innerText)")
        assert len(rows) == 8
        assert all("published" in row for row in rows)
        assert any("TESSY" in row and "62.87" in row for row in rows)
        for chart in (".bar", ".steps"):
            assert page.value(f"[...document.querySelectorAll('{chart}')].length") == 2
            filled = "e => e.getBoundingClientRect().height > 0 && e.getBoundingClientRect().width > 0"
            assert page.value(f"[...document.querySelectorAll('{chart}')].every(c => [...c.children].some({filled}))")
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")

        # Every problem and response is closed at first, and shows its text and verdict when it is clicked.
        assert not page.value(f"[...document.querySelectorAll('pre')].some({VISIBLE})")
        page.value("document.querySelectorAll('summary').forEach(summary => summary.click())")
        assert page.value(f"[...document.querySelectorAll('pre')].every({VISIBLE})")
        heads = page.value("[...document.querySelectorAll('details details > summary')].map(e => e.innerText)")
        assert len(heads) == 2 * len(RESPONSES)
        for head, judgement in zip(heads, 2 * JUDGEMENTS, strict=True):
            assert head.startswith(judgement.verdict), (head, judgement)

        # So does the page of each problem, whole.
        links = page.value("[...document.querySelectorAll('section a')].map(a => a.getAttribute('href'))")
        assert len(links) == 2 * len(PROBLEMS)
        for link in links:
            page.open(tmp_path / link)
            assert page.value(f"[...document.querySelectorAll('pre')].every({VISIBLE})")
            assert page.value("document.body.innerText.includes('the end')")

    assert not page.complaints
    assert page.requests == [path.as_uri(), *((tmp_path / link).as_uri() for link in links)]
