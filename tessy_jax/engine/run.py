"""What `synthesize` and `sample` share: problems through an engine into a run directory, which is resumed where it
exists.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar

import jax
from jax.sharding import Mesh
from rich.console import Console

from tessy_jax.config.schema import to_yaml
from tessy_jax.config.sections import TraceRunConfig
from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import log_to, say
from tessy_jax.console.progress import ProgressView, SynthesisProgress, compiling
from tessy_jax.console.show_trace import show
from tessy_jax.data.hashing import hash_file
from tessy_jax.data.inputs import Reject
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.records import Problem, RowState
from tessy_jax.data.run_folder import (
    RunDirError,
    compare_identity,
    make_manifest,
    numbered,
    rules_of,
    stored_manifest,
)
from tessy_jax.data.run_rows import TRACES, RunDir
from tessy_jax.data.shards import Shard
from tessy_jax.data.sources import files
from tessy_jax.devices import compilation_cache, processes
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.dry_run import dry_run
from tessy_jax.engine.engine import Dispatch
from tessy_jax.engine.rows import NAMES, Job
from tessy_jax.engine.sizes import pool_of
from tessy_jax.engine.writers import Writers
from tessy_jax.errors import DONE, INTERRUPTED, REJECTS, ConfigError, UserError
from tessy_jax.storage.paths import as_path

ConfigT = TypeVar("ConfigT", bound=TraceRunConfig)
ConfigT_contra = TypeVar("ConfigT_contra", bound=TraceRunConfig, contravariant=True)


class OpensModels(Protocol[ConfigT_contra]):
    """What a configuration's models are opened by: a class of `Writers`, or a method of `baselines`."""

    def open(self, config: ConfigT_contra) -> Writers: ...
    def identity_as(self, stored: Mapping[str, Any], config: ConfigT_contra) -> dict[str, Any] | None: ...


def write_traces(
    config: ConfigT,
    models_of: OpensModels[ConfigT],
    rows: Sequence[Problem | Reject],
    options: argparse.Namespace,
    console: Console,
) -> int:
    """Writes a record for every problem and sample that the run directory does not have, and returns the exit code.

    Args:
        config: of the command.
        models_of: whose `open` opens the models of the configuration, without their weights.
        rows: the input.
        options: of the command: pod, pod_timeout, shard, dry_run, overwrite, show.
        console: for messages.

    Raises:
        UserError: one of many kinds; the text says what was wrong and what to do.
    """
    shard = _shard(options)
    if shard.count > 1 and options.overwrite:
        raise ConfigError("--overwrite --shard: other shards may be writing there; remove the run directory instead")
    if options.pod:
        processes.initialize(options.pod_timeout, _settings(config, shard, options))
    rows = shard.part(rows)
    mesh = make_mesh(config.mesh, config.engine.batch)
    pool_of(config.engine, mesh)  # raises, before there is a run directory
    if jax.process_count() == 1 and not options.dry_run and not options.overwrite:
        known = _recognise(config, models_of)
        if known is not None:  # so an opened pair would be the one of the run that is there
            with _open_run(config, known, options) as run, log_to(run.log_path):
                work = Work.begin(run, rows, config.samples)
                if work.is_done:
                    say(console, "nothing left to do")
                    return _end(work, False, options.show, console)
    models = models_of.open(config)
    if options.dry_run:
        return REJECTS if dry_run(models, rows) else DONE
    return _write_run(models, rows, options, mesh, console)


def _write_run(
    models: Writers,
    rows: Sequence[Problem | Reject],
    options: argparse.Namespace,
    mesh: Mesh | None,
    console: Console,
) -> int:
    """Writes a run and, before it, the stages that it is made of; returns the exit code."""
    index, count, config = jax.process_index(), jax.process_count(), models.config
    begun = None if options.overwrite else rules_of(config.output, TRACES.format)
    rules = begun or models.rules
    identity = models.identity() | _input_identity(config) | numbered(rules)
    with _open_run(config, identity, options) as run, log_to(run.log_path):
        work = Work.begin(run, rows[index::count], config.samples)
        if rules < models.rules and processes.anywhere(not work.is_done):
            raise RunDirError(
                f"{config.output} holds the beginning of a run by an earlier version, in which this preset had other "
                "rules, and their records would be mixed: finish it with that version, or use --overwrite or another "
                "--output"
            )
        if work.is_done and count == 1:
            say(console, "nothing left to do")
            stopped = False
        elif not _write_stages(models, rows, options, mesh, console):
            return INTERRUPTED
        else:
            stopped = _write(work, models, mesh, console)
        return _end(work, stopped, options.show, console)


