"""How fast traces are written on this machine: `python benchmarks/synthesis.py [configs/demo.yaml] [key=value …]`.

What is measured and how: docs/benchmarks.md. Prints Markdown tables; `--json` also writes them as data.
"""

import argparse
import itertools
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from alone import Torch, alone_engine, pretend_read, run, written
from bandwidth import measure, step_bytes
from dummy import DummyPair
from flax import nnx
from jax.sharding import Mesh

from tessy_jax.config.synthesize import SynthesisConfig, load_config
from tessy_jax.cooperate.host_callback import TASKS
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.cooperate.state import Role
from tessy_jax.data.inputs import read
from tessy_jax.data.records import Problem
from tessy_jax.devices.host_memory import keep_freed_memory
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.engine import Dispatch, Engine
from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.engine.pair import Pair
from tessy_jax.engine.rows import NAMES, Job
from tessy_jax.engine.sizes import MARGIN
from tessy_jax.engine.solo import answer_job
from tessy_jax.errors import UserError
from tessy_jax.models import Cache
from tessy_jax.models.attention import IMPLEMENTATIONS

Table = list[dict[str, Any]]


def main() -> int:
    keep_freed_memory()  # as every command does
    try:
        measure_all(_options())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def measure_all(options: argparse.Namespace) -> None:
    """Prints all tables, each as soon as it is measured. Raises UserError: what is asked for cannot be run."""
    batches = _numbers(options.batches)
    overrides = [word for word in options.words if "=" in word]
    path = Path(next((word for word in options.words if "=" not in word), "configs/demo.yaml"))
    config = load_config(path, overrides)
    mesh = [make_mesh(config.mesh, batch) for batch in (*batches, config.engine.batch)][-1]
    pair = DummyPair.open(config, options.dummy) if options.dummy else Pair.open(config)
    rows = itertools.islice(read(Path(config.input), config.columns), config.limit)
    problems = [row for row in rows if isinstance(row, Problem)]
    engine = pair.load(mesh)
    report: dict[str, Any] = {"machine": machine(), "config": str(path), "overrides": overrides}
    show("machine", [report["machine"]])

    report["bandwidth, GB/s"] = rates = measure()
    show("memory bandwidth of one device, GB/s", [rates])
    peak = max(rates.values()) * (1 if mesh is None else mesh.size)

    report["decode"] = []
    for role in Role if options.both else (Role.STUDENT,):
        torch = None if options.no_torch else _torch(pair, role)
        name = f"{NAMES[role]} {Path(pair.folders[role]).name}, {config.engine.dtype}"
        table = [decode(config, engine.models[role], torch, problems, batch, options, peak, mesh) for batch in batches]
        if table:
            show(f"decode alone: {name}; torch: {torch.name if torch else 'not measured'}", table)
        report["decode"] += [{"model": name, **row} for row in table]
        if options.context:
            table = [
                at_length(config, engine.models[role], torch, problems, context, fill, options, peak, mesh)
                for context in _numbers(options.context)
                for fill in _numbers(options.fill)
                if fill + 2 * options.tokens + MARGIN < context
            ]
            if table:
                show(f"decode by length: {name}; {config.engine.batch} rows", table)
            report.setdefault("decode by length", []).extend({"model": name, **row} for row in table)
    if not options.alone:
        report["cooperation"] = cooperation(config, engine, problems, options.repeats, mesh)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/synthesis.py", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="config | key=value", help="configuration and dotted overrides")
    parser.add_argument("--batches", default="1,8,32", help="rows that decode together (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens per row (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=40, help="tokens per prompt (default: %(default)s)")
    parser.add_argument("--context", default="", help="also decode in caches of so many tokens a row (N[,N…])")
    parser.add_argument("--fill", default="100", help="and with rows of so many tokens (N[,N…]; default: %(default)s)")
    parser.add_argument("--alone", action="store_true", help="measure no two models together")
    parser.add_argument("--no-torch", action="store_true", help="measure nothing with torch")
    parser.add_argument(
        "--dummy",
        type=_numbers,
        metavar="N,N",
        help="random weights: folders need config.json and the tokenizer only; tokens per span of student and teacher",
    )
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts (default: %(default)s)")
    parser.add_argument("--both", action="store_true", help="decode the teacher alone too, not only the student")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    return parser.parse_intermixed_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def machine() -> dict[str, Any]:
    """What the numbers belong to."""
    device, info = jax.devices()[0], Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    kind = "" if device.platform == "cpu" else f" ({device.device_kind})"
    return {
        "devices": f"{jax.device_count()} x {device.platform}{kind}",
        "host": f"{cpu}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        "JAX": jax.__version__,
        "load before": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


# -- one model alone ---------------------------------------------------------------------------------------------------


def _torch(pair: Pair | DummyPair, role: Role) -> Torch | None:
    try:
        dummy = isinstance(pair, DummyPair)
        return Torch(pair.folders[role], pair.config.engine.dtype, pair.chats[role].eos_ids, dummy)
    except ImportError:
        return None


def decode(
    config: SynthesisConfig,
    model: LanguageModel,
    torch: Torch | None,
    problems: list[Problem],
    batch: int,
    options: argparse.Namespace,
    peak: float,
    mesh: Mesh | None,
) -> dict[str, Any]:
    """Greedy decoding of `batch` rows, ours and torch's in turn. Only the decode steps are timed; `peak` is in GB/s."""
    tokens, prompt = options.tokens, options.prompt_tokens
    context = -(-(prompt + 2 * tokens + MARGIN + 1) // 64) * 64
    sizes = config.engine.model_copy(update={"batch": batch, "context": context, "prompt_buckets": (prompt,)})
    engine = alone_engine(model, Sampling(0.0), sizes, tokens, tokens, prompt, mesh)
    jobs = _long_jobs(engine, problems, batch, prompt)

    first = _total(run(engine, jobs))
    prompts, ours = written(engine)
    theirs = torch.write(prompts, tokens)[1] if torch else None
    passes, torch_steps = [], []
    for _ in range(options.repeats):
        passes.append(run(engine, jobs))
        if torch:
            torch_steps.append(torch.write(prompts, tokens)[0])
    steps = [_seconds(p)["dispatch"] / tokens for p in passes]
    step = min(steps)
    weights, slots = step_bytes(model, engine.carry.caches[Role.STUDENT].model, prompt + tokens // 2)
    same = 0 if theirs is None else int(np.cumprod(ours == theirs, axis=1).sum())  # up to a row's first difference
    return {
        "batch": batch,
        "tokens/s": batch / step,
        "torch tokens/s": batch / min(torch_steps) if torch else "no torch",
        "ratio": min(torch_steps) / step if torch else "no torch",
        "same tokens": f"{same} of {ours.size}" if torch else "no torch",
        "slowest / best": ", ".join(f"{max(times) / min(times):.2f}" for times in (steps, torch_steps) if times),
        "weights, MB/step": weights / 1e6,
        "cache, MB/step": slots / 1e6,
        "read, GB/s": (weights + slots) / step / 1e9,
        "share of bandwidth": (weights + slots) / step / 1e9 / peak,
        "compilation, s": first - min(map(_total, passes)),
    }


def at_length(
    config: SynthesisConfig,
    model: LanguageModel,
    torch: Torch | None,
    problems: list[Problem],
    context: int,
    fill: int,
    options: argparse.Namespace,
    peak: float,
    mesh: Mesh | None,
) -> dict[str, Any]:
    """The same in a cache for `context` tokens a row of which `fill` are there; torch's is as long as its rows."""
    batch, tokens = config.engine.batch, options.tokens
    sizes = config.engine.model_copy(update={"context": context, "prompt_buckets": (min(fill, 512),)})
    engine = alone_engine(model, Sampling(0.0), sizes, tokens, tokens, fill, mesh)
    pretend_read(engine)
    jobs = _long_jobs(engine, problems, batch, fill)
    run(engine, jobs)
    prompts, steps, torch_steps = written(engine)[0], [], []
    for _ in range(options.repeats):
        steps.append(_seconds(run(engine, jobs))["dispatch"] / tokens)
        if torch:
            torch_steps.append(torch.write(prompts, tokens)[0])
    cache, step = engine.carry.caches[Role.STUDENT].model, min(steps)
    weights, slots = step_bytes(model, cache, fill + tokens // 2)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    return {
        "context": context,
        "in use": fill,
        "attention": attention_of(model, cache),
        "tokens/s": batch / step,
        "torch tokens/s": batch / min(torch_steps) if torch else "no torch",
        "ratio": min(torch_steps) / step if torch else "no torch",
        "slowest / best": ", ".join(f"{max(times) / min(times):.2f}" for times in (steps, torch_steps) if times),
        "ms/step": 1000 * step,
        "cache, MB/row": held / batch / 1e6,
        "cache, MB/step": slots / 1e6,
        "share of bandwidth": (weights + slots) / step / 1e9 / peak,
    }


def _long_jobs(engine: Engine, problems: list[Problem], batch: int, prompt: int) -> list[Job]:
    """A job for each row, whose prompt has `prompt` tokens at least before it is cut."""
    jobs = []
    for i, problem in zip(range(batch), itertools.cycle(problems), strict=False):
        long = [{**m, "content": " ".join([m["content"]] * prompt)} for m in problem.messages]
        jobs.append(answer_job(engine.models[Role.STUDENT], Problem(f"{problem.id} {i}", long)))
    return jobs


def attention_of(model: LanguageModel, cache: Cache) -> str:
    """The implementations that a decode step's layers take, as the names in its program say."""

    def step(params: Any, tokens: jax.Array, cache: Cache) -> Any:
        return nnx.merge(model.graph, params)(tokens, tokens, cache)[0]

    rows = cache.layers[0].k.shape[0] if cache.table is None else len(cache.table)
    tokens = jax.ShapeDtypeStruct((rows, 1), np.int32)
    text = jax.jit(step).lower(model.params, tokens, cache).as_text(debug_info=True)
    return ", ".join(sorted(name for name in IMPLEMENTATIONS if f"attention/{name}/" in text))


# -- two models together -----------------------------------------------------------------------------------------------


def cooperation(
    config: SynthesisConfig, engine: Engine, problems: list[Problem], repeats: int, mesh: Mesh | None
) -> dict[str, Any]:
    """The configuration's own problems, and its teacher alone with as many tokens per row as were kept on average."""
    samples = range(config.samples)
    jobs = [Job(p, s) for p in problems for s in samples]
    first = run(engine, jobs)
    kept = _sum(first, "kept")
    each = max(1, round(sum(kept) / len(jobs)))

    sizes, model = engine.config, engine.models[Role.TEACHER]
    k = max(turn.generate.k for turn in engine.loop.schedule.turns)
    single = alone_engine(model, model.sampling, sizes, each, k, None, mesh)
    alone_jobs = [answer_job(single.models[Role.STUDENT], p, s) for p in problems for s in samples]
    alone_first = run(single, alone_jobs)

    passes = [(run(engine, jobs), run(single, alone_jobs)) for _ in range(repeats)]
    best = min((p[0] for p in passes), key=_total)
    alone = min((p[1] for p in passes), key=_total)

    rows = [_author(best, role, name) for role, name in zip(Role, NAMES, strict=True)]
    rows.append(_author(alone, Role.STUDENT, "teacher alone"))
    show(f"cooperation: {len(jobs)} rows in {sizes.batch} slots", rows)
    runs = [_speed(best, first, "together", rows[:2]), _speed(alone, alone_first, "teacher alone", rows[2:])]
    show("time, s", runs)
    overhead = runs[0]["ms per kept token"] / runs[1]["ms per kept token"]
    line = _explain(overhead, runs, rows)
    print(line)
    return {"rows": len(jobs), "slots": sizes.batch, "work": rows, "time": runs, "overhead": overhead, "line": line}


def _author(run: list[Dispatch], role: Role, name: str) -> dict[str, Any]:
    """What one author did, and which share of the rows of its forward passes wrote, caught up, or were padding."""
    names = ("turns", "decodes", "chunks", "sampled", "judged", "rows", "places", "reading")
    work = {key: sum(getattr(d.work, key)[role] for d in run) for key in names}
    wrote, read = (work[key] / max(1, work["rows"]) for key in ("sampled", "reading"))
    return {
        "author": name,
        "turns": work["turns"],
        "decode steps": work["decodes"],
        "catch-up chunks": work["chunks"],
        "predictor passes": work["judged"],
        "tokens generated": work["sampled"],
        "kept": _sum(run, "kept")[role],
        "rolled back": _sum(run, "dropped")[role],
        "token places": work["places"],
        "rows writing": wrote,
        "catching up": read,
        "idle": 1 - wrote - read,
    }


def _speed(run: list[Dispatch], first: list[Dispatch], name: str, authors: Table) -> dict[str, Any]:
    seconds, kept = _total(run), sum(a["kept"] for a in authors)
    return {
        "who": name,
        **_seconds(run),
        "sum": seconds,
        "kept tokens/s": kept / seconds,
        "generated tokens/s": sum(a["tokens generated"] for a in authors) / seconds,
        "generated per kept": sum(a["tokens generated"] for a in authors) / kept,
        "ms per kept token": 1000 * seconds / kept,
        "token places per kept token": sum(a["token places"] for a in authors) / kept,
        "forward passes per kept token": sum(a["decode steps"] + a["catch-up chunks"] for a in authors) / kept,
        **_visits(run),
        "compilation": _total(first) - seconds,
    }


def _visits(run: list[Dispatch]) -> dict[str, int | float]:
    """How often the host was asked, by task, and for how many rows each time."""
    calls = {f"visits for {task}": sum(d.visits[task].calls for d in run) for task in TASKS}
    rows = sum(d.visits[task].rows for d in run for task in TASKS)
    return calls | {"rows per visit": rows / max(1, sum(calls.values()))}


def _explain(overhead: float, runs: Table, rows: Table) -> str:
    """The overhead as a product, and what its first factor is made of."""
    together, alone = (r["forward passes per kept token"] for r in runs)
    student, teacher = rows[0], rows[1]
    kept, chunks = (student[key] + teacher[key] for key in ("kept", "catch-up chunks"))
    a, b, c = (100 * n / kept for n in (student["decode steps"], teacher["decode steps"], chunks))
    return (
        f"A kept token takes {overhead:.2f} times as long as one of the teacher alone: {together / alone:.2f} times as "
        f"many forward passes, each {overhead * alone / together:.2f} times as long. Passes per 100 kept tokens: "
        f"student {a:.1f}, teacher {b:.1f}, catch-up {c:.1f} (alone: {100 * alone:.1f}), because "
        f"{runs[0]['generated per kept']:.2f} tokens are generated per kept one and {student['rows writing']:.0%} "
        f"(student) and {teacher['rows writing']:.0%} (teacher) of the rows of a pass write."
    )


def _sum(run: list[Dispatch], name: str) -> tuple[int, int]:
    student, teacher = (sum(getattr(d, name)[role] for d in run) for role in Role)
    return student, teacher


def _seconds(run: list[Dispatch]) -> dict[str, float]:
    return {phase: sum(d.seconds[phase] for d in run) for phase in ("prefill", "dispatch", "host")}


def _total(run: list[Dispatch]) -> float:
    return sum(_seconds(run).values())


# -- tables ------------------------------------------------------------------------------------------------------------


def show(title: str, rows: Table) -> None:
    """Prints a Markdown table."""
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    rule = "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|"
    print(f"\n**{title}**\n", lines[0], rule, *lines[1:], "", sep="\n", flush=True)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
