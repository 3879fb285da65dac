"""What of a response is judged: its answer, without the thinking, and in that the code, the formula or the letter.

Scores depend on these rules by several points, so each has a name, which is written beside the scores. Where the
official rule of a benchmark loses answers that a reader would find, a sounder one stands beside it: docs/evaluation.md.
All of them take time in proportion to the text, whatever stands in it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tessy_jax.text.thinking import Thinking

FENCE = "```"
LANGUAGES = {
    "python": frozenset({"python", "python3", "py", "python2", "pypy", "pypy3"}),
    "cpp": frozenset({"cpp", "c++", "cxx", "cc", "c++17", "cpp17"}),
}
"""How code blocks are labelled."""


def answer_of(
    response: str, thinking: Thinking | None, *, opened: bool = True, on_truncated: Literal["fail", "keep"] = "fail"
) -> str | None:
    """The response after its thinking; None where the thinking never ended.

    Args:
        thinking: how the model writes its thinking; None: it does not think.
        opened: whether the prompt has opened the thinking, so that the response begins in the midst of it.
        on_truncated: "keep" takes the thinking for the answer where it never ended, as OpenCompass does: a draft in it
            may then be judged.
    """
    if thinking is None:
        return response
    before, marker, after = response.partition(thinking.marker)
    if marker:
        return after.removeprefix(thinking.after)
    if not opened and not before.lstrip().startswith(thinking.open.strip()):
        return response
    return response if on_truncated == "keep" else None


# -- code --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block of Markdown, its label in lower case."""

    label: str
    code: str


def last_fence(answer: str, language: str = "python") -> str | None:
    """The last block with a label of the language; without one the last without a label, or else the last.

    A block that is never closed goes to the end; a fence may stand at the end of a line of code.
    """
    found = list(_blocks(answer))
    for fits in (LANGUAGES[language].__contains__, lambda label: not label, lambda label: True):
        if chosen := [block for block in found if fits(block.label)]:
            return _some(chosen[-1].code)
    return None


def first_fence(answer: str, language: str = "python") -> str | None:
    """Between the first two lines with a fence: OpenCompass's rule of old."""
    lines, fences = _fence_lines(answer)
    return _some("\n".join(lines[fences[0] + 1 : fences[1]])) if len(fences) > 1 else None


def lcb(answer: str, language: str = "python") -> str | None:
    """Between the last two lines with a fence: LiveCodeBench's `extract_code`, and OpenCompass's rule of now."""
    lines, fences = _fence_lines(answer)
    return _some("\n".join(lines[fences[-2] + 1 : fences[-1]])) if len(fences) > 1 else None


def ojbench(answer: str, language: str = "python") -> str | None:
    """OJBench's rule: after the last fence with the language's label, up to the next line with one; without, all of it.

    A main function that is defined but never called is called.
    """
    _, opening, code = answer.rpartition(f"{FENCE}{language}\n")
    return _some(_call_main((code if opening else answer).partition(f"\n{FENCE}")[0] if opening else answer))


def ojbench_lenient(answer: str, language: str = "python") -> str | None:
    """As `ojbench`, but blocks are found as `last_fence` does: OJBench's own prompt shows a fence after `main()`."""
    code = last_fence(answer, language) if FENCE in answer else _some(answer)
    return code and _call_main(code)


def lcb_pro(answer: str, language: str = "cpp") -> str | None:
    """LiveCodeBench-Pro's rule for C++: the last block labelled cpp that includes something, else the last main
    function with the includes before it. For Python the last block labelled python.
    """
    blocks = [code for label, code in _blocks_at_line_start(answer) if label == language]
    if language != "cpp":
        return _some(blocks[-1].strip()) if blocks else None
    for code in reversed(blocks):
        if "#include" in code:
            return code.strip()
    return _last_main(answer)


def _call_main(code: str) -> str:
    return f"{code}\nmain()" if code.count("def main():") == 1 == code.count("main()") else code


def _some(code: str) -> str | None:
    return code if code.strip() else None