def _write_stages(
    models: Writers,
    rows: Sequence[Problem | Reject],
    options: argparse.Namespace,
    mesh: Mesh | None,
    console: Console,
) -> bool:
    """Writes what must be there first; returns whether it is."""
    for stage in models.stages:
        say(console, f"first: {stage.name}")
        if _write_run(stage.models, stage.rows(rows), options, mesh, console) == INTERRUPTED:
            return False
        processes.barrier("stage")  # what one process reads, another may have written
    return True


def _recognise(config: ConfigT, models_of: OpensModels[ConfigT]) -> dict[str, Any] | None:
    """The identity of the run in the run directory, if it is one of this configuration and of the files as they are.

    Tokenizers stay closed, which take seconds. None: it may be another, and to open the models is how to find out.
    """
    path = config.output.expanduser()
    try:
        stored = stored_manifest(path, TRACES.format) or {}
        known = models_of.identity_as(stored["identity"], config)
        rules = numbered(stored["identity"].get("rules", 1))
        identity = None if known is None else known | _input_identity(config) | rules
        if identity is not None:
            compare_identity(path, stored, {"identity": identity})
    except (OSError, UserError, LookupError, TypeError):
        return None
    return identity


def _input_identity(config: ConfigT) -> dict[str, Any]:
    return {"input": {file.name: hash_file(file) for file in files(as_path(config.input))}}


def _settings(config: ConfigT, shard: Shard, options: argparse.Namespace) -> dict[str, Any]:
    """What all processes of a pod are started with."""
    more = {"--shard": f"{shard.index}/{shard.count}", "--overwrite": options.overwrite, "--dry-run": options.dry_run}
    return config.model_dump(mode="json") | more


def _shard(options: argparse.Namespace) -> Shard:
    return Shard.parse(options.shard, pod=options.pod)


