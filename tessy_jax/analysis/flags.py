"""What is wrong with a response, as far as its text says: quality flags."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

from tessy_jax.analysis.traces import Trace
from tessy_jax.data.records import Record
from tessy_jax.text.repetition import Repetition
from tessy_jax.text.thinking import Thinking
from tessy_jax.train.data.examples import ASSISTANT

FLAGS = {
    "truncated": "a budget cut off the thinking or the answer",
    "looping": "the thinking or the answer ends in one phrase over and over",
    "no answer": "nothing stands behind the thinking",
    "open code": "a code fence (```) is opened and not closed",
    "other language": "letters of a script that neither the prompt nor most of the response is in",
    "leaked markers": "control tokens or thinking tags stand in the text",
    "empty thinking": "thinking is opened and closed with nothing in it",
    "one author": "all of a record's thinking is by one author",
}
"""Names and what they mean."""

_MARKERS = re.compile(
    r"</?(?:think|s|start_of_turn|end_of_turn|bos|eos)>|<\|[A-Za-z_]{2,30}\|>|\[/?INST\]|<｜[^｜\n]{1,30}｜>"
)
"""Control tokens of Qwen, Llama, Gemma, GPT-OSS, Mistral and DeepSeek as text."""

_FENCE = re.compile(r"^\s{0,3}```", re.MULTILINE)
_LOOP = Repetition()
_LETTERS = 10
"""Letters of another script that are more than a name or a symbol."""


def flags(trace: Trace, thinking: Thinking) -> tuple[str, ...]:
    """The names of the flags that a response has.

    Args:
        thinking: how the student's thinking is written.
    """
    record, (thought, answer) = trace.example.record, split(trace, thinking)
    both = (thought or "", answer)
    found = {
        "truncated": record is not None and "length" in (record.finish.think, record.finish.answer),
        "looping": (record is not None and record.finish.think == "loop") or any(map(_loops, both)),
        "no answer": not answer.strip(),
        "open code": any(len(_FENCE.findall(text)) % 2 for text in both),
        "other language": _other_language(trace),
        "leaked markers": any(_MARKERS.search(text) for text in both),
        "empty thinking": thought is not None and not thought.strip(),
        "one author": record is not None and _one_author(record),
    }
    return tuple(name for name in FLAGS if found[name])


def split(trace: Trace, thinking: Thinking) -> tuple[str | None, str]:
    """The thinking without its tags, None where there is none, and the answer."""
    content, record = trace.content, trace.example.record
    if record is not None:
        return record.thinking, record.answer
    at = content.find(thinking.marker) if thinking.marker else -1
    if at < 0:
        return None, content
    thought = content[:at].lstrip().removeprefix(thinking.open.strip())
    return thought, content[at + len(thinking.marker) :]


def _loops(text: str) -> bool:
    data = text.rstrip().encode()
    return _LOOP.loops(data, len(data))


def _one_author(record: Record) -> bool:
    """Those of one model alone (of `sample`, of Teacher-Only) are flagged as well: they are no shared traces."""
    return len({span.by for span in record.spans if span.phase == "think"}) == 1


def _other_language(trace: Trace) -> bool:
    scripts = _scripts(trace.content)
    if not scripts:
        return False
    expected = {scripts.most_common(1)[0][0], *_scripts(" ".join(m["content"] for m in trace.example.before))}
    return any(count >= _LETTERS and script not in expected for script, count in scripts.items())


def _scripts(text: str) -> Counter[str]:
    """Letters by script. Greek is left out: in these texts it is mathematics."""
    counts = Counter[str]()
    for letter, count in Counter(text).items():
        if (script := _script(letter)) is not None:
            counts[script] += count
    return counts


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str | None:
    if not letter.isalpha():
        return None
    word = unicodedata.name(letter, "").partition(" ")[0]
    script = "CJK" if word in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA") else word
    return None if script in ("GREEK", "MATHEMATICAL", "") else script


def unknown_author(trace: Trace) -> bool:
    """Whether nobody says who wrote the response."""
    return bool((trace.example.parts == ASSISTANT).any())
