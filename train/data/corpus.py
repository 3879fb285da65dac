"""Tokenised examples on disk: built once by streaming, memory-mapped from then on.

    corpus.json  tokens.i32  parts.i8  offsets.i64  problems.u64  counts.i32  ids.jsonl  rejects.jsonl

`tokens` and `parts` hold all examples one after another, `offsets` where each begins. A corpus is complete or absent:
it is built beside its place and renamed.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int, Int8, Int32, Int64

from tessy_jax.data.fields import FieldCounts
from tessy_jax.data.hashing import hash_file, hash_text
from tessy_jax.data.inputs import InputError, Reject
from tessy_jax.data.jsonl import sync_folder
from tessy_jax.data.records import dump_line
from tessy_jax.data.run_folder import compare_identity, explained
from tessy_jax.data.sources import files, rows
from tessy_jax.data.split import hash_number, held_out_numbers
from tessy_jax.text.chat import Chat
from tessy_jax.train.data.examples import CONTEXT, PARTS, Example, Turns, examples

_FORMAT = 1  # of the files; a corpus that is there stays as it was built
_ARRAYS = {
    "tokens.i32": np.int32,
    "parts.i8": np.int8,
    "offsets.i64": np.int64,
    "problems.u64": np.uint64,
    "counts.i32": np.int32,
}


class Document(NamedTuple):
    """One example, place by place.

    Attributes:
        tokens: ids.
        targets: what is learned at each place; 0 where there is nothing.
        parts: codes of the targets (`examples.PARTS`); 0 where there is none.
    """

    tokens: Int[np.ndarray, " T"]
    targets: Int[np.ndarray, " T"]
    parts: Int[np.ndarray, " T"]


@dataclass(frozen=True)
class Options:
    """What a corpus is made of, besides its sources and the tokenizer.

    Attributes:
        length: tokens that an example may have.
        long: `truncate` longer examples to it, or `drop` them.
        turns: train on the last assistant message, or make an example of each.
        system: a system message put before rows that bring none.
    """

    length: int
    long: Literal["truncate", "drop"] = "truncate"
    turns: Turns = "last"
    system: str | None = None


@dataclass
class CorpusReport:
    """What became of the rows.

    Attributes:
        rows: rows read.
        rejected: rows or messages that cannot be used; `rejects.jsonl` has each with its reason.
        examples: examples of the corpus.
        truncated: examples among them that were cut off.
        dropped: examples left out because they are too long.
        cut: examples left out because nothing to learn was left of them within the length.
        tokens: tokens of the examples, by part.
        unread: fields that are neither read nor known to be metadata, and in how many rows each was seen.
    """

    rows: int = 0
    rejected: int = 0
    examples: int = 0
    truncated: int = 0
    dropped: int = 0
    cut: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    unread: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Examples in flat arrays on disk, or some of them: `split` gives views of the same files.

    Attributes:
        folder: where the files are.
        report: what became of the rows that the whole folder was built from.
        index: the number of each example in the files.
    """

    folder: Path
    report: CorpusReport
    index: Int64[np.ndarray, " N"]

    @classmethod
    def open(cls, folder: Path, sources: Sequence[Path], chat: Chat, options: Options) -> "Corpus":
        """The corpus in `folder`, built if there is none yet. Processes that open the same folder wait for the first.

        Args:
            folder: for the corpus alone; its parent must exist.
            sources: run directories of ours, or what `data.sources.rows` reads.
            chat: of the student.
            options: what the examples are to be.

        Raises:
            InputError: a source cannot be read, or no example is left.
            RunDirError: the folder holds another corpus (the message says what differs), or cannot be written.
        """
        paths = [_data(source) for source in sources]
        identity = {
            "format": _FORMAT,
            "sources": {f"{n}/{file.name}": hash_file(file) for n, path in enumerate(paths) for file in files(path)},
            "tokenizer": chat.tokenizer.fingerprint,
            "control tokens": hash_text(json.dumps([chat.tokenizer.control, chat.end_of_turn])),
            "template": chat.template_hash,
            "options": asdict(options),
        }
        with explained(folder), _lock(folder):
            if not (folder / "corpus.json").exists():
                _build(folder, paths, chat, options, identity)
            stored = json.loads((folder / "corpus.json").read_text("utf-8"))
        compare_identity(folder, stored, {"identity": identity})
        report = CorpusReport(**stored["report"])
        return cls(folder, report, np.arange(report.examples))

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def _files(self) -> dict[str, np.ndarray]:
        return {name: np.memmap(self.folder / name, dtype, "r") for name, dtype in _ARRAYS.items()}

    @cached_property
    def lengths(self) -> Int32[np.ndarray, " N"]:
        """Tokens of each example."""
        offsets = self._files["offsets.i64"]
        return (offsets[self.index + 1] - offsets[self.index]).astype(np.int32)

    @cached_property
    def counts(self) -> Int32[np.ndarray, "N P"]:
        """Tokens to predict in each example (all but its first), by part."""
        return self._files["counts.i32"].reshape(-1, len(PARTS))[self.index]

    def tokens(self, i: int) -> Int32[np.ndarray, " T"]:
        """Ids of example `i`, read from disk when used."""
        return self._files["tokens.i32"][self._place(i)]

    def parts(self, i: int) -> Int8[np.ndarray, " T"]:
        """Codes of its tokens (`examples.PARTS`)."""
        return self._files["parts.i8"][self._place(i)]

    def document(self, i: int) -> Document:
        """Example `i` as a document: at each place, its next token is learned."""
        ids, parts = self.tokens(i), self.parts(i)
        return Document(ids, np.append(ids[1:], 0), np.append(parts[1:], 0))

    def _place(self, i: int) -> slice:
        at = self.index[i]
        return slice(*self._files["offsets.i64"][at : at + 2].tolist())

    def names(self, which: Iterable[int]) -> list[str]:
        """The ids of some examples, for messages."""
        with (self.folder / "ids.jsonl").open(encoding="utf-8") as file:
            lines = dict(enumerate(file))
        return [json.loads(lines[int(self.index[i])]) for i in which]

    def split(self, share: float) -> tuple["Corpus", "Corpus"]:
        """Examples to train on and a share of the problems held out, at least one problem each; 0 holds out none.

        Which they are is decided by a hash of the problem's text, see `data.split`.

        Raises:
            InputError: there are fewer than two problems.
        """
        wrong = "held_out: the data has one problem only, which cannot be on both sides: give 0, or a file"
        held = held_out_numbers(self._files["problems.u64"][self.index], share, wrong)
        return replace(self, index=self.index[~held]), replace(self, index=self.index[held])

    def draw(self, count: int, seed: int) -> "Corpus":
        """So many of the examples, in their order; by the same seed fewer ones are among more.

        Raises:
            InputError: there are not so many.
        """
        if count > len(self):
            raise InputError(f"data.limit: the data has {len(self)} examples to train on, not {count}")
        drawn = np.random.default_rng(seed).permutation(len(self))[:count]
        return replace(self, index=self.index[np.sort(drawn)])