def _open_run(config: ConfigT, identity: Mapping[str, Any], options: argparse.Namespace) -> RunDir:
    """The run directory of the configuration, begun or resumed."""
    devices = [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    return RunDir.open(
        config.output,
        config_yaml=to_yaml(config),
        manifest=make_manifest(identity, devices),
        overwrite=options.overwrite,
        shard=_shard(options).of_process(jax.process_index(), jax.process_count()),
        barrier=partial(processes.barrier, "run directory"),
    )


def _write(work: "Work", models: Writers, mesh: Mesh | None, console: Console) -> bool:
    """Does what is left of the work; returns whether the user stopped it."""
    say(console, "loading " + " and ".join(source.config.model for source in models.sources))
    compilation_cache.use(models.config.engine)
    engine = models.load(mesh)
    state = compiling(1 if mesh is None else mesh.size, jax.devices()[0])
    say(console, state)
    with Interrupt(console, "this dispatch") as stop, ProgressView(work.progress, console, waiting=state) as view:
        for dispatch in engine.run(work.jobs()):
            work.store(dispatch)
            view.update()
            if processes.anywhere(stop.asked):
                stop.asked = True
                break
    return stop.asked


@dataclass
class Work:
    """What one process has to write into its run directory, and how far it is.

    Attributes:
        run: the run directory.
        problems: those of this process, each to be written `samples` times.
        progress: counts what is done, by earlier commands too.
    """

    run: RunDir
    problems: list[Problem]
    samples: int
    progress: SynthesisProgress

    @classmethod
    def begin(cls, run: RunDir, rows: Sequence[Problem | Reject], samples: int) -> "Work":
        """Stores the rejects among `rows`, the input of this process, and counts what was done before."""
        problems = [row for row in rows if isinstance(row, Problem)]
        rejects = [row for row in rows if isinstance(row, Reject)]
        for reject in rejects:
            run.reject(reject.to_row())

        work = cls(run, problems, samples, SynthesisProgress(total=len(problems) * samples + len(rejects)))
        failed = run.failed & work.keys  # as they would again
        done = len(run.done & work.keys - failed)
        work.progress.done = work.progress.resumed = done
        work.progress.rejected = len(rejects) + len(failed)
        return work

    @property
    def keys(self) -> set[tuple[str, int]]:
        """Id and sample of every record."""
        return {(problem.id, sample) for problem in self.problems for sample in range(self.samples)}

    @property
    def is_done(self) -> bool:
        return self.keys <= self.run.done

    @cached_property
    def journal(self) -> dict[tuple[str, int], RowState]:
        """The rows that were in flight when the last command ended and are not taken up again yet, by id and sample."""
        return {(row.id, row.sample_index): row for row in self.run.read_journal()}

    def jobs(self) -> Iterator[Job]:
        """What is left to do: first the rows that were in flight, each taken out of the journal, then new ones."""
        by_id = {problem.id: problem for problem in self.problems}
        resumed = [key for key in self.journal if key[0] in by_id and key[1] < self.samples]
        for key in resumed:
            yield Job(by_id[key[0]], key[1], self.journal.pop(key))
        begun = set(resumed)
        for problem in self.problems:
            for sample in range(self.samples):
                key = problem.id, sample
                if key not in self.run.done and key not in begun:
                    yield Job(problem, sample)

    def store(self, dispatch: Dispatch) -> None:
        """Stores what a dispatch found: finished rows first, then the journal. A kill between the two repeats nothing,
        as done rows are not taken up again.

        Rows of the last command's journal stay in it while they wait for a slot.
        """
        run, progress = self.run, self.progress
        for record in dispatch.finished:
            run.append(record.to_row())
        for job, reason in dispatch.rejected:
            problem = job.problem
            run.reject(
                {
                    "id": problem.id,
                    "sample_index": job.sample_index,
                    "file": problem.file,
                    "line": problem.line,
                    "reason": reason,
                }
            )
        run.write_journal([*dispatch.active, *self.journal.values()])

        progress.done += len(dispatch.finished)
        progress.rejected += len(dispatch.rejected)
        progress.active = len(dispatch.active)
        progress.see((len(record.content.encode()) for record in dispatch.finished), map(_size, dispatch.active))
        for name, kept in zip(NAMES, dispatch.kept, strict=True):
            progress.kept[name] += kept
        progress.rolled_back += sum(dispatch.dropped)
        progress.evicted += dispatch.evicted
        progress.switches += dispatch.spans
        work = dispatch.work
        progress.passes += sum(work.chunks) + sum(work.decodes)
        progress.rows += sum(work.rows)
        progress.wrote += sum(work.sampled)
        progress.read += sum(work.reading)
        progress.visits += sum(visits.calls for visits in dispatch.visits.values())
        progress.visitors += sum(visits.rows for visits in dispatch.visits.values())
        counts = {field.name: getattr(work, field.name) for field in fields(work)}
        run.metrics(progress.metrics() | counts | {"phase_seconds": dispatch.seconds, "visits": dispatch.visits})


def _size(row: RowState) -> int:
    return len(row.text)


def _show_records(run: RunDir) -> None:
    out = Console()
    for path in sorted((run.path / "data").glob("part-*.jsonl")):
        for _, row in read_objects(path):
            if row:
                show(row, out)


def _end(work: Work, stopped: bool, show_records: bool, console: Console) -> int:
    """Shows the records where that is asked for, and says how far the run is; returns the exit code."""
    if show_records:
        _show_records(work.run)
    return _summarize(work, stopped, console)


def _summarize(work: Work, stopped: bool, console: Console) -> int:
    """Says how far the run is; returns the exit code."""
    progress, path = work.progress, work.run.name
    left = (progress.total or 0) - progress.done - progress.rejected
    say(console, f"{progress.done} rows done, {progress.rejected} rejected, {left} left; records in {path}/data")
    if stopped and left:
        say(console, "stopped; the same command goes on from here")
        return INTERRUPTED
    if progress.rejected:
        say(console, f"see {path}/rejects.jsonl for the rejected rows and why")
        return REJECTS
    return DONE
