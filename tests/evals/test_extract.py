"""What of a response is judged: official rules to the letter, sounder ones beside them, on any text."""

import re
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.filters.extraction import RegexFilter

from tessy_jax.evals import extract
from tessy_jax.evals.extract import (
    answer_of,
    boxed,
    choice,
    final_answer,
    first_fence,
    gpqa_first,
    last_fence,
    last_number,
    lcb,
)
from tessy_jax.text.thinking import HARMONY, Thinking

QWEN = Thinking()
PYTHON = "Draft:\n```python\nprint(1)\n```\nBetter:\n```python\nprint(2)\n```\nDone."


def test_thinking_is_taken_off():
    assert answer_of("a ```x``` draft\n</think>\n\nthe answer", QWEN) == "the answer"
    assert answer_of("<think>\na\n</think>\n\nb</think>c", QWEN, opened=False) == "b</think>c"
    assert answer_of("hm<|end|><|start|>assistant<|channel|>final<|message|>42", HARMONY) == "42"
    assert answer_of("no thinking at all", QWEN, opened=False) == "no thinking at all"
    assert answer_of("no thinking at all", None) == "no thinking at all"


def test_thinking_that_never_ends_has_no_answer():
    assert answer_of(PYTHON, QWEN) is None
    assert answer_of("<think>\n" + PYTHON, QWEN, opened=False) is None
    assert answer_of(PYTHON, QWEN, on_truncated="keep") == PYTHON


@pytest.mark.parametrize(
    ("text", "last", "official", "first"),
    [
        (PYTHON, "print(2)", "print(2)", "print(1)"),
        ("no code", None, None, None),
        ("```python\r\nprint(1)\r\n```\r\n", "print(1)", "print(1)\r", "print(1)\r"),
        ("```python\nprint(1)\n```\nIt prints:\n```\n1\n```", "print(1)", "1", "print(1)"),  # the output is no program
        ("```\nprint(1)\n```\n```text\n1\n```", "print(1)", "1", "print(1)"),
        ("```py\nprint(1)", "print(1)", None, None),  # never closed
        ("Use ```print```.\n```python\nprint(1)\n```", "print(1)", "print(1)", ""),
        ("```python\nmain()```", "main()", None, None),  # closed on a line of code
        ("```python print(1)\n```", "print(1)", None, None),  # no new line behind the label
        ("```python print(1)```", "print(1)", None, None),
        ("Here: ```python\nprint(1)\n```", "print(1)", "print(1)", "print(1)"),
        ("1. so\n   ```python\n   if x:\n       y()\n   ```", "if x:\n    y()", None, None),
        ("```python\nx = 1\n```python\nprint(2)\n```", "print(2)", "print(2)", "x = 1"),
        ("````python\nprint(1)\n````", "print(1)", "print(1)", "print(1)"),
        ("```python\n\n```", None, None, None),
    ],
)
def test_code_blocks(text, last, official, first):
    assert last_fence(text) == last
    if official is not None:
        assert lcb(text) == official
    if first is not None:
        assert first_fence(text) == (first or None)


@given(st.lists(st.text("ab \n", min_size=1).filter(str.strip), min_size=1, max_size=4))
def test_on_blocks_as_they_should_be_all_rules_agree(programs):
    text = "\n".join(f"So:\n```python\n{program}\n```" for program in programs)
    assert last_fence(text) == lcb(text) == programs[-1]
    assert first_fence(text) == programs[0]


def test_ojbench_rules():
    main = "def main():\n    print(1)"
    assert extract.ojbench("print(1)") == "print(1)"  # no fence: all of it
    assert extract.ojbench(f"```python\nx\n```\n```python\n{main}\n```") == f"{main}\nmain()"
    assert extract.ojbench(f"```python\n{main}\nmain()\n") == f"{main}\nmain()\n"  # to the end
    assert extract.ojbench("```cpp\nint x;\n```", "cpp") == "int x;"
    copied = f"```python\n{main}\nmain()```"  # as the official prompt shows it
    assert extract.ojbench(copied).endswith("main()```")
    assert extract.ojbench_lenient(copied) == f"{main}\nmain()"