def _data(source: Path) -> Path:
    """The records of a run directory; any other source is itself."""
    source = source.expanduser()
    return source / "data" if (source / "manifest.json").is_file() and (source / "data").is_dir() else source


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One builder at a time; the system lets go of the lock when a process ends, however it ends."""
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- building ------------------------------------------------------------------------------------------------------


def _build(folder: Path, sources: Sequence[Path], chat: Chat, options: Options, identity: Mapping[str, Any]) -> None:
    beside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)  # of a builder that was killed
    beside.mkdir()
    try:
        counts = FieldCounts()
        with _CorpusWriter(beside, options) as writer:
            for row in chain.from_iterable(rows(source) for source in sources):
                writer.report.rows += 1
                for found in examples(row, chat, options.system, options.turns, counts):
                    writer.add(found)
        writer.report.unread = dict(counts.rows)
        if not writer.report.examples:
            raise InputError(f"no example to train on in {', '.join(map(str, sources))}: {writer.why()}")
        (beside / "corpus.json").write_text(
            json.dumps({"identity": identity, "report": asdict(writer.report)}, indent=2) + "\n", "utf-8"
        )
        for file in beside.iterdir():
            _to_disk(file)
        os.rename(beside, folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


class _CorpusWriter:
    """Appends examples to the files, cut to length, and counts."""

    def __init__(self, folder: Path, options: Options):
        self.report = CorpusReport()
        self._options = options
        self._offset = 0
        self._shortest: int | None = None  # of the examples that did not fit
        self._first: Reject | None = None
        self._open = ExitStack()
        names = [*_ARRAYS, "ids.jsonl", "rejects.jsonl"]
        self._files = {name: self._open.enter_context((folder / name).open("wb")) for name in names}
        self._write("offsets.i64", 0)

    def __enter__(self) -> "_CorpusWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, found: Example | Reject) -> None:
        if isinstance(found, Reject):
            self.report.rejected += 1
            self._first = self._first or found
            self._files["rejects.jsonl"].write(dump_line(found.to_row()).encode() + b"\n")
            return
        length = self._options.length
        tokens, parts = found.tokens[:length], found.parts[:length]
        if len(found.tokens) > length:
            self._shortest = min(len(found.tokens), self._shortest or len(found.tokens))
            if self._options.long == "drop":
                self.report.dropped += 1
                return
            if not (parts[1:] != CONTEXT).any():
                self.report.cut += 1
                return
            self.report.truncated += 1
        self.report.examples += 1
        for name, count in zip(PARTS, np.bincount(parts, minlength=len(PARTS)), strict=True):
            self.report.tokens[name] += int(count)
        self._offset += len(tokens)
        self._write("tokens.i32", tokens)
        self._write("parts.i8", parts)
        self._write("offsets.i64", self._offset)
        self._write("problems.u64", hash_number(found.problem))
        self._write("counts.i32", np.bincount(parts[1:], minlength=len(PARTS)))
        self._files["ids.jsonl"].write(json.dumps(found.id).encode() + b"\n")

    def _write(self, name: str, values: Any) -> None:
        self._files[name].write(np.asarray(values, _ARRAYS[name]).tobytes())

    def why(self) -> str:
        """Why there are no examples, for the user."""
        reasons = []
        if self._first is not None:
            first = f"{self._first.file}:{self._first.line}: {self._first.reason}"
            reasons.append(f"{self.report.rejected} of {self.report.rows} rows cannot be used, the first: {first}")
        if self._shortest is not None:
            reasons.append(
                f"{self.report.dropped + self.report.cut} do not fit into length = {self._options.length} tokens;"
                f" the shortest of them has {self._shortest}: raise length"
            )
        return "; ".join(reasons)


def _to_disk(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
