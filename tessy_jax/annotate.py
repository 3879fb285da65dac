"""Find style in thinking text: `python -m tessy_jax.annotate [configs/annotate_demo.yaml] [options] [key=value…]`."""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tessy_jax.annotation.agreement import compare
from tessy_jax.annotation.annotator import Annotator, AnnotatorError, Outcome
from tessy_jax.annotation.endpoint import Endpoint
from tessy_jax.annotation.lexicon import Lexicon
from tessy_jax.annotation.segments import Thoughts, draw
from tessy_jax.annotation.thoughts import read_thoughts
from tessy_jax.config.annotate import AnnotateConfig, AnnotatorConfig, EndpointConfig, LexiconConfig
from tessy_jax.config.schema import describe, load_as, to_yaml
from tessy_jax.console.app import overrides, run
from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import log_to, say, tell
from tessy_jax.console.progress import View, duration
from tessy_jax.console.show_segments import agreement_table, show_segment
from tessy_jax.data.annotated import read_annotation
from tessy_jax.data.hashing import hash_file
from tessy_jax.data.inputs import Reject
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.run_folder import make_manifest
from tessy_jax.data.run_rows import SEGMENTS, RunDir
from tessy_jax.data.segments import Annotated, Segment
from tessy_jax.data.sources import data_path, files
from tessy_jax.errors import DONE, ERROR, INTERRUPTED, REJECTS

DEMO = Path("configs/annotate_demo.yaml")
RELEASED = "released"
"""Stands in the place of an annotator's name where the input was annotated already."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code (design §6)."""
    options = _parser().parse_intermixed_args(argv)

    def annotate(console: Console) -> int:
        if options.compare:
            return _compare(*options.compare)
        config = load_as(AnnotateConfig, options.config, overrides(options, DEMO, ("input", "output", "limit")))
        return _annotate(config, options, console)

    return run(annotate)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tessy_jax.annotate",
        description="Finds the style phrases in segments of thinking text. Running the same command again resumes.",
        epilog="configuration keys, for the YAML file and as key=value:\n\n" + describe(AnnotateConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", type=Path, default=DEMO, help=f"a YAML file; default: {DEMO}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. segments.words=40")
    parser.add_argument("--input", help="thinking text; the same as input=…")
    parser.add_argument("--output", help="run directory; the same as output=…")
    parser.add_argument("--limit", type=int, help="stop after this many responses; the same as limit=…")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and the first segment, then stop")
    parser.add_argument("--overwrite", action="store_true", help="start anew where an earlier run wrote")
    parser.add_argument("--show", action="store_true", help="print annotated segments with their style in colour")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar="RUN", help="print how far two annotations agree; annotates nothing"
    )
    return parser


# -- one run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """What there is to do: segments to annotate, rows that are annotated already, rows that cannot be used."""

    responses: int
    segments: list[Segment]
    annotated: list[Annotated]
    rejects: list[Reject]

    @classmethod
    def read(cls, config: AnnotateConfig) -> "Material":
        """Raises InputError where the input cannot be read at all."""
        found = list(itertools.islice(read_thoughts(Path(config.input), config.thoughts), config.limit))
        how = config.segments
        drawn = [draw(one, how.words, how.per_response, how.seed) for one in found if isinstance(one, Thoughts)]
        return cls(
            responses=len(drawn),
            segments=list(itertools.chain.from_iterable(drawn)),
            annotated=[one for one in found if isinstance(one, Annotated)],
            rejects=[one for one in found if isinstance(one, Reject)],
        )


