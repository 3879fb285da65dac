"""OlympiadBench, open-ended problems without images: https://github.com/OpenBMB/OlympiadBench (MIT)

A file a subset, OE_TO_maths_en_COMP.json and four others, each a list of rows; the problem is ours:

    {"id": 99999, "subfield": "Algebra", "context": null, "question": "Solve $x^2=3$.", "solution": ["..."],
     "final_answer": ["$\\sqrt{3},-\\sqrt{3}$"], "is_multiple_answer": true, "unit": null,
     "answer_type": "Expression", "error": null, "language": "English", "subject": "Math",
     "question_type": "Open-ended"}

Problems with images (MM) and proofs (TP) are no part of it: a proof has no answer to compare.
"""

from collections.abc import Iterator
from pathlib import Path

from tessy_jax.config.benchmarks import OlympiadBench
from tessy_jax.evals.extract import final_answer
from tessy_jax.evals.judges.math import expand, tidy
from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import MathTarget
from tessy_jax.evals.tasks.base import BaseTask, Entry, hash_files, user
from tessy_jax.evals.tasks.rows import Row, read_rows

TYPES = {
    "Numerical": ("a numerical value", "数值"),
    "Expression": ("an expression", "表达式"),
    "Equation": ("an equation", "方程"),
    "Interval": ("an interval", "区间"),
}


class OlympiadBenchTask(BaseTask[OlympiadBench]):
    name = "olympiadbench"
    groups = ("subset", "subfield")
    mean_over = "subset"
    """The score is the plain mean of the subsets' scores, as in OpenCompass."""

    def __init__(self, config: OlympiadBench):
        self.files = [Path(config.path, f"OE_TO_{subset}.json") for subset in config.subsets]
        super().__init__(config, self._read(config), label="OlympiadBench", runs=1)

    def _read(self, config: OlympiadBench) -> Iterator[Entry]:
        for subset, file in zip(config.subsets, self.files, strict=True):
            for row in read_rows(file):
                tags: dict[str, str] = {"subset": subset}
                tags |= {"subfield": row.text("subfield")} if row.values.get("subfield") else {}
                problem = Problem(f"{subset}/{row.id('id')}", user(prompt(row, subset)), tags)
                yield Entry(problem, row.place, _target(row))

    def extract(self, problem: Problem, answer: str) -> str | None:
        return final_answer(answer)

    def target(self, problem: Problem) -> MathTarget:
        target: MathTarget = self.entry(problem).material
        return target

    def identity(self) -> dict[str, str | int]:
        return super().identity() | {"extract": "final_answer", "files": hash_files(self.files)}


def _target(row: Row) -> MathTarget:
    """All expected answers; OpenCompass takes the first of the list only."""
    answers = row.list_of_texts("final_answer")
    error = row.values.get("error")
    if error is None or (isinstance(error, str) and not error.strip()):
        return MathTarget(answers)
    try:
        tolerance = tuple(float(part) if part.strip() else None for part in str(error).split(","))
    except ValueError:
        row.fail(f"field 'error' must hold numbers, with commas between, not {error!r}")
    parts = sum(len(expand(tidy(answer))) for answer in answers)
    if len(tolerance) not in (1, len(answers), parts):
        row.fail(f"field 'error' holds {len(tolerance)} numbers for {parts} answers")
    return MathTarget(answers, tolerance)


def prompt(row: Row, subset: str) -> str:
    """The prompt of the official runner, and OpenCompass's sentence after it."""
    chinese = str(row.values.get("language") or ("Chinese" if "_zh_" in subset else "English")) == "Chinese"
    maths = str(row.values.get("subject") or ("Math" if subset.startswith("maths") else "Physics")) == "Math"
    several, unit = row.values.get("is_multiple_answer") is True, bool(row.values.get("unit"))
    kinds = _kinds(row, chinese, several)
    question = row.text("question")
    if row.values.get("context"):
        question = f"{row.text('context')}\n{question}"
    if chinese:
        box = r"\boxed{用英文逗号连接的多个答案}" if several else r"\boxed{答案}"
        kind = "" if not kinds else _chinese_kind(kinds, several)
        return (
            f"以下是中国{'数学' if maths else '物理'}竞赛中的解答题{kind}。"
            "请根据题目的要求和所提供的信息计算得出答案。解答过程和结果中使用的"
            f'变量和公式请使用LaTeX格式表示。请在最后以"所以最终答案是{box}{"(单位)" if unit else ""}。"显式给出结果'
            + ("，注意答案的单位不要放在\\boxed{}中" if unit else "")
            + f"。\n{question}\n\n请通过逐步推理来解答问题，并把最终答案放置于\\boxed{{}}中。"
        )
    box = r"\boxed{multiple answers connected with commas}" if several else r"\boxed{answer}"
    kind = "" if not kinds else _english_kind(kinds, several)
    return (
        f"The following is an open-ended problem from an International {'Math' if maths else 'Physics'} competition. "
        f"{kind}Please calculate the answer according to the given requirements and the information provided. "
        f"Please use LaTeX format to represent the variables and formulas used in the solution process and results. "
        f'Please end your solution with "So the final answer is {box}{"(unit)" if unit else ""}." and give the result '
        "explicitly"
        + (", note that the unit of the answer should not be included in \\boxed{}" if unit else "")
        + f".\n{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
    )


def _kinds(row: Row, chinese: bool, several: bool) -> list[str]:
    """What the answers are, in words; none for tuples and what people must judge."""
    value = row.text("answer_type")
    if "Need_human_evaluate" in value or "Tuple" in value:
        return []
    names = []
    for part in value.split(",") if several else [value]:
        known = [name for name in TYPES if name in part.partition("-")[0]]
        if not known:
            row.fail(f"field 'answer_type' must name {', '.join(TYPES)} or Tuple, not {value!r}")
        names.append(TYPES[known[0]][chinese])
    return names


def _english_kind(kinds: list[str], several: bool) -> str:
    if not several:
        return f"The answer of The problem should be {kinds[0]}. "
    if len(set(kinds)) == 1:
        return f"The problem has multiple answers, each of them should be {kinds[0]}. "
    return f"The problem has multiple answers, with the answers in order being {', '.join(kinds)}. "


def _chinese_kind(kinds: list[str], several: bool) -> str:
    if not several:
        return f"，答案类型为{kinds[0]}"
    if len(set(kinds)) == 1:
        return f"，题目有多个答案，答案类型均为{kinds[0]}"
    return f"，题目有多个答案，答案类型分别为{'、'.join(kinds)}"