def test_lcb_pro_rules():
    program = "#include <iostream>\nint main() { if (1) { } return 0; }"
    fence = f"```cpp\n{program}\n```"
    assert extract.lcb_pro(f"{fence}\n```cpp\nint x;\n```") == program  # the last block that includes something
    assert extract.lcb_pro(f"```c++\nint x;\n```\n  {fence}") == program  # by its main function
    assert extract.lcb_pro(f"so\n{program} and more }}") == program
    assert extract.lcb_pro("int main() { return 0; }") is None
    assert extract.lcb_pro("#include <a>\nint main() {}\nint main(") == "#include <a>\nint main() {}"
    assert extract.lcb_pro("```python\nx\n```\n```python\ny\n```", "python") == "y"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{204}", "204"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        (r"\boxed{\{1, 2\}} }", r"\{1, 2\}"),
        (r"$\boxed {7}$ and \boxed{8", "7"),
        (r"\fbox{5}", "5"),
        ("none", None),
        (r"\boxed{}", None),
    ],
)
def test_boxes(text, answer):
    assert boxed(text) == answer


NUMBERS = (
    *("1 + 1 = 2.", "7 apples", "$1,234.50 or -3", "-12", "x-7", "so 3, 4.\nNo: ..."),
    *("none", "1.1.1.2\n1.1.1.", "4\n</think>"),
)


@pytest.mark.parametrize("text", NUMBERS)
def test_the_last_number_is_lm_evals(text):
    """Its rule for GSM8K: what the filter `flexible-extract` takes, less what its metric leaves out."""
    folder = Path(find_spec("lm_eval").submodule_search_locations[0])
    rules = yaml.safe_load((folder / "tasks/gsm8k/gsm8k.yaml").read_text())
    given = next(f for f in rules["filter_list"] if f["name"] == "flexible-extract")["filter"][0]
    (((theirs,),),) = [RegexFilter(given["regex_pattern"], given["group_select"], "").apply([[text]], [{}])]
    for left_out in rules["metric_list"][0]["regexes_to_ignore"]:
        theirs = re.sub(left_out, "", theirs)
    assert (last_number(text) or "") == theirs


def test_final_answers():
    assert final_answer(r"\boxed{0}. So the final answer is \boxed{1}, \boxed{2}.") == "1, 2"
    assert final_answer("so the final answer is $x=1$ or $x=2$.\nbye") == "x=1, x=2"
    assert final_answer("So the final answer is 12.") == "12"
    assert final_answer("所以最终答案是\\boxed{3}。") == "3"
    assert final_answer("\\boxed{1}\nthus \\boxed{2} and \\boxed{3}, yes \\boxed{2}") == "2, 3"
    assert final_answer("nothing") is None


@pytest.mark.parametrize(
    ("text", "letter", "official"),
    [
        ("ANSWER: B", "B", "B"),
        ("Answer: A? No.\nANSWER: **C**", "C", "A"),
        ("**Answer: (d)**", "D", None),
        ("ANSWER: $\\text{A}$", "A", None),
        ("Answer: Definitely B.\nANSWER: B", "B", "D"),
        (r"so \boxed{\text{(C)}}", "C", None),
        ("The correct answer is (D).", "D", None),
        ("the answer is a matter of taste", None, None),
        ("A B C D", None, None),  # never any capital
    ],
)
def test_letters(text, letter, official):
    assert choice(text) == letter
    assert gpqa_first(text) == official


NASTY = (
    "`",
    "```",
    "```python\n",
    "``` x\n",
    "\\boxed{",
    "{",
    "}",
    "int main(",
    "#include\n",
    "answer ",
    "ANSWER:",
    "\n",
)


def test_long_texts_take_linear_time():
    everything = [
        *(lambda text, rule=rule: rule(text, "cpp") for rule in extract.CODE.values()),
        *extract.TEXT.values(),
    ]
    for part in (*NASTY, " ", "int main( {"):
        text = "```cpp\n" + part * (400_000 // len(part))
        begun = time.process_time()
        for rule in everything:
            rule(text)
        assert time.process_time() - begun < 10, part  # a rule that is not linear would take hours


@given(st.lists(st.sampled_from((*NASTY, "x", " ", "C")), max_size=12).map("".join))
def test_no_text_breaks_a_rule(text):
    for rule in extract.CODE.values():
        for language in ("python", "cpp"):
            found = rule(text, language)
            assert found is None or found.strip()
    for simple in extract.TEXT.values():
        found = simple(text)
        assert found is None or found.strip()