def _fence_lines(answer: str) -> tuple[list[str], list[int]]:
    lines = answer.split("\n")
    return lines, [number for number, line in enumerate(lines) if FENCE in line]


def _blocks(answer: str) -> Iterator[Block]:
    """The fenced blocks, as a reader sees them."""
    label, indent = "", 0
    code: list[str] | None = None  # the lines of the block that is open
    for line in answer.replace("\r\n", "\n").split("\n"):
        before, fence, after = line.partition(FENCE)
        alone = not before.strip()
        if code is None:
            if not fence:
                continue
            inside, closing, _ = after.partition(FENCE)
            if closing and alone:  # ```python print(1)```
                yield Block(*_label(inside.lstrip("`")))
            elif not closing:
                label, first = _label(after.lstrip("`"))
                indent, code = (len(before) if alone else 0), [first] if first else []
        elif fence and alone and after.strip("` \t"):  # another block begins: the one before was never closed
            yield Block(label, "\n".join(code))
            label, first = _label(after.lstrip("`"))
            indent, code = len(before), [first] if first else []
        elif fence and (alone or not after.strip("` \t")):
            yield Block(label, "\n".join([*code, before] if not alone else code))
            code = None
        else:
            code.append(line[min(indent, len(line) - len(line.lstrip(" \t"))) :])
    if code is not None:
        yield Block(label, "\n".join(code))


def _label(info: str) -> tuple[str, str]:
    """What stands behind a fence: the label, and the first line of code where that stands there too."""
    word, _, rest = info.strip().partition(" ")
    known = any(word.lower() in names for names in LANGUAGES.values())
    return (word.lower(), rest) if known else (info.strip().lower(), "")


def _blocks_at_line_start(answer: str) -> Iterator[tuple[str, str]]:
    """Blocks whose fence stands at the start of a line, with nothing but its label behind it."""
    label = ""
    code: list[str] | None = None
    for line in answer.split("\n"):
        if code is not None and line.startswith(FENCE):
            yield label, "\n".join(code)
            code = None
        elif code is not None:
            code.append(line)
        elif line.startswith(FENCE) and line.rstrip() in (f"{FENCE}cpp", f"{FENCE}python"):
            label, code = line.rstrip()[len(FENCE) :], []


_MAIN = re.compile(r"\bint\s+main\s*\(")


def _last_main(answer: str) -> str | None:
    """From the includes before the last `int main(` that has a body, to the end of the body."""
    last_brace = answer.rfind("{")
    mains = [found for found in _MAIN.finditer(answer) if found.end() <= last_brace]
    if not mains:
        return None
    depth, end = 0, len(answer)
    for brace in re.finditer("[{}]", answer[mains[-1].end() :]):
        depth += 1 if brace[0] == "{" else -1
        if depth <= 0:
            end = mains[-1].end() + brace.end()
            break
    lines = answer[: mains[-1].start()].split("\n")
    first = None
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].lstrip().startswith("#include"):
            first = number
        elif first is not None:
            break
    if first is None:
        return None
    start = sum(len(line) + 1 for line in lines[:first])
    return answer[start:end].strip()


# -- formulas ----------------------------------------------------------------------------------------------------------

_BOX = re.compile(r"\\(?:boxed|fbox)[ \t]{0,9}\{|\\[{}]|[{}]")
_FINAL = ("final answer is", "最终答案是")


def boxed(answer: str) -> str | None:
    """What stands in the last \\boxed{}."""
    found = _boxes(answer)
    return _some(found[-1].content.strip()) if found else None


def final_answer(answer: str) -> str | None:
    """OlympiadBench's rule: after the last "So the final answer is" the boxes, else the formulas, else the line;
    without those words as `boxes_of_last_line`. Several are joined with commas.
    """
    at, words = max((answer.rfind(words), words) for words in _FINAL)
    if at < 0:
        return boxes_of_last_line(answer)
    rest = answer[at + len(words) :]
    if found := _boxes(rest):
        return _joined(found)
    line = next((line for line in rest.split("\n") if line.strip(" \t\r:：*")), "")
    formulas = [formula for formula in line.split("$")[1::2] if formula.strip()]
    return _some(", ".join(formulas) if formulas else line.strip(" \t\r:：*。.")) or boxes_of_last_line(answer)


