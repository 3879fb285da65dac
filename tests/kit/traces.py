"""Traces for the tests of the analysis, of a tiny student and without one."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tessy_jax.analysis.traces import DataSet, Reading, Trace
from tessy_jax.data.records import DroppedText, FinishReason, Problem, Record, Span, TokenCounts, WordScore
from tessy_jax.text.chat import Chat
from tessy_jax.train.data.examples import ANSWER, CAPABILITY, CONTEXT, STYLE, Example
from tests.kit import run_sft

THINK, CLOSE = "<think>\n", "\n</think>\n\n"
_PARTS = {"student": STYLE, "teacher": CAPABILITY}


@cache
def student() -> Path:
    """The root of a tiny student (`student/`) and of a run (`traces/`)."""
    return run_sft.student().parent


@cache
def reading() -> Reading:
    """How the tiny student reads data."""
    return Reading(Chat.load(student() / "student"), None, 4096, None, {})


def trace(
    name: str,
    spans: Sequence[tuple[str, str]],
    answer: str,
    nll: float = 1.0,
    end: str = "stop",
    dropped: str = "",
    scores: Sequence[tuple[int, int, float]] | None = None,
) -> Trace:
    """A trace of ours whose tokens are its words: spans of (author, text), and an answer, which ended so. The first
    token stands for the prompt. `dropped`: what was rolled back behind every span of the thinking; `scores`: of words,
    by their characters.
    """
    content, found, tokens = THINK, [], [(0, CONTEXT, len(THINK.encode()))]

    def write(text: str, by: str, part: int) -> None:
        nonlocal content
        start, words = len(content), re.findall(r"\S+\s*", text)
        for word in words:
            content += word.rstrip()
            tokens.append((hash_word(word.rstrip()), part, len(content.encode())))
            content += word[len(word.rstrip()) :] or " "
        found.append(Span(by, "answer" if part == ANSWER else "think", start, len(content), len(words), 1))

    for by, text in spans:
        write(text, by, _PARTS[by])
    content += CLOSE
    write(answer, "student", ANSWER)
    counts = TokenCounts(*(sum(s.n_tokens for s in found[:-1] if s.by == by) for by in _PARTS), found[-1].n_tokens, 6)
    reasons = FinishReason("end", end)
    problem = Problem(name, [{"role": "user", "content": f"problem {name}"}])
    behind = tuple(DroppedText(s.by, s.end, 1, dropped) for s in found[:-1]) if dropped else None
    record = Record(problem, 0, content, tuple(found), counts, max(0, len(spans) - 1), reasons, 0, behind)
    if scores is not None:
        record = replace(record, word_scores=tuple(WordScore(*word) for word in scores))
    ids, parts, ends = (np.array(column, np.int32) for column in zip(*tokens, strict=True))
    example = Example(
        f"{name}#0", problem.messages[0]["content"], ids, parts.astype(np.int8), ends, problem.messages, content, record
    )
    return Trace(example, nll=np.where(parts == CONTEXT, 0, nll).astype(np.float32))


def hash_word(word: str) -> int:
    """A token for a word: equal for equal words, and one of the tiny student's."""
    return int.from_bytes(word.encode()[:3], "big") % 251


def data_set(name: str, *traces: Trace) -> DataSet:
    return DataSet(name, list(traces))


def write_lines(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file
