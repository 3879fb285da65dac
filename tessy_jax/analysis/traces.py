"""Data sets as the analysis sees them: every response as the student would learn it, with what its row says of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from tessy_jax.data.fields import FieldCounts
from tessy_jax.data.inputs import Reject
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.sources import InputError, RawRow, data_path, rows
from tessy_jax.errors import ConfigError
from tessy_jax.storage.copies import local_runs
from tessy_jax.storage.paths import StorePath
from tessy_jax.text.chat import Chat
from tessy_jax.train.data.examples import CONTEXT, PARTS, Example, examples

_CORRECT = ("correct", "is_correct", "correctness", "verdict")
"""Fields of a row that say whether its answer is right."""

Verdicts = Mapping[tuple[str, int], bool]
"""Whether an answer is right, by the id of the problem and the sample."""


@dataclass(eq=False)
class Trace:
    """One response.

    Attributes:
        example: its tokens, parts and texts.
        correct: whether its answer is right; None where nobody judged it.
        nll: -log p under the student of each token to learn, in nats; 0 for the prompt's. Filled in when it has read.
        marks: names of the quality flags that it has.
    """

    example: Example
    correct: bool | None = None
    nll: Float32[np.ndarray, " T"] = field(default_factory=lambda: np.zeros(0, np.float32))
    marks: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        return self.example.content

    @property
    def learned(self) -> Bool[np.ndarray, " T"]:
        """Which tokens the student would learn: all but the prompt's."""
        return np.asarray(self.example.parts != CONTEXT)

    @property
    def n_tokens(self) -> int:
        return int(self.learned.sum())

    @property
    def novelty(self) -> float:
        """Mean surprise of the student, in nats per token that it would learn."""
        learned = self.learned
        return float(self.nll[learned].mean()) if learned.any() else 0.0

    @property
    def teacher_share(self) -> float | None:
        """Share of the thinking's tokens that the teacher wrote, by the record's own counts; None: nobody says."""
        record = self.example.record
        if record is None:
            return None
        counts = Counter[str]()
        for span in record.spans:
            if span.phase == "think":
                counts[span.by] += span.n_tokens
        return counts["teacher"] / counts.total() if counts.total() else None


@dataclass(eq=False)
class DataSet:
    """One of the data sets that are compared.

    Attributes:
        name: for people.
        rejects: rows that the student could not be trained on.
        cut: traces that were cut off at the length.
        unread: fields that nothing reads, and in how many rows.
    """

    name: str
    traces: list[Trace] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    cut: int = 0
    unread: dict[str, int] = field(default_factory=dict)

    def parts(self) -> dict[str, int]:
        """Tokens to learn, by part."""
        total = np.zeros(len(PARTS), int)
        for trace in self.traces:
            total += np.bincount(trace.example.parts, minlength=len(PARTS))
        return {name: int(count) for code, (name, count) in enumerate(zip(PARTS, total, strict=True)) if code}


class Reading(NamedTuple):
    """How data sets are read.

    Attributes:
        chat: of the student.
        system: its system message, for rows that bring none.
        length: tokens of a trace, at most.
        limit: rows of a data set; None: all.
        verdicts: of a judge, where one was asked.
    """

    chat: Chat
    system: str | None
    length: int
    limit: int | None
    verdicts: Verdicts


def read_set(path: Path, name: str, reading: Reading) -> DataSet:
    """Reads a run directory, a file or a folder: records of ours, `messages`, `dialogs`, `conversations`, or prompts
    with responses. A row that cannot be learned becomes a reject.

    Raises:
        InputError: it cannot be read at all, or holds nothing to learn.
    """
    found, counts = DataSet(name), FieldCounts()
    for number, row in enumerate(rows(data_path(path))):
        if number == reading.limit:
            break
        for one in examples(row, reading.chat, reading.system, counts=counts):
            if isinstance(one, Reject):
                found.rejects.append(one)
            else:
                _add(found, one, row, reading)
    found.unread = dict(counts.rows)
    if not found.traces:
        first = found.rejects[0] if found.rejects else None
        why = f"; the first row: {first.file}:{first.line}: {first.reason}" if first else ""
        raise InputError(f"nothing to look at in {path}: no row can be learned{why}")
    return found


def _add(found: DataSet, example: Example, row: RawRow, reading: Reading) -> None:
    longer = len(example.tokens) > reading.length
    if longer:
        cut = slice(reading.length)
        arrays = {name: getattr(example, name)[cut] for name in ("tokens", "parts", "ends")}
        example = replace(example, **arrays)
    if not (example.parts != CONTEXT).any():
        reason = f"its prompt alone has more than {reading.length} tokens (--length, or the model's limit)"
        found.rejects.append(Reject.of(row, example.id, reason))
        return
    found.cut += longer
    found.traces.append(Trace(example, _correct(row.value, reading.verdicts)))


def _correct(value: Mapping[str, Any], verdicts: Verdicts) -> bool | None:
    """What the judge says, else what the row itself says."""
    key = str(value.get("id", value.get("id_ddm"))), value.get("sample_index", 0)
    if key in verdicts:
        return verdicts[key]
    said = next((value[name] for name in _CORRECT if value.get(name) is not None), None)
    if isinstance(said, bool | int | float):
        return bool(said)
    return said in ("AC", "correct", "true", "True") if isinstance(said, str) else None


def read_verdicts(folder: Path | None) -> Verdicts:
    """The verdicts of an evaluation, over all its benchmarks; of a judge that failed, none.

    Raises:
        ConfigError: the folder holds no judgements.
    """
    if folder is None:
        return {}
    files = sorted(local_runs(folder.expanduser()).glob("**/judgements/data/*.jsonl"))
    if not files:
        raise ConfigError(f"--judged: {folder} holds no judgements; give the output of `evaluate`")
    lines = (row for file in files for _, row in read_objects(file) if row is not None)
    return {
        (str(row["problem_id"]), row["sample_index"]): row["verdict"] == "AC"
        for row in lines
        if row.get("verdict") not in ("IE", "SKIP")
    }


def names_of(places: Sequence[Path]) -> list[str]:
    """Short names that tell the places apart: their last parts, as many as it takes."""
    parts = [place.parts if isinstance(place, StorePath) else place.resolve().parts for place in places]
    for depth in range(1, 1 + max(map(len, parts))):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{place} ({number})" for number, place in enumerate(places, 1)]
