"""What `synthesize` and `sample` share: problems through an engine into a run directory, or a look at them."""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from rich.console import Console

from tessy_jax.config.sample import SampleConfig
from tessy_jax.config.schema import describe, load_as, to_yaml
from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.console.app import overrides, run
from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import log_to, say
from tessy_jax.console.progress import Progress, ProgressView
from tessy_jax.console.show_trace import show
from tessy_jax.data.hashing import hash_file
from tessy_jax.data.inputs import Reject, read
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.records import Problem, RowState
from tessy_jax.data.run_folder import make_manifest
from tessy_jax.data.run_rows import RunDir
from tessy_jax.data.sources import files
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.devices.processes import anywhere
from tessy_jax.engine.engine import Dispatch, Engine
from tessy_jax.engine.language_model import ModelSource, prompt_ids
from tessy_jax.engine.rows import NAMES, Job
from tessy_jax.errors import DONE, INTERRUPTED, REJECTS
from tessy_jax.models import (
    DecoderConfig,
    init_cache,
    parameter_bytes,
    read_config,
)
from tessy_jax.models.mask import Mask
from tessy_jax.predictors.base import OwnModel

Flying = dict[tuple[str, int], RowState]
"""Rows of the journal that are not taken up yet, by id and sample."""

ConfigT = TypeVar("ConfigT", SynthesisConfig, SampleConfig)


class Ensemble(Protocol):
    """Who writes: a `Pair`, or one model alone.

    Attributes:
      sources: the models, by role; one alone has the student's.
      plan: what decides a trace, for the user.
      predictor_models: the models that predictors bring along, by name.
    """

    @property
    def config(self) -> SynthesisConfig | SampleConfig: ...
    @property
    def sources(self) -> tuple[ModelSource, ...]: ...
    @property
    def plan(self) -> str: ...
    @property
    def predictor_models(self) -> Mapping[str, OwnModel]: ...

    def identity(self) -> dict[str, Any]:
        """What the records depend on, for the manifest."""
        ...

    def load(self, mesh: Mesh | None) -> Engine:
        """Loads all weights onto the mesh and builds the engine."""
        ...


def run_command(
    argv: list[str] | None,
    parser: argparse.ArgumentParser,
    schema: type[ConfigT],
    default: Path,
    ensemble: Callable[[ConfigT], Ensemble],
) -> int:
    """Runs a command that writes traces; returns its exit code (design §6).

    Args:
      parser: the command's, to which the options are added.
      schema, default: its configuration, and the file that is read where none is named.
      ensemble: opens the models of a configuration.
    """
    _add_options(parser, describe(schema), default)
    options = parser.parse_intermixed_args(argv)

    def write(console: Console) -> int:
        config = load_as(schema, options.config, overrides(options, default, ("input", "output", "limit")))
        if options.pod:
            jax.distributed.initialize()
        return _write(config, ensemble, options, console)

    return run(write)


def _add_options(parser: argparse.ArgumentParser, keys: str, default: Path) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "configuration keys, for the YAML file and as key=value:\n\n" + keys
    parser.add_argument("config", nargs="?", type=Path, default=default, help=f"a YAML file; default: {default}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. engine.batch=8")
    parser.add_argument("--input", help="problems; the same as input=…")
    parser.add_argument("--output", help="run directory; the same as output=…")
    parser.add_argument("--limit", type=int, help="stop after this many problems; the same as limit=…")
    parser.add_argument("--dry-run", action="store_true", help="show prompts, plan and memory, then stop")
    parser.add_argument("--overwrite", action="store_true", help="start anew where an earlier run wrote")
    parser.add_argument("--show", action="store_true", help="print finished traces in colour by author")
    parser.add_argument("--pod", action="store_true", help="join the other processes of a TPU pod or cluster")


# -- one run -----------------------------------------------------------------------------------------------------------


def _write(
    config: ConfigT, ensemble: Callable[[ConfigT], Ensemble], options: argparse.Namespace, console: Console
) -> int:
    if config.engine.compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(config.engine.compilation_cache))
    rows = list(itertools.islice(read(Path(config.input), config.columns), config.limit))
    mesh = make_mesh(config.mesh, config.engine.batch)
    authors = ensemble(config)
    if options.dry_run:
        return _dry_run(authors, rows)
    manifest = make_manifest(
        authors.identity() | {"input": {f.name: hash_file(f) for f in files(Path(config.input))}},
        [f"{d.platform} {d.device_kind}" for d in jax.devices()],
    )
    shard = (jax.process_index(), jax.process_count())
    with (
        RunDir.open(
            config.output,
            config_yaml=to_yaml(config),
            manifest=manifest,
            overwrite=options.overwrite,
            shard=shard,
            barrier=partial(multihost_utils.sync_global_devices, "run directory"),
        ) as run,
        log_to(run.log_path),
    ):
        rows = rows[shard[0] :: shard[1]]
        for row in rows:
            if isinstance(row, Reject):
                run.reject(row.to_row())
        problems = [row for row in rows if isinstance(row, Problem)]
        progress = Progress(total=len(problems) * config.samples + len(rows) - len(problems))
        mine = {(p.id, s) for p in problems for s in range(config.samples)}
        failed = run.failed & mine  # as they would again
        progress.resumed = progress.done = len(run.done & mine - failed)
        progress.rejected = len(rows) - len(problems) + len(failed)
        if mine <= run.done and shard[1] == 1:
            say(console, "nothing left to do")
            if options.show:
                _show(run)
            return _summary(run, progress, False, console)
        say(console, "loading " + " and ".join(source.config.model for source in authors.sources))
        engine = authors.load(mesh)
        say(console, f"compiling for {1 if mesh is None else mesh.size} x {jax.devices()[0].device_kind}")
        with Interrupt(console, "this dispatch") as stop, ProgressView(progress, console) as view:
            flying = {(row.id, row.sample_index): row for row in run.read_journal()}
            for dispatch in engine.run(_jobs(run, flying, problems, config.samples)):
                _store(run, dispatch, flying, progress)
                view.update()
                if anywhere(stop.asked):
                    stop.asked = True
                    break
        if options.show:
            _show(run)
        return _summary(run, progress, stop.asked, console)