@dataclass
class Progress:
    """Running totals, those of earlier commands included; `resumed` of them, and the clock, are not of this one.

    Attributes:
      total, done, rejected: segments to do, annotated, given up.
      unusable: rows of the input that gave none.
      truncated: replies that were cut off and repaired, by this command.
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


def open_annotator(config: AnnotatorConfig) -> Annotator:
    """The annotator of a configuration; large things are loaded when it begins.

    Raises:
      ConfigError, TextError, WeightsError: what it needs is not there or damaged.
    """
    if isinstance(config, LexiconConfig):
        return Lexicon.load(Path(config.phrases).expanduser())
    if isinstance(config, EndpointConfig):
        return Endpoint(config)
    from tessy_jax.annotation.llm import Llm

    return Llm.open(config)


def _annotate(config: AnnotateConfig, options: argparse.Namespace, console: Console) -> int:
    material = Material.read(config)
    annotator = open_annotator(config.annotator)
    if options.dry_run:
        return _dry_run(config, material, annotator)
    values = config.model_dump(mode="json", include={"thoughts": True, "segments": {"words", "seed"}})
    inputs = {file.name: hash_file(file) for file in files(data_path(Path(config.input)))}
    identity = values | {"annotator": annotator.identity() | {"kind": config.annotator.kind}, "input": inputs}
    with (
        RunDir.open(
            config.output,
            config_yaml=to_yaml(config),
            manifest=make_manifest(identity, []),
            overwrite=options.overwrite,
            kind=SEGMENTS,
        ) as run,
        log_to(run.log_path),
    ):
        progress = _begin(run, material)
        failure, stopped = None, False
        if progress.left:
            left = (segment for segment in material.segments if segment.key not in run.done)
            tell(console, f"annotating {progress.left} segments with {annotator.name}")
            failure, stopped = _go_on(run, annotator, left, progress, console)
        else:
            say(console, "nothing left to do")
        if options.show:
            _show(run)
        return _summary(run, progress, failure, stopped, console)


def _begin(run: RunDir, material: Material) -> Progress:
    """Stores what needs no annotator, and counts what was done before."""
    for reject in material.rejects:
        run.reject(reject.to_row())
    for row in material.annotated:
        run.append(row.to_row(RELEASED))
    wanted = {segment.key for segment in material.segments} | {row.segment.key for row in material.annotated}
    rejected = len(run.failed & wanted)
    done = len(run.done & wanted) - rejected
    return Progress(len(wanted), done, rejected, len(material.rejects), resumed=done + rejected)


def _go_on(
    run: RunDir, annotator: Annotator, left: Iterator[Segment], progress: Progress, console: Console
) -> tuple[AnnotatorError | None, bool]:
    """Annotates what is left. Returns the error that ended it and whether the user did."""
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
            return error, stop.asked
    return None, stop.asked


def _store(run: RunDir, name: str, group: Sequence[Outcome], progress: Progress) -> None:
    for outcome in group:
        if isinstance(outcome, Annotated):
            run.append(outcome.to_row(name))
            progress.done += 1
            progress.truncated += outcome.truncated
        else:
            run.reject(outcome.to_row(name))
            progress.rejected += 1
    if group:
        run.metrics(progress.metrics())


def _show(run: RunDir) -> None:
    out = Console()
    for path in sorted((run.path / "data").glob("part-*.jsonl")):
        for _, row in read_objects(path):
            if row:
                show_segment(row, out)


def _summary(run: RunDir, progress: Progress, failure: AnnotatorError | None, stopped: bool, console: Console) -> int:
    say(
        console,
        f"{progress.done} segments done, {progress.rejected} rejected ({progress.reject_share:.1%}), {progress.left} "
        f"left; segments in {run.path}/data",
    )
    if progress.truncated:
        say(console, f"{progress.truncated} replies were cut off: their complete items were kept")
    if progress.unusable:
        say(console, f"{progress.unusable} rows of the input could not be used")
    if failure is not None:
        tell(console, f"error: {failure}")
        tell(console, "what is done is kept; repair this, and the same command goes on from here")
        return ERROR
    if stopped and progress.left:
        say(console, "stopped; the same command goes on from here")
        return INTERRUPTED
    if progress.rejected or progress.unusable:
        say(console, f"see {run.path}/rejects.jsonl for what was rejected and why")
        return REJECTS
    return DONE


# -- looking without annotating ----------------------------------------------------------------------------------------


def _dry_run(config: AnnotateConfig, material: Material, annotator: Annotator) -> int:
    out = Console(highlight=False, markup=False, soft_wrap=True)
    for row in material.rejects:
        out.print(f"reject: {row.file}:{row.line}: {row.reason}")
    out.rule("plan")
    out.print(
        f"{material.responses} responses, {len(material.segments)} segments of {config.segments.words} words for "
        f"{annotator.name}; {len(material.annotated)} segments are annotated already"
    )
    if material.segments:
        first = material.segments[0]
        out.rule(f"{first.id} #{first.sample_index} segment {first.index}")
        out.print(first.text)
        out.rule(annotator.name)
        out.print(annotator.preview(first))
    return DONE


def _compare(a: Path, b: Path) -> int:
    out = Console()
    out.print(agreement_table(compare(read_annotation(a), read_annotation(b))))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
