"""AIME, GPQA, OlympiadBench, HumanEval, and problems of one's own: from the row to the verdict."""

import csv
import json

import pytest
from pydantic import ValidationError

from tessy_jax.config.benchmarks import Aime, Gpqa, HumanEval, OlympiadBench, OwnProblems
from tessy_jax.evals.benchmark import _JUDGING
from tessy_jax.evals.judges.choice import judge_choice
from tessy_jax.evals.targets import ChoiceTarget, CodeTarget, MathTarget, TestCase
from tessy_jax.evals.tasks.registry import open_task
from tessy_jax.evals.tasks.rows import TaskError
from tests.kit.benchmarks import CHOICES, MATHS, write_jsonl


def test_aime_of_all_four_files(tmp_path):
    shapes = (("origin_prompt", "gold_answer"), ("question", "answer"), ("Problem", "Answer"), ("problem", "answer"))
    seen = []
    for number, (question, answer) in enumerate(shapes):
        rows = [{question: text, answer: int(value) if answer == "Answer" else value} for text, value in MATHS]
        path = write_jsonl(tmp_path / f"{number}.jsonl", rows)
        task = open_task(Aime(name="aime", path=str(path), year=2025))
        seen.append([(problem, task.target(problem)) for problem in task.problems()])
        assert (task.label, task.runs) == ("AIME2025", 32)
    assert seen[0] == seen[1] == seen[2] == seen[3]
    problem, target = seen[0][1]
    assert problem.messages[0]["content"].endswith("June?\nRemember to put your final answer within \\boxed{}.")
    assert target == MathTarget(("30",), integer=True)
    assert task.extract(problem, r"so \boxed{30}") == "30"
    changed = write_jsonl(tmp_path / "x.jsonl", [{"question": text, "answer": "7"} for text, _ in MATHS])
    assert open_task(Aime(name="aime", path=str(changed), year=2025)).identity() != task.identity()


@pytest.mark.parametrize("answer", ["1000", "-1", "1/2", "", None, [1]])
def test_answers_that_aime_cannot_have(tmp_path, answer):
    path = write_jsonl(tmp_path / "x.jsonl", [{"question": "?", "answer": answer}])
    with pytest.raises(TaskError, match=r"x.jsonl:1: field 'answer' must hold"):
        open_task(Aime(name="aime", path=str(path), year=2024))


def gpqa_file(path, rows=CHOICES):
    header = ["x"] * 7 + ["Question", "Correct Answer", *(f"Incorrect Answer {number}" for number in (1, 2, 3))]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "Record ID", "High-level domain"])
        for number, (question, options) in enumerate(rows):
            writer.writerow([*["-"] * 7, question, *options, f"rec{number}", "Own"])
    return path


def test_gpqa_has_its_options_in_opencompass_order(tmp_path):
    task = open_task(Gpqa(name="gpqa", path=str(gpqa_file(tmp_path / "x.csv"))))
    problems = list(task.problems())
    assert [task.target(problem).letter for problem in problems] == list("DCBA" * 2)
    text = problems[0].messages[0]["content"]
    assert text.endswith("answering.\n\nWhich of these is a prime?\n\nA) four\nB) six\nC) eight\nD) a prime")
    for problem, (_, options) in zip(problems, CHOICES, strict=True):
        assert f"{task.target(problem).letter}) {options[0]}" in problem.messages[0]["content"]
    assert not task.shows_prompts  # the authors ask that questions are not published
    assert judge_choice(ChoiceTarget("D"), task.extract(problems[0], "ANSWER: d")) == "AC"
    assert judge_choice(ChoiceTarget("D"), "E") == "WA"


def test_gpqa_files_that_are_wrong(tmp_path):
    for rows, words in (
        ([("q", ("a", "b"))], "x.csv:2: field 'Record ID' must hold some text"),
        ([], "no problem is left"),
    ):
        with pytest.raises(TaskError, match=words):
            open_task(Gpqa(name="gpqa", path=str(gpqa_file(tmp_path / "x.csv", rows))))


OLYMPIAD = {
    "id": 1,
    "subfield": "Algebra",
    "context": None,
    "question": "Solve $x^2=3$.",
    "final_answer": ["$\\sqrt{3},-\\sqrt{3}$"],
    "is_multiple_answer": True,
    "unit": None,
    "answer_type": "Expression",
    "error": None,
    "language": "English",
    "subject": "Math",
}


def olympiad(folder, *rows, subset="maths_en_COMP"):
    (folder / f"OE_TO_{subset}.json").write_text(json.dumps(rows), "utf-8")
    return open_task(OlympiadBench(name="olympiadbench", path=str(folder), subsets=(subset,)))


