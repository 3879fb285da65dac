"""Reports: the tables, the page, and what others wrote into it."""

import html.parser
import json
import re
import tracemalloc
from dataclasses import asdict

import pytest

from tessy_jax.evals.interchange import read_lcb_outputs, read_ojbench, write_lcb_eval_all, write_lcb_outputs
from tessy_jax.evals.judged import Judged, JudgedProblem, judge_failed, read_judged
from tessy_jax.evals.published import COLUMNS, TABLE_1
from tessy_jax.evals.records import Judgement, Problem, Response, Verdict
from tessy_jax.evals.report import Report, Result, lengths, to_markdown, write_report
from tessy_jax.evals.report_html import ToShow, write_html
from tessy_jax.evals.scores import ScoreError, compare_models, passes, score
from tessy_jax.evals.tasks.rows import TaskError, read_rows
from tests.kit.benchmarks import STDIN, lcb_row, write_jsonl

EVIL = "</pre><script>alert(1)</script> | <img src=http://x.test/y> \x00 \ud800 [a](javascript:b)"
PROBLEMS = [Problem(EVIL, [{"role": "user", "content": EVIL}], {"difficulty": EVIL}), Problem("b", [], {})]
JUDGEMENTS = [
    Judgement(EVIL, 0, Verdict.ACCEPTED, extracted="print(1)", cases=2, cases_passed=2),
    Judgement(EVIL, 1, Verdict.WRONG_ANSWER, extracted=EVIL, detail=EVIL),
    Judgement("b", 0, Verdict.TRUNCATED),
    Judgement("b", 1, Verdict.NO_ANSWER),
]
RESPONSES = [
    Response(one.problem_id, one.sample_index, f"{EVIL} {'x' * 50_000} the end", "length", 1000 * number)
    for number, one in enumerate(JUDGEMENTS)
]


def result(model="mine", label="LCB-V5", **changes):
    scores = score(PROBLEMS, JUDGEMENTS, runs=2, groups=("difficulty",), ks=(1, 2), identity={"extract": "last_fence"})
    return Result(model, label, scores, lengths(RESPONSES), {"temperature": 0.6}, **changes)


def judged():
    by_problem = {problem.id: [] for problem in PROBLEMS}
    for response, judgement in zip(RESPONSES, JUDGEMENTS, strict=True):
        by_problem[response.problem_id].append(Judged(response, judgement))
    return [JudgedProblem(problem, by_problem[problem.id]) for problem in PROBLEMS]


def test_published_numbers():
    assert all(len(row) == len(COLUMNS) for row in TABLE_1.values())
    assert (TABLE_1["TESSY"][0], TABLE_1["Qwen3-8B"][-1], len(TABLE_1)) == (62.87, 69.81, 8)


def test_tables(tmp_path):
    difference = compare_models(passes(JUDGEMENTS), passes(JUDGEMENTS))
    report = Report(
        "A | title", [result(EVIL, difference=("base", difference)), result("b", "GSM")], ["ran on CPython"]
    )
    write_report(tmp_path, report)
    text = to_markdown(report)
    assert "25.00 ± 25.00" in text
    assert "| *TESSY (published)* | 62.87 |  |" in text
    assert "not results of this program" in text
    assert "+0.00 points, 95 % interval +0.00 to +0.00, on the same 2 problems" in text
    assert "<script" not in text
    assert "[a](" not in text.replace("\\[a](", "")
    content = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert content["results"][0]["scores"]["pass_at"] == {"1": 25.0, "2": 50.0}
    assert content["published"]["source"] == "arXiv 2604.14164, Table 1"


def test_results_that_cannot_be_compared_share_no_column():
    other = score(PROBLEMS, JUDGEMENTS, runs=2, identity={"extract": "lcb"})
    with pytest.raises(ScoreError, match='extract is "last_fence" and "lcb"'):
        Report("t", [result(), Result("other", "LCB-V5", other, lengths(RESPONSES))])


