"""What a probe is trained on: responses in the writer's tokens with the labels of their segments, split by prompt."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from tessy_jax.config.train_probe import ProbeDataConfig
from tessy_jax.data.annotated import read_annotated
from tessy_jax.data.inputs import BadRow, InputError, Reject, row_object, why
from tessy_jax.data.records import Record
from tessy_jax.data.segments import Annotated
from tessy_jax.data.sources import RawRow, data_path, rows
from tessy_jax.data.split import held_out
from tessy_jax.storage.copies import local
from tessy_jax.text.chat import Chat, with_system
from tessy_jax.train.data.examples import CONTEXT, STYLE
from tessy_jax.train.data.labels import Labelled

FIT, CHOOSE, HELD_OUT = range(3)
"""What a labelled token is for: to fit on, to choose the layer and the threshold by, or for the report alone."""


@dataclass(frozen=True, eq=False)
class Response:
    """One response in the writer's tokens.

    Attributes:
        id: of its prompt.
        sample_index: which of the prompt's responses it is.
        ids: tokens of the prompt and the thinking.
        prompt: how many of them are the prompt's.
        segments: its annotated segments; `first` counts from the beginning of the thinking.
    """

    id: str
    sample_index: int
    ids: list[int]
    prompt: int
    segments: list[Labelled]

    @property
    def labels(self) -> int:
        """Labelled tokens."""
        return sum(int((segment.classes != CONTEXT).sum()) for segment in self.segments)


def read_responses(
    annotated: Sequence[Path], sources: Sequence[Path], chat: Chat, system: str | None, length: int
) -> tuple[list[Response], list[str]]:
    """Responses that have annotated segments, and which rows and segments cannot be used and why, for people.

    Args:
        annotated: run directories with the segments.
        sources: run directories with the responses.
        chat: of the writer.
        system: a system message put before prompts that bring none, as when the responses were written.
        length: tokens that are read of a response, its prompt included.

    Raises:
        InputError: a source cannot be read, or nothing is left.
    """
    rejects: list[str] = []
    segments: dict[tuple[str, int], list[Annotated]] = {}
    for found in read_annotated(annotated):
        if isinstance(found, Reject):
            rejects.append(_words(found))
        else:
            segments.setdefault((found.segment.id, found.segment.sample_index), []).append(found)
    responses = []
    for row, record in _records(sources, rejects):
        mine = segments.pop((record.problem.id, record.sample_index), [])
        if not mine:
            continue
        try:
            responses.append(_response(record, mine, chat, system, length, rejects))
        except Exception as error:  # whatever a template or a tokenizer raises: the other rows go on
            rejects.append(_words(Reject.of(row, record.problem.id, why(error))))
    rejects += [f"{name}#{sample}: its response is not in {', '.join(map(str, sources))}" for name, sample in segments]
    responses = [response for response in responses if response.labels]
    if not responses:
        reason = rejects[0] if rejects else "no segment"
        raise InputError(f"no response with annotated segments to learn from; the first problem: {reason}")
    return responses, rejects


def _records(sources: Sequence[Path], rejects: list[str]) -> Iterator[tuple[RawRow, Record]]:
    for source in sources:
        for row in rows(data_path(source)):
            try:
                record = Record.from_row(row_object(row))
            except (BadRow, ValueError) as error:
                rejects.append(_words(Reject.of(row, None, f"not a record of sample or synthesize: {error}")))
            except Exception as error:
                rejects.append(_words(Reject.of(row, None, f"not a record of sample or synthesize: {why(error)}")))
            else:
                yield row, record


def _words(reject: Reject) -> str:
    return f"{reject.file}:{reject.line}: {reject.reason}"


def _response(
    record: Record,
    segments: list[Annotated],
    chat: Chat,
    system: str | None,
    length: int,
    rejects: list[str],
) -> Response:
    thinking = record.thinking
    blank = len(thinking) - len(thinking.lstrip())  # annotate's offsets begin at the first word
    data = thinking.encode()
    prompt = chat.prompt_ids(with_system(system, record.problem.messages))
    ids, ends = chat.tokenizer.encode(data)
    room = max(0, length - len(prompt))
    labelled = []
    for source in sorted(segments, key=lambda s: s.segment.start or 0):
        text, start = source.segment.text, source.segment.start
        if start is None or thinking[blank + start : blank + start + len(text)] != text:
            where = "has no offset" if start is None else "is not in its response where its offset says"
            name = f"{record.problem.id}#{record.sample_index}/{source.segment.index}"
            rejects.append(f"{name}: the segment {where}")
            continue
        begin = len(thinking[: blank + start].encode())
        labelled.append(Labelled.within(source, data, begin, ids[:room], ends[:room]))
    return Response(record.problem.id, record.sample_index, [*prompt, *ids[:room]], len(prompt), labelled)


def labelled_tokens(responses: Sequence[Response]) -> Int[np.ndarray, " N"]:
    """The tokens that have labels, in the order of responses and segments."""
    return np.concatenate([s.tokens[s.classes != CONTEXT] for r in responses for s in r.segments])


def styles(responses: Sequence[Response]) -> Bool[np.ndarray, " N"]:
    """The labels, in the order of `labelled_tokens`."""
    classes = np.concatenate([s.classes for r in responses for s in r.segments])
    return classes[classes != CONTEXT] == STYLE


# -- the data of a run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ProbeData:
    """The responses of a run, and what each of their labelled tokens is for.

    Attributes:
        responses: those that are used.
        found: how many there were.
        sides: FIT, CHOOSE or HELD_OUT for each labelled token; all tokens of a prompt have the same.
        rejects: rows and segments that could not be used and why, for people.
    """

    responses: list[Response]
    found: int
    sides: Int[np.ndarray, " N"]
    rejects: list[str]

    @classmethod
    def open(cls, config: ProbeDataConfig, chat: Chat, system: str | None, longest: int) -> "ProbeData":
        """Reads the responses and their labels, and splits them.

        Args:
            chat: of the writer.
            system: see `read_responses`.
            longest: tokens that the writer reads at most.

        Raises:
            InputError: a source cannot be read, nothing is left of it, or it has one prompt only.
        """
        annotated, sources = ([local(source) for source in paths] for paths in (config.annotated, config.responses))
        every, rejects = read_responses(annotated, sources, chat, system, min(config.length, longest))
        responses = _draw(every, config.max_tokens)
        return cls(responses, len(every), _sides(responses, config.held_out, config.choose), rejects)

    @cached_property
    def style(self) -> Bool[np.ndarray, " N"]:
        """The labels."""
        return styles(self.responses)

    def check(self) -> None:
        """Raises InputError where the tokens of one side are not of both classes."""
        for side, name in ((FIT, "to fit"), (CHOOSE, "to choose"), (HELD_OUT, "held out")):
            if len(set(self.style[self.sides == side])) < 2:
                raise InputError(f"the tokens {name} are all of one kind or none: annotate more prompts")

    def summary(self) -> str:
        """Counts, for people."""
        fit, choose, held = (int((self.sides == side).sum()) for side in (FIT, CHOOSE, HELD_OUT))
        return (
            f"{len(self.responses)} of {self.found} responses, {len(self.style):,} labelled tokens, "
            f"{self.style.mean():.1%} style; {fit:,} to fit, {choose:,} to choose, {held:,} held out"
        )

    @property
    def segments(self) -> list[Labelled]:
        """The segments of all responses, in order."""
        return [segment for response in self.responses for segment in response.segments]

    def held_out_by_segment(self, values: Float[np.ndarray, " N"]) -> list[Float[np.ndarray, " T"]]:
        """Values of labelled tokens, for each token of each segment; NaN where it has no label or is not held out."""
        values = np.where(self.sides == HELD_OUT, values, np.nan)
        out, start = [], 0
        for segment in self.segments:
            known = segment.classes != CONTEXT
            row = np.full(len(known), np.nan)
            row[known] = values[start : start + known.sum()]
            start += int(known.sum())
            out.append(row)
        return out


def _draw(responses: list[Response], limit: int) -> list[Response]:
    """Whole responses with at most `limit` labels together, drawn by hash; one at least."""

    def number(response: Response) -> bytes:
        return hashlib.sha256(f"{response.id}#{response.sample_index}".encode()).digest()

    kept: set[int] = set()
    for i in sorted(range(len(responses)), key=lambda i: number(responses[i])):
        limit -= responses[i].labels
        if limit < 0 and kept:
            break
        kept.add(i)
    return [responses[i] for i in sorted(kept)]


def _sides(responses: list[Response], held: float, choose: float) -> Int[np.ndarray, " N"]:
    """The side of each labelled token, split by prompt: first a share `held`, then a share `choose` of the rest."""
    out = held_out([response.id for response in responses], held)
    rest = sorted({response.id for response, is_out in zip(responses, out, strict=True) if not is_out})
    # Hashed under another name: else the prompts to choose by were those with the lowest numbers again.
    chosen = dict(zip(rest, held_out([f"choose {name}" for name in rest], choose), strict=True))
    sides = [
        HELD_OUT if is_out else CHOOSE if chosen[response.id] else FIT
        for response, is_out in zip(responses, out, strict=True)
    ]
    return np.repeat(sides, [response.labels for response in responses])
