"""Write cooperative traces: `python -m tessy_jax.synthesize [configs/demo.yaml] [options] [key=value …]`."""

import argparse
import itertools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from rich.console import Console

from tessy_jax.command import DONE, ERROR, INTERRUPTED, REJECTS, USAGE, Stop, complain, log_to, overrides, say
from tessy_jax.config import ConfigError, SynthesisConfig, describe, load_config, to_yaml
from tessy_jax.cooperate.engine import Dispatch
from tessy_jax.cooperate.rows import NAMES, Job
from tessy_jax.cooperate.voice import prompt_ids
from tessy_jax.data.inputs import InputError, Reject, read
from tessy_jax.data.lines import read_objects
from tessy_jax.data.manifest import hash_file, make_manifest
from tessy_jax.data.records import Problem, RowState
from tessy_jax.data.rundir import RunDir, RunDirError
from tessy_jax.data.sources import files
from tessy_jax.mesh import make_mesh
from tessy_jax.models import Blocks, ShardingError, WeightsError, parameter_count, read_config
from tessy_jax.models import ConfigError as ModelError
from tessy_jax.models.context import Context
from tessy_jax.pair import Pair
from tessy_jax.report.panel import Progress, ProgressView
from tessy_jax.report.show import show
from tessy_jax.text.tokenizer import TextError

DEMO = Path("configs/demo.yaml")
Flying = dict[tuple[str, int], RowState]
"""Rows of the journal that are not taken up yet, by id and sample."""

USER_ERRORS = (InputError, RunDirError, TextError, WeightsError, ShardingError, ModelError, OSError)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code (design §6)."""
    options = _parser().parse_intermixed_args(argv)
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        config = load_config(options.config, overrides(options, DEMO, ("input", "output", "limit")))
        if options.pod:
            jax.distributed.initialize()
        return _synthesize(config, options, console)
    except ConfigError as error:
        return complain(console, error, USAGE)
    except USER_ERRORS as error:
        return complain(console, error, ERROR)
    except KeyboardInterrupt:  # before the loop runs; after that see `command.Stop`
        say(console, "interrupted; the same command goes on from here")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tessy_jax.synthesize",
        description="Two models write reasoning traces together. Running the same command again resumes.",
        epilog="configuration keys, for the YAML file and as key=value:\n\n" + describe(SynthesisConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", type=Path, default=DEMO, help=f"a YAML file; default: {DEMO}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. engine.batch=8")
    parser.add_argument("--input", help="problems; the same as input=…")
    parser.add_argument("--output", help="run directory; the same as output=…")
    parser.add_argument("--limit", type=int, help="stop after this many problems; the same as limit=…")
    parser.add_argument("--dry-run", action="store_true", help="show prompts, plan and memory, then stop")
    parser.add_argument("--overwrite", action="store_true", help="start anew where an earlier run wrote")
    parser.add_argument("--show", action="store_true", help="print finished traces in colour by author")
    parser.add_argument("--pod", action="store_true", help="join the other processes of a TPU pod or cluster")
    return parser


# -- one run -----------------------------------------------------------------------------------------------------------


def _synthesize(config: SynthesisConfig, options: argparse.Namespace, console: Console) -> int:
    if config.engine.compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(config.engine.compilation_cache))
    rows = list(itertools.islice(read(Path(config.input), config.columns), config.limit))
    mesh = make_mesh(config.mesh, config.engine.batch)
    pair = Pair.open(config)
    if options.dry_run:
        return _dry_run(config, pair, rows, console)
    manifest = make_manifest(
        pair.identity() | {"input": {f.name: hash_file(f) for f in files(Path(config.input))}},
        [f"{d.platform} {d.device_kind}" for d in jax.devices()],
    )
    shard = (jax.process_index(), jax.process_count())
    with (
        RunDir.open(
            config.output, config_yaml=to_yaml(config), manifest=manifest, overwrite=options.overwrite, shard=shard
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
        failed = _failed(run) & mine
        progress.resumed = progress.done = len(run.done & mine - failed)
        progress.rejected = len(rows) - len(problems) + len(failed)
        if mine <= run.done and shard[1] == 1:
            say(console, "nothing left to do")
            if options.show:
                _show(run)
            return _summary(run, progress, False, console)
        say(console, f"loading {config.student.model} and {config.teacher.model}")
        engine = pair.load(mesh)
        say(console, f"compiling for {1 if mesh is None else mesh.size} x {jax.devices()[0].device_kind}")
        with Stop(console, "this dispatch") as stop, ProgressView(progress, console) as view:
            flying = {(row.id, row.sample_index): row for row in run.read_journal()}
            for dispatch in engine.run(_jobs(run, flying, problems, config.samples)):
                _store(run, dispatch, flying, progress)
                view.update()
                if engine.any_process(stop.asked):
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


def _failed(run: RunDir) -> set[tuple[str, int]]:
    """The rows that earlier commands rejected while they ran, as they would again."""
    rows = (row for file in run.path.glob("rejects*.jsonl") for _, row in read_objects(file) if row)
    return {(row["id"], row["sample_index"]) for row in rows if row.get("sample_index") is not None}


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
    work = {name: getattr(dispatch.steps, name) for name in ("chunks", "decodes", "sampled", "turns")}
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


def _dry_run(config: SynthesisConfig, pair: Pair, rows: list[Problem | Reject], console: Console) -> int:
    problems = [row for row in rows if isinstance(row, Problem)]
    out = Console(highlight=False, markup=False, soft_wrap=True)
    for row in rows:
        if isinstance(row, Reject):
            out.print(f"reject: {row.file}:{row.line}: {row.reason}")
    for name, chat, part in zip(NAMES, pair.chats, (config.student, config.teacher), strict=True):
        out.rule(f"{name}: {part.model}")
        if problems:
            ids = prompt_ids(chat, part.prompt.system, problems[0].messages)
            out.print(chat.reference.decode(ids))
            out.print(f"{len(ids)} ids: {ids}")
        out.print(f"sampling: {part.sampling}")
    out.rule("plan")
    out.print(f"{len(problems)} problems x {config.samples} samples, {config.engine.batch} slots; {config.cooperation}")
    out.rule("memory, GiB over all devices")
    for part_name, gib in _memory(config, pair).items():
        out.print(f"{part_name:<28}{gib:8.2f}")
    return DONE


def _memory(config: SynthesisConfig, pair: Pair) -> dict[str, float]:
    """An estimate from the models' shapes: weights, and full caches for every slot (windows need less)."""
    size = {"float32": 4, "bfloat16": 2}[config.engine.dtype] / 2**30
    out = {}
    batch, context = config.engine.batch, config.engine.context
    parts: list[tuple[str, Path, Context | None]] = [(n, f, None) for n, f in zip(NAMES, pair.folders, strict=True)]
    for role in NAMES:
        predictor = getattr(config.predictors, role)
        if predictor.kind == "checkpoint":
            parts.append((f"{role}'s predictor", Path(predictor.model), Blocks(predictor.block)))
    for part, folder, seen in parts:
        model = read_config(folder)
        slots = batch * sum((seen or own).slots(context, 1024) for own in model.contexts)
        out[f"{part} weights"] = parameter_count(model) * size
        out[f"{part} cache"] = 2 * slots * model.num_key_value_heads * model.head_dim * size
    return out | {"sum, without temporaries": sum(out.values())}


if __name__ == "__main__":
    sys.exit(main())