class Reader(html.parser.HTMLParser):
    """The tags of a page, and whatever a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loaded = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "srcset", "data", "background")]
        self.loaded += [value for name, value in attrs if name == "href" and tag == "link"]


def test_the_page_stands_alone_and_runs_nothing(tmp_path):
    report = Report(EVIL, [result()], [EVIL])
    for _ in range(2):  # the second takes the place of the first
        write_html(tmp_path, report, [ToShow(result(), judged(), len(RESPONSES))])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "responses"]
    assert sorted(file.name for file in (tmp_path / "responses").iterdir()) == ["00001.html", "00002.html"]
    pages = [path.read_text("utf-8") for path in (tmp_path / "report.html", *(tmp_path / "responses").iterdir())]
    for page in pages:
        read = Reader(page)
        assert not {"script", "img", "link", "iframe", "object"} & set(read.tags)
        assert not read.loaded
        assert 'name="viewport"' in page
        assert not re.search(r"url\(|@import", page)
    assert "published" in pages[0]
    assert "the end" in pages[0]
    assert "x" * 30_000 not in pages[0]  # cut in the page
    assert any("x" * 50_000 in page for page in pages[1:])  # whole beside it


def test_problems_that_must_not_be_published_are_left_out(tmp_path):
    problem = Problem("a", [{"role": "user", "content": "a secret question"}])
    for prompts in (True, False):
        write_html(tmp_path, Report("t", []), [ToShow(result(), [JudgedProblem(problem, [])], 0, prompts)])
        text = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.html"))
        assert ("a secret question" in text) == prompts


def test_ten_thousand_responses_in_bounded_memory(tmp_path):
    def many():
        for number in range(1_000):
            response = Response(f"p{number}", 0, f"{number} words " * 150)
            yield JudgedProblem(Problem(f"p{number}", []), [Judged(response, None)] * 10)

    tracemalloc.start()
    write_html(tmp_path, Report("t", []), [ToShow(result(), many(), 10_000)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
    assert (tmp_path / "report.html").stat().st_size > 8 << 20


def test_responses_of_a_file_and_their_judgements(tmp_path):
    rows = [
        {"problem_id": name, "sample_index": run, "response": f"{name}{run}", "n_tokens": 3}
        for run in (1, 0)
        for name in ("b", "a")
    ]
    path = write_jsonl(tmp_path / "responses.jsonl", rows)
    verdicts = write_jsonl(tmp_path / "judgements.jsonl", [asdict(Judgement("a", 1, Verdict.ACCEPTED))])
    problems = [Problem("a", []), Problem("b", []), Problem("c", [])]
    found = list(read_judged(problems, path, verdicts, runs=2))
    assert [[one.response.response for one in problem.responses] for problem in found] == [
        ["a0", "a1"],
        ["b0", "b1"],
        [],
    ]
    assert [one.judgement and one.judgement.passed for one in found[0].responses] == [None, True]
    assert [len(problem.responses) for problem in read_judged(problems, path, verdicts, runs=1)] == [1, 1, 0]
    one, _ = next(read_judged(problems, path, verdicts, runs=2, failed=True)).responses
    assert one.judgement == judge_failed(one.response)
    write_jsonl(path, [*rows, {"problem_id": "a"}])
    with pytest.raises(TaskError, match=r"responses.jsonl:5: cannot be read"):
        list(read_judged([], path, verdicts, runs=2))


def test_files_of_livecodebench(tmp_path):
    problems = [
        JudgedProblem(
            Problem(tiny.name, []),
            [
                Judged(Response(tiny.name, 0, "a"), Judgement(tiny.name, 0, Verdict.ACCEPTED, extracted=tiny.right)),
                Judged(Response(tiny.name, 1, "b"), Judgement(tiny.name, 1, Verdict.NO_ANSWER)),
            ],
        )
        for tiny in STDIN[:2]
    ]
    write_lcb_outputs(tmp_path / "out.json", problems)
    rows = json.loads((tmp_path / "out.json").read_text())
    assert rows[0] == {"question_id": "double", "code_list": [STDIN[0].right, ""]}
    back = list(read_lcb_outputs(tmp_path / "out.json"))
    assert back[0] == Response("double", 0, f"```python\n{STDIN[0].right}\n```")
    assert [one.sample_index for one in back] == [0, 1, 0, 1]

    source = write_jsonl(tmp_path / "test.jsonl", [lcb_row(tiny) for tiny in STDIN[:2]])
    write_lcb_eval_all(tmp_path / "x_eval_all.json", problems, read_rows(source))
    row = json.loads((tmp_path / "x_eval_all.json").read_text())[0]
    assert (row["graded_list"], row["pass@1"], row["difficulty"]) == ([True, False], 0.5, "easy")
    assert not {"public_test_cases", "private_test_cases"} & set(row)


def test_rows_of_ojbench(tmp_path):
    row = {"id": 1, "prompt": "p", "dataset": "NOI", "language": "cpp", "difficulty": "easy", "content": "x"}
    found = list(read_ojbench(write_jsonl(tmp_path / "x.jsonl", [row, row | {"language": "python"}, row])))
    assert found == [Response("loj-1/cpp", 0, "x"), Response("loj-1/python", 0, "x"), Response("loj-1/cpp", 1, "x")]
    with pytest.raises(TaskError, match=r"x.jsonl:1: there is no field 'content'"):
        list(read_ojbench(write_jsonl(tmp_path / "x.jsonl", [{"id": 1, "dataset": "NOI", "language": "cpp"}])))