def test_olympiadbench_asks_as_its_prompter_does(tmp_path):
    unit = {"id": 2, "is_multiple_answer": False, "unit": "m", "answer_type": "Numerical", "error": "1e-1"}
    task = olympiad(tmp_path, OLYMPIAD, OLYMPIAD | unit)
    several, single = task.problems()
    assert several.messages[0]["content"] == (
        "The following is an open-ended problem from an International Math competition. The problem has multiple "
        "answers, each of them should be an expression. Please calculate the answer according to the given "
        "requirements and the information provided. Please use LaTeX format to represent the variables and formulas "
        'used in the solution process and results. Please end your solution with "So the final answer is '
        '\\boxed{multiple answers connected with commas}." and give the result explicitly.\nSolve $x^2=3$.\n\n'
        "Please reason step by step, and put your final answer within \\boxed{}."
    )
    assert "The answer of The problem should be a numerical value. " in single.messages[0]["content"]
    assert '\\boxed{answer}(unit)." and give the result explicitly, note that the unit' in single.messages[0]["content"]
    assert task.target(single) == MathTarget(tuple(OLYMPIAD["final_answer"]), (0.1,))
    chinese = olympiad(
        tmp_path, OLYMPIAD | {"language": "Chinese", "subject": "Physics", "context": "c"}, subset="physics_zh_CEE"
    )
    text = next(chinese.problems()).messages[0]["content"]
    assert text.startswith("以下是中国物理竞赛中的解答题，题目有多个答案，答案类型均为表达式。请根据")
    assert text.endswith(
        "显式给出结果。\nc\nSolve $x^2=3$.\n\n请通过逐步推理来解答问题，并把最终答案放置于\\boxed{}中。"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"error": "a bit"}, "field 'error' must hold numbers"),
        ({"error": "1,2,3"}, "field 'error' holds 3 numbers for 2 answers"),
        ({"final_answer": "3"}, "field 'final_answer' must hold a list of texts"),
        ({"answer_type": "Poem"}, "field 'answer_type' must name"),
    ],
)
def test_rows_of_olympiadbench_that_are_wrong(tmp_path, change, words):
    with pytest.raises(TaskError, match=rf"OE_TO_maths_en_COMP.json, row 1: {words}"):
        olympiad(tmp_path, OLYMPIAD | change)


HUMAN = {
    "task_id": "Own/0",
    "prompt": 'import math\n\n\ndef double(n):\n    """Twice n."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * n\n",
}


def humaneval(tmp_path, test, **options):
    path = write_jsonl(tmp_path / "x.jsonl", [HUMAN | {"test": f"def check(candidate):\n{test}"}])
    return open_task(HumanEval(name="humaneval", path=str(path), **options))


def test_asserts_become_pairs_of_input_and_output(tmp_path):
    calls = ("True", "candidate(2) == 4", 'candidate("a", [-1.5, None]) == ("b", {"c": 1})')
    task = humaneval(tmp_path, "".join(f"    assert {call}\n" for call in calls))
    (problem,) = task.problems()
    target = task.target(problem)
    assert target.cases == (TestCase("2", "4"), TestCase('"a"\n[-1.5, null]', '["b", {"c": 1}]'))
    assert (target.entry_point, target.prelude) == ("double", "import math\n\n\n")
    assert task.extract(problem, "```python\ndef double(n):\n    return n\n```") == "def double(n):\n    return n"
    assert task.extract(problem, "```python\n    return 2 * n\n```") == HUMAN["prompt"] + "    return 2 * n"


@pytest.mark.parametrize(
    "test",
    [
        "    assert abs(candidate(2) - 4) < 1e-6\n",
        "    for n in range(3):\n        assert candidate(n) == 2 * n\n",
        "    assert candidate((1, 2)) == 3\n",  # JSON has no tuples
        "    assert candidate({1: 2}) == 3\n",
        "    assert candidate(candidate(1)) == 4\n",
        "    assert candidate(2)\n",
        "    assert candidate(2) == __import__('os').getpid()\n",
        "    assert candidate(n=2) == 4\n",
    ],
)
def test_other_asserts_are_counted_and_never_run(tmp_path, test):
    with pytest.raises(TaskError, match=r"no problem is left"):
        humaneval(tmp_path, test + "    assert candidate(2) == 4\n")
    task = humaneval(tmp_path, test + "    assert candidate(2) == 4\n", partly=True)
    assert len(task.target(next(task.problems())).cases) == 1
    assert (task.conversion.asserts, task.conversion.converted, task.conversion.partly) == (2, 1, 1)


