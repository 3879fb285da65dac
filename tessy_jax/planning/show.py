"""A plan as tables on a terminal."""

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from tessy_jax.planning.report import GIB, Plan, Step


def show(plan: Plan, out: Console) -> None:
    """Prints a plan."""
    chip = plan.topology.chip
    facts = "" if chip is None else f", {chip.memory:g} GiB, {chip.bandwidth:g} GB/s, {chip.peak:g} TFLOP/s each"
    out.print(f"{plan.config} on {plan.topology.name}: mesh {plan.mesh} = {plan.chips} chips{facts}")
    out.print(_memory(plan))
    if plan.programs:
        out.print(_programs(plan))
    if plan.steps:
        out.print(_steps(plan))
        for step in plan.steps:
            out.print(_rest(step))
    for line in (*plan.notes, *_pool(plan), *_rate(plan), *verdict(plan)):
        out.print(line)


def _pool(plan: Plan) -> Iterator[str]:
    """How many rows the pages of the caches hold."""
    rows = plan.rows
    if rows is None or rows.held is None:
        return
    yield f"rows in flight: {rows.number} of {rows.tokens:,} tokens; engine.cache_tokens holds {rows.held}"
    if rows.held < rows.asked:
        yield f"the pages are the limit: engine.batch {rows.asked} is more than they hold, and rows will be evicted"


def _rate(plan: Plan) -> Iterator[str]:
    """How fast the pair writes, and what that assumes."""
    rate = plan.rate
    if rate is None:
        return
    (student, teacher), (less, lesser) = rate.spans.kept, rate.spans.dropped
    yield (
        f"the pair: {rate.kept_per_second:.0f} kept tokens/s, {rate.kept_per_second / plan.chips:.0f} per chip; the "
        f"teacher alone {rate.teacher_alone:.0f} ({rate.teacher_alone / rate.kept_per_second:.2f} times as many)"
    )
    yield (
        f"  simulated: spans of {student:.1f} and {teacher:.1f} tokens (student, teacher), {less:.1f} and {lesser:.1f} "
        f"dropped behind each ({rate.spans.source}); {rate.passes_per_kept:.4f} passes per kept token; the "
        "host's time is left out"
    )


def verdict(plan: Plan) -> Iterator[str]:
    """Whether it fits, by how much, and what helps."""
    capacity = plan.capacity
    for refusal in plan.too_large:
        yield f"too large: {refusal.name}: {refusal.reason}"
    if capacity is None:
        yield "whether this fits is not known: nothing is known of this machine's memory per device"
        return
    spare = (capacity - plan.total) / GIB
    if plan.fits:
        yield f"it fits: {plan.total / GIB:.2f} of {capacity / GIB:.2f} GiB a chip, {spare:.2f} GiB to spare"
    elif spare < 0:
        yield f"it does not fit: {plan.total / GIB:.2f} GiB a chip are {-spare:.2f} GiB more than a chip has"
    else:
        yield "it does not fit: the compiler cannot place every program"
    if not plan.fits and not plan.programs and not plan.too_large:
        yield "nothing was compiled: what stays in memory is too much already; the estimates leave temporaries out"
    for key, value in plan.limits.items():
        found = "no value fits" if value is None else f"up to {value} fits"
        yield f"estimate: {key}: {found}, all else as it is"
    if not plan.fits:
        yield from _remedies(plan)


def _remedies(plan: Plan) -> Iterator[str]:
    weights = sum(size for kind, size in plan.resident.items() if kind.startswith(("weights", "moments")))
    caches = sum(size for kind, size in plan.resident.items() if kind.startswith("cache"))
    if plan.too_large or plan.temporaries > max(weights, caches):
        if plan.steps or any(refusal.name.startswith("prefill") for refusal in plan.too_large):
            yield "what helps: smaller engine.prompt_buckets (prefill's temporaries grow with them)"
        else:
            yield "what helps: a higher batch.accumulate, compute.remat=full, a shorter data.length"
    if caches > weights:
        yield "what helps: a smaller engine.batch or engine.context, or more chips on mesh.data (caches are most)"
    else:
        yield "what helps: more chips on mesh.tensor, mesh.fsdp (training) or mesh.expert (weights are most)"
    for change, saved in sorted(plan.savings.items(), key=lambda item: -item[1]):
        yield f"what helps: {change} saves {saved / GIB:.2f} GiB a chip"


def _memory(plan: Plan) -> Table:
    table = Table(title="memory of a chip, GiB", title_justify="left")
    table.add_column("kind")
    table.add_column("GiB", justify="right")
    for kind, size in plan.kinds.items():
        table.add_row(kind, f"{size / GIB:.3f}")
    table.add_section()
    table.add_row("sum", f"{plan.total / GIB:.3f}")
    if plan.capacity is not None:
        table.add_row("a chip has", f"{plan.capacity / GIB:.3f}")
    return table


def _programs(plan: Plan) -> Table:
    table = Table(title="programs (compiled, not run)", title_justify="left")
    for name in ("program", "compile s", "arguments GiB", "temporaries GiB", "code MiB"):
        table.add_column(name, justify="left" if name == "program" else "right")
    for p in (*plan.programs, *(step.program for step in plan.steps)):
        sizes = (f"{p.arguments / GIB:.2f}", f"{p.temporaries / GIB:.2f}", f"{p.code / 2**20:.1f}")
        table.add_row(p.name, f"{p.compile_seconds:.0f}", *sizes)
    return table


def _steps(plan: Plan) -> Table:
    assert plan.rows is not None
    rows = f"{plan.rows.number} rows of {plan.rows.tokens:,} tokens"
    table = Table(title=f"a decode step of {rows}, all writing: estimates, of a chip", title_justify="left")
    table.add_column("")
    for step in plan.steps:
        table.add_column(step.role, justify="right")

    def row(name: str, value: Callable[[Step], float | None], digits: int = 2) -> None:
        values = (value(step) for step in plan.steps)
        table.add_row(name, *("?" if v is None else f"{v:.{digits}f}" for v in values))

    def per_chip(step: Step) -> float | None:
        seconds = plan.seconds(step)
        return None if seconds is None else step.tokens / seconds / plan.chips

    row("least GB: weights", lambda s: s.weights / 1e9)
    row("least GB: cache", lambda s: s.cache / 1e9)
    row("GB to and from main memory", lambda s: s.moved / 1e9)
    row("  over the least", lambda s: s.moved / s.least)
    row("GB by the compiler's sum", lambda s: s.program.moved / 1e9)
    row("  over the least", lambda s: s.program.moved / s.least)
    row("GFLOP", lambda s: s.program.operations / 1e9, 1)
    row("ms", lambda s: None if (seconds := plan.seconds(s)) is None else 1e3 * seconds)
    row("tokens/s per chip", per_chip, 0)
    return table


def _rest(step: Step) -> str:
    parts = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in step.main.items() if size > step.moved / 500)
    left_out = f", its time leaves out {step.program.unestimated} operations" if step.program.unestimated else ""
    return f"{step.role}: main memory: {parts} GB; the compiler's sum counts fast memory too{left_out}"