def _jobs(run: RunDir, flying: Flying, problems: list[Problem], samples: int) -> Iterator[Job]:
    """What is left to do: first the rows that were in flight, each taken out of `flying`, then new ones."""
    by_id = {problem.id: problem for problem in problems}
    taken = [key for key in flying if key[0] in by_id and key[1] < samples]
    for key in taken:
        yield Job(by_id[key[0]], key[1], flying.pop(key))
    started = set(taken)
    for problem in problems:
        for sample in range(samples):
            key = problem.id, sample
            if key not in run.done and key not in started:
                yield Job(problem, sample)


def _store(run: RunDir, dispatch: Dispatch, flying: Flying, progress: Progress) -> None:
    """Finished rows first, then the journal: a kill between the two repeats nothing, as done rows are not taken up.

    Rows of an earlier journal stay in it while they wait for a slot.
    """
    for record in dispatch.finished:
        run.append(record.to_row())
    for job, reason in dispatch.rejected:
        run.reject({"id": job.problem.id, "sample_index": job.sample_index, "line": job.problem.line, "reason": reason})
    run.write_journal([*dispatch.active, *flying.values()])
    progress.done += len(dispatch.finished)
    progress.rejected += len(dispatch.rejected)
    progress.active = len(dispatch.active)
    for role, name in enumerate(NAMES):
        progress.kept[name] += dispatch.kept[role]
    progress.rolled_back += sum(dispatch.dropped)
    progress.switches += dispatch.spans
    work = {name: getattr(dispatch.work, name) for name in ("chunks", "decodes", "sampled", "turns", "judged")}
    run.metrics(progress.metrics() | work | {"phase_seconds": dispatch.seconds})


def _show(run: RunDir) -> None:
    out = Console()
    for path in sorted((run.path / "data").glob("part-*.jsonl")):
        for _, row in read_objects(path):
            if row:
                show(row, out)


def _summary(run: RunDir, progress: Progress, stopped: bool, console: Console) -> int:
    left = (progress.total or 0) - progress.done - progress.rejected
    say(console, f"{progress.done} rows done, {progress.rejected} rejected, {left} left; records in {run.path}/data")
    if stopped and left:
        say(console, "stopped; the same command goes on from here")
        return INTERRUPTED
    if progress.rejected:
        say(console, f"see {run.path}/rejects.jsonl for the rejected rows and why")
        return REJECTS
    return DONE


# -- the dry run -------------------------------------------------------------------------------------------------------


def _dry_run(authors: Ensemble, rows: list[Problem | Reject]) -> int:
    config = authors.config
    problems = [row for row in rows if isinstance(row, Problem)]
    out = Console(highlight=False, markup=False, soft_wrap=True)
    for row in rows:
        if isinstance(row, Reject):
            out.print(f"reject: {row.file}:{row.line}: {row.reason}")
    for name, source in zip(NAMES, authors.sources, strict=False):
        out.rule(f"{name}: {source.config.model}")
        if problems:
            ids = prompt_ids(source.chat, source.config.prompt.system, problems[0].messages)
            out.print(source.chat.reference.decode(ids))
            out.print(f"{len(ids)} ids: {ids}")
        out.print(f"sampling: {source.config.sampling}")
    out.rule("plan")
    out.print(f"{len(problems)} problems x {config.samples} samples, {config.engine.batch} slots; {authors.plan}")
    out.rule("memory, GiB over all devices")
    for part_name, gib in _memory(authors).items():
        out.print(f"{part_name:<28}{gib:8.2f}")
    return DONE


def _memory(authors: Ensemble) -> dict[str, float]:
    """An estimate from the models' shapes: weights, and full caches for every slot (windows need less)."""
    engine = authors.config.engine
    out = {}
    parts: list[tuple[str, DecoderConfig, str | None, Mask | None]]
    parts = [(name, w.shapes, w.config.cache, None) for name, w in zip(NAMES, authors.sources, strict=False)]
    parts += [(name, read_config(folder), None, seen) for name, (folder, seen) in authors.predictor_models.items()]
    for part, model, dtype, seen in parts:
        empty = partial(init_cache, model, engine.batch, engine.context, 1024, dtype or engine.dtype, context=seen)
        out[f"{part} weights"] = parameter_bytes(model, engine.dtype) / 2**30
        out[f"{part} cache"] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(empty))) / 2**30
    return out | {"sum, without temporaries": sum(out.values())}