def boxes_of_last_line(answer: str) -> str | None:
    """The boxes of the last line that has one: earlier ones hold what came up on the way."""
    found = _boxes(answer)
    if not found:
        return None
    line = answer.rfind("\n", 0, found[-1].start) + 1
    return _joined([box for box in found if box.start >= line])


@dataclass(frozen=True)
class _Box:
    start: int
    content: str


def _boxes(answer: str) -> list[_Box]:
    """All boxes that are not within another and are closed."""
    found, braces = [], []  # where each open brace's box begins; -1: it is none
    boxes, start = 0, 0
    for brace in _BOX.finditer(answer):
        if brace[0] == "{":
            braces.append(-1)
        elif brace[0] == "}":
            opened = braces.pop() if braces else -1
            if opened >= 0:
                boxes -= 1
                if not boxes:
                    found.append(_Box(start, answer[opened : brace.start()]))
        elif brace[0] not in (r"\{", r"\}"):
            start = start if boxes else brace.start()
            boxes += 1
            braces.append(brace.end())
    return found


def _joined(boxes: list[_Box]) -> str | None:
    """Their contents; one that is repeated counts once."""
    return _some(", ".join(dict.fromkeys(box.content.strip() for box in boxes)))


_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def last_number(answer: str) -> str | None:
    """The last number, without `$`, `,` and a final full stop: lm-eval's `flexible-extract` of GSM8K."""
    found = _NUMBER.findall(answer)
    return _some(found[-1].replace("$", "").replace(",", "").removesuffix(".")) if found else None


# -- letters -----------------------------------------------------------------------------------------------------------

_OPEN = r"[\s*_$({\[\\]{0,9}(?:(?:text|mathrm|mathbf|boxed|textbf)\{[\s(]{0,3})?"
_ANSWER = re.compile(rf"\banswer[\s*_]{{0,9}}[:：]{_OPEN}([A-Z])(?![A-Za-z])", re.IGNORECASE)
_IS = r"\s{1,9}(?:is|would be|must be)[\s:]{0,9}(?:option\s)?"
_ANSWER_IS = re.compile(rf"\banswer{_IS}{_OPEN}([A-Z])(?![A-Za-z'])")
_GPQA = re.compile(r"ANSWER\s*:\s*([A-D])", re.IGNORECASE)
_LETTER = re.compile(r"[\s(*{\\]{0,9}(?:(?:text|mathrm|mathbf|textbf)\{)?[\s(]{0,3}([A-Z])(?![A-Za-z])")


def choice(answer: str) -> str | None:
    """The letter after the last "ANSWER:"; else in the last box; else after the last "the answer is"."""
    if found := _ANSWER.findall(answer):
        return str(found[-1]).upper()
    if (box := boxed(answer)) and (letter := _LETTER.match(box)):
        return letter[1]
    found = _ANSWER_IS.findall(answer)
    return str(found[-1]) if found else None


def gpqa_first(answer: str) -> str | None:
    """The letter after the first "ANSWER:", as OpenCompass takes it: also the D of "Answer: Definitely B"."""
    found = _GPQA.search(answer)
    return found[1].upper() if found else None


CODE: dict[str, Callable[[str, str], str | None]] = {
    "last_fence": last_fence,
    "first_fence": first_fence,
    "lcb": lcb,
    "ojbench": ojbench,
    "ojbench_lenient": ojbench_lenient,
    "lcb_pro": lcb_pro,
}
TEXT: dict[str, Callable[[str], str | None]] = {
    "boxed": boxed,
    "final_answer": final_answer,
    "last_number": last_number,
    "choice": choice,
    "gpqa_first": gpqa_first,
}
"""Extractors by the names under which they stand in configurations and beside scores."""
