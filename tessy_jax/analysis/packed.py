"""Traces inside a page: small blocks, each compressed, which the page opens when it shows one of their traces.

    <script type="text/plain" class="block">base64 of gzip of JSON</script>

`viewer.js` reads what this file writes.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np
from jaxtyping import Int

from tessy_jax.analysis.flags import FLAGS
from tessy_jax.analysis.traces import DataSet, Trace
from tessy_jax.text.tokenizer import ContentTokenizer

BLOCK_BYTES = 1 << 18
"""About how much JSON a block holds."""

PAGE_BYTES = 160 << 20
"""What all blocks of a page may have: it stays below 200 MB. Traces beyond are listed without their text."""

_PREVIEW = 160
_BY = {"student": 0, "teacher": 1}
_PHASE = {"think": 0, "answer": 1}


def write_blocks(file: TextIO, sets: Sequence[DataSet], teacher: ContentTokenizer | None) -> int:
    """Writes the blocks and the index behind them; returns how many traces are in the page as a whole.

    Args:
        teacher: whose token boundaries are kept besides the student's.
    """
    rows: list[list[Any]] = []
    size = number = whole = 0
    records = [trace.example.record for one in sets for trace in one.traces if trace.example.record]
    keeps = {"dropped": any(r.dropped_text for r in records), "scores": any(r.word_scores for r in records)}
    for block in _blocks(sets, teacher):
        text = _compressed([trace for _, trace in block])
        fits = size + len(text) <= PAGE_BYTES
        if fits:
            size += len(text)
            file.write(f'<script type="text/plain" class="block">{text}</script>\n')
        for at, (row, _) in enumerate(block):
            rows.append([*row, number if fits else -1, at])
        whole += len(block) * fits
        number += fits
    index = {"sets": [one.name for one in sets], "flags": list(FLAGS), **keeps, "rows": rows}
    file.write(f'<script type="text/plain" id="index">{_compressed(index)}</script>\n')
    return whole


def _blocks(sets: Sequence[DataSet], teacher: ContentTokenizer | None) -> Iterator[list[tuple[list[Any], Any]]]:
    block: list[tuple[list[Any], Any]] = []
    size = 0
    for number, one in enumerate(sets):
        for trace in one.traces:
            packed = _trace(trace, teacher)
            block.append((_row(trace, number), packed))
            size += 3 * len(packed["t"]) + 6 * len(packed["n"]) + 12 * len(packed.get("w", ()))
            size += sum(len(text) for *_, text in packed.get("x", ()))
            if size >= BLOCK_BYTES:
                yield block
                block, size = [], 0
    if block:
        yield block


def _compressed(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _row(trace: Trace, number: int) -> list[Any]:
    """What the list shows, sorts and filters by; `viewer.js` has the names."""
    record, share = trace.example.record, trace.teacher_share
    return [
        trace.example.id,
        number,
        trace.n_tokens,
        None if record is None else record.switches,
        None if share is None else round(share, 4),
        round(trace.novelty, 4),
        None if trace.correct is None else int(trace.correct),
        None if record is None else record.finish.think,
        None if record is None else record.finish.answer,
        sum(1 << n for n, flag in enumerate(FLAGS) if flag in trace.marks),
        " ".join(trace.example.problem[: 4 * _PREVIEW].split())[:_PREVIEW],
    ]


def _trace(trace: Trace, teacher: ContentTokenizer | None) -> dict[str, Any]:
    """What is shown of a trace. Places are in UTF-16 units, as JavaScript counts them, surprise is in 1/100 nats and
    P(style) in 1/1000.
    """
    example, learned = trace.example, trace.learned
    place = _Places(trace.content)
    start = int(example.ends[~learned][-1]) if (~learned).any() else 0
    ends = place.of_bytes(example.ends[learned])
    packed = {
        "m": [[message["role"], message["content"]] for message in example.before],
        "t": trace.content,
        "s": [
            [
                *place.of_characters(span.start, span.end),
                _BY[span.by],
                _PHASE[span.phase],
                span.n_tokens,
                span.dropped_tokens,
            ]
            for span in (example.record.spans if example.record else ())
        ],
        "o": int(place.of_bytes(np.array([start]))[0]),
        "e": np.diff(ends, prepend=0).tolist(),
        "n": np.rint(100 * trace.nll[learned]).astype(int).tolist(),
    }
    if example.record is not None and example.record.dropped_text is not None:
        packed["x"] = [
            [*place.of_characters(each.at), _BY[each.by], each.n_tokens, each.text]
            for each in example.record.dropped_text
        ]
    if example.record is not None and example.record.word_scores is not None:
        packed["w"] = [
            [*place.of_characters(word.start, word.end), round(1000 * word.style)]
            for word in example.record.word_scores
        ]
    if teacher is not None:
        cuts = np.array(teacher.encode(trace.content.encode())[1], np.int64)
        packed["d"] = np.diff(place.of_bytes(cuts), prepend=0).tolist()
    return packed


class _Places:
    """Places of a text in UTF-16 units."""

    def __init__(self, text: str):
        code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        self._units = np.concatenate([[0], np.cumsum(1 + (code > 0xFFFF))])
        self._bytes = np.concatenate([[0], np.cumsum(1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF))])

    def of_bytes(self, places: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Of places in UTF-8; one within a character is that character's end."""
        return np.asarray(self._units[np.searchsorted(self._bytes, places)])

    def of_characters(self, *places: int) -> list[int]:
        return self._units[list(places)].tolist()