def test_asserts_as_officially(tmp_path):
    task = humaneval(tmp_path, "    for n in range(3):\n        assert candidate(n) == 2 * n\n", asserts="official")
    (problem,) = task.problems()
    target = task.target(problem)
    assert (task.label, target.cases, target.prelude) == ("HumanEval", (TestCase("", "true"),), "import math\n\n\n")
    assert "assert candidate(n) == 2 * n" in target.epilogue
    with pytest.raises(ValidationError, match="leave partly out"):
        HumanEval(name="humaneval", asserts="official", partly=True)


def test_the_package_of_humaneval():
    task = open_task(HumanEval(name="humaneval"))
    about = task.conversion
    assert (about.problems, about.whole, about.partly, about.asserts, about.converted) == (164, 142, 12, 1133, 1056)
    for problem in task.problems():
        for case in task.target(problem).cases:
            json.loads(case.output)  # raises where it is no JSON


OWN = (
    {"id": "a", "prompt": "6 * 7?", "answer": 42, "tags": {"kind": "math"}},
    {"id": "b", "prompt": [{"role": "user", "content": "Which?"}], "choices": ["7", "8"], "answer": "A"},
    {"id": "c", "prompt": "Print 2n.", "tests": [{"input": "2\n", "output": "4\n"}]},
    {"id": "../../d", "prompt": "Write double.", "entry_point": "double", "tests": [{"input": "2", "output": "4"}]},
)


def test_problems_of_ones_own(tmp_path):
    path = write_jsonl(tmp_path / "mine.jsonl", OWN)
    task = open_task(OwnProblems(name="jsonl", path=str(path), memory_mib=64))
    targets = [task.target(problem) for problem in task.problems()]
    assert targets[:2] == [MathTarget(("42",)), ChoiceTarget("A", "AB")]
    assert isinstance(targets[2], CodeTarget)
    assert [(one.entry_point, one.checker.name, one.limits.memory_mib) for one in targets[2:]] == [
        (None, "numbers", 64),
        ("double", "json", 64),
    ]
    answers = ["\\boxed{42}", "ANSWER: A", "```python\nx\n```", "```python\ny\n```"]
    found = [task.extract(problem, text) for problem, text in zip(task.problems(), answers, strict=True)]
    assert (task.label, task.groups, found) == ("mine", ("kind",), ["42", "A", "x", "y"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "a", "prompt": "?"}, "there is no field 'answer'"),
        ({"id": "a", "prompt": "?", "answers": "1"}, "field 'answers' is not known"),
        ({"id": "a", "prompt": [], "answer": "1"}, "field 'prompt' must hold text or a list of messages"),
        ({"id": "a", "prompt": [{"role": "assistant", "content": "x"}], "answer": "1"}, "must end with a message of"),
        ({"id": "a", "prompt": "?", "choices": ["x"], "answer": "B"}, "field 'answer' must be one of A"),
        ({"id": "a", "prompt": "?", "answer": "1", "tolerance": -1}, "field 'tolerance' must be a number above 0"),
        ({"id": "a", "prompt": "?", "tests": []}, "field 'tests' must hold a list of tests"),
        ({"id": "a", "prompt": "?", "tests": [{"input": 1}]}, "test 1: field 'input' must hold"),
        ({"id": "a", "prompt": "?", "tests": [{"input": "", "output": ""}], "language": "perl"}, "must be one of"),
        ([1], "a row must have fields"),
    ],
)
def test_own_rows_that_are_wrong(tmp_path, row, words):
    path = write_jsonl(tmp_path / "x.jsonl", [row])
    with pytest.raises(TaskError, match=rf"x.jsonl:1: .*{words}"):
        open_task(OwnProblems(name="jsonl", path=str(path)))


def test_own_problems_whose_answer_is_the_last_number(tmp_path):
    """It is another rule of judging: the responses are those of before."""
    path = write_jsonl(tmp_path / "sums.jsonl", [{"id": "a", "prompt": "What is 1 + 2?", "answer": "3"}])
    tasks = [
        open_task(OwnProblems(name="jsonl", path=str(path), extract_answer=rule)) for rule in (None, "last_number")
    ]
    for text, found in (("1 + 2 is 3.", [None, "3"]), (r"\boxed{4}, not 3", ["4", "3"])):
        assert [task.extract(problem, text) for task in tasks for problem in task.problems()] == found
    first, second = (task.identity() for task in tasks)
    assert second == first | {"extract_answer": "last_number"}
    assert "extract_answer" in _JUDGING
