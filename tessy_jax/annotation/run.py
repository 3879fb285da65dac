"""What `annotate` runs: segments through an annotator into a run directory, which is resumed where it exists."""

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from tessy_jax.annotation.agreement import compare
from tessy_jax.annotation.agreement_table import agreement_table
from tessy_jax.annotation.annotator import Annotator, AnnotatorError, Outcome
from tessy_jax.annotation.endpoint import Endpoint
from tessy_jax.annotation.lexicon import Lexicon
from tessy_jax.annotation.segments import Thoughts, draw
from tessy_jax.annotation.thoughts import read_thoughts
from tessy_jax.config.annotate import AnnotateConfig, AnnotatorConfig, EndpointConfig, LexiconConfig
from tessy_jax.config.schema import to_yaml
from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import log_to, say, tell
from tessy_jax.console.progress import View, duration
from tessy_jax.console.show_segments import show_segment
from tessy_jax.data.annotated import read_annotation
from tessy_jax.data.hashing import hash_file
from tessy_jax.data.inputs import Reject
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.run_folder import make_manifest
from tessy_jax.data.run_rows import SEGMENTS, RunDir
from tessy_jax.data.segments import Annotated, Segment
from tessy_jax.data.sources import data_path, files
from tessy_jax.errors import DONE, ERROR, INTERRUPTED, REJECTS
from tessy_jax.storage.copies import local

RELEASED = "released"
"""Stands in the place of an annotator's name where the input was annotated already."""


def annotate(config: AnnotateConfig, options: argparse.Namespace, console: Console) -> int:
    """Annotates the segments that the run directory does not have, and returns the exit code.

    Args:
        config: of the command.
        options: of the command: dry_run, overwrite, show.
        console: for messages.

    Raises:
        UserError: one of many kinds; the text says what was wrong and what to do.
    """
    rows = InputRows.read(config)
    annotator = open_annotator(config.annotator)
    if options.dry_run:
        _dry_run(config, rows, annotator)
        return REJECTS if rows.rejects else DONE

    with _open_run(config, annotator, options.overwrite) as run, log_to(run.log_path):
        progress = _begin(run, rows)
        ending = Ending()
        if progress.left:
            left = (segment for segment in rows.segments if segment.key not in run.done)
            tell(console, f"annotating {progress.left} segments with {annotator.name}")
            ending = _annotate(run, annotator, left, progress, console)
        else:
            say(console, "nothing left to do")
        if options.show:
            _show_segments(run)
        return _summarize(run, progress, ending, console)


def compare_runs(a: Path, b: Path) -> int:
    """Prints how far the annotations in two run directories agree, and returns the exit code.

    Raises:
        InputError: one has no annotated segments, or a segment has different texts in the two.
    """
    Console().print(agreement_table(compare(read_annotation(a), read_annotation(b))))
    return DONE


def open_annotator(config: AnnotatorConfig) -> Annotator:
    """The annotator of a configuration; large things are loaded when it begins.

    Raises:
        ConfigError, TextError, WeightsError: what it needs is not there or damaged.
    """
    if isinstance(config, LexiconConfig):
        return Lexicon.load(local(config.phrases).expanduser())
    if isinstance(config, EndpointConfig):
        return Endpoint(config)
    from tessy_jax.annotation.llm import Llm  # imports JAX, which the others do not need

    return Llm.open(config)


# -- what there is to do -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputRows:
    """What the input holds.

    Attributes:
        responses: how many responses have thinking text to annotate.
        segments: those drawn from these responses.
        annotated: segments that are annotated already, in rows of the released format.
        rejects: rows that cannot be used.
    """

    responses: int
    segments: list[Segment]
    annotated: list[Annotated]
    rejects: list[Reject]

    @classmethod
    def read(cls, config: AnnotateConfig) -> "InputRows":
        """Reads `config.input`. Raises InputError where it cannot be read at all."""
        rows = list(itertools.islice(read_thoughts(local(config.input), config.thoughts), config.limit))
        how = config.segments
        drawn = [draw(row, how.words, how.per_response, how.seed) for row in rows if isinstance(row, Thoughts)]
        return cls(
            responses=len(drawn),
            segments=list(itertools.chain.from_iterable(drawn)),
            annotated=[row for row in rows if isinstance(row, Annotated)],
            rejects=[row for row in rows if isinstance(row, Reject)],
        )


@dataclass
class AnnotationProgress:
    """Running totals, those of earlier commands included.

    Attributes:
        total, done, rejected: segments in all, annotated, given up.
        unusable: rows of the input that gave no segment.
        resumed: of done and rejected, those of earlier commands.
        truncated: replies that were cut off and repaired, by this command.
        started: when this command began, in seconds of `time.monotonic`.
    """

    total: int
    done: int
    rejected: int
    unusable: int
    resumed: int
    truncated: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> int:
        return self.total - self.done - self.rejected

    @property
    def reject_share(self) -> float:
        """Of the segments tried."""
        return self.rejected / max(1, self.done + self.rejected)

    def metrics(self) -> dict[str, Any]:
        """A line of `metrics.jsonl`."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = (self.done + self.rejected - self.resumed) / seconds
        return {
            "seconds": round(seconds, 3),
            "total": self.total,
            "done": self.done,
            "rejected": self.rejected,
            "reject_share": round(self.reject_share, 4),
            "unusable_rows": self.unusable,
            "truncated": self.truncated,
            "segments_per_second": round(rate, 2),
            "eta_seconds": round(self.left / rate, 1) if rate else None,
        }

    def cells(self, _: float) -> dict[str, str]:
        """The panel's values."""
        now = self.metrics()
        return {
            "done": f"{self.done}/{self.total}",
            "rejected": f"{self.rejected} ({self.reject_share:.1%})",
            "segments/s": f"{now['segments_per_second']:.1f}",
            "elapsed": duration(now["seconds"]),
            "eta": "?" if now["eta_seconds"] is None else duration(now["eta_seconds"]),
        }


# -- one run -----------------------------------------------------------------------------------------------------------


class Ending(NamedTuple):
    """How the annotation ended: by an error, by the user, or (neither) because no segment was left."""

    error: AnnotatorError | None = None
    interrupted: bool = False


def _open_run(config: AnnotateConfig, annotator: Annotator, overwrite: bool) -> RunDir:
    """The run directory of the configuration, begun or resumed."""
    identity = config.model_dump(mode="json", include={"thoughts": True, "segments": {"words", "seed"}})
    identity["annotator"] = annotator.identity() | {"kind": config.annotator.kind}
    identity["input"] = {file.name: hash_file(file) for file in files(data_path(local(config.input)))}
    return RunDir.open(
        config.output,
        config_yaml=to_yaml(config),
        manifest=make_manifest(identity, []),
        overwrite=overwrite,
        kind=SEGMENTS,
    )


def _begin(run: RunDir, rows: InputRows) -> AnnotationProgress:
    """Stores what needs no annotator, and counts what was done before."""
    for reject in rows.rejects:
        run.reject(reject.to_row())
    for row in rows.annotated:
        run.append(row.to_row(RELEASED))
    wanted = {segment.key for segment in rows.segments} | {row.segment.key for row in rows.annotated}
    rejected = len(run.failed & wanted)
    done = len(run.done & wanted) - rejected
    return AnnotationProgress(len(wanted), done, rejected, len(rows.rejects), resumed=done + rejected)


def _annotate(
    run: RunDir, annotator: Annotator, left: Iterator[Segment], progress: AnnotationProgress, console: Console
) -> Ending:
    """Annotates what is left, until it is done, the user stops it or the annotator fails."""
    with (
        Interrupt(console, "the segments in flight") as stop,
        View("annotation", progress.cells, console) as view,
        closing(annotator.annotate(itertools.takewhile(lambda _: not stop.asked, left))) as groups,
    ):
        try:
            for group in groups:
                _store(run, annotator.name, group, progress)
                view.update()
        except AnnotatorError as error:
            return Ending(error, stop.asked)
    return Ending(None, stop.asked)


def _store(run: RunDir, annotator: str, group: Sequence[Outcome], progress: AnnotationProgress) -> None:
    for outcome in group:
        if isinstance(outcome, Annotated):
            run.append(outcome.to_row(annotator))
            progress.done += 1
            progress.truncated += outcome.truncated
        else:
            run.reject(outcome.to_row(annotator))
            progress.rejected += 1
    if group:
        run.metrics(progress.metrics())


def _show_segments(run: RunDir) -> None:
    out = Console()
    for path in sorted((run.path / "data").glob("part-*.jsonl")):
        for _, row in read_objects(path):
            if row:
                show_segment(row, out)


def _summarize(run: RunDir, progress: AnnotationProgress, ending: Ending, console: Console) -> int:
    """Says how far the run is; returns the exit code."""
    say(
        console,
        f"{progress.done} segments done, {progress.rejected} rejected ({progress.reject_share:.1%}), {progress.left} "
        f"left; segments in {run.path}/data",
    )
    if progress.truncated:
        say(console, f"{progress.truncated} replies were cut off: their complete items were kept")
    if progress.unusable:
        say(console, f"{progress.unusable} rows of the input could not be used")
    if ending.error is not None:
        tell(console, f"error: {ending.error}")
        tell(console, "what is done is kept; repair this, and the same command goes on from here")
        return ERROR
    if ending.interrupted and progress.left:
        say(console, "stopped; the same command goes on from here")
        return INTERRUPTED
    if progress.rejected or progress.unusable:
        say(console, f"see {run.path}/rejects.jsonl for what was rejected and why")
        return REJECTS
    return DONE


# -- looking without annotating ----------------------------------------------------------------------------------------


def _dry_run(config: AnnotateConfig, rows: InputRows, annotator: Annotator) -> None:
    """Prints the rows that cannot be used, the plan, and what the annotator would do with the first segment."""
    out = Console(highlight=False, markup=False, soft_wrap=True)
    for row in rows.rejects:
        out.print(f"reject: {row.file}:{row.line}: {row.reason}")
    out.rule("plan")
    out.print(
        f"{rows.responses} responses, {len(rows.segments)} segments of {config.segments.words} words for "
        f"{annotator.name}; {len(rows.annotated)} segments are annotated already"
    )
    if rows.segments:
        first = rows.segments[0]
        out.rule(f"{first.id} #{first.sample_index} segment {first.index}")
        out.print(first.text)
        out.rule(annotator.name)
        out.print(annotator.preview(first))
