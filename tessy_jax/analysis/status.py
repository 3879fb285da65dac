"""What a run is doing, or has done, from its directory alone: another terminal, or another machine that sees the files.

Nothing is locked or written, so that a run does not notice that it is looked at.
"""

import argparse
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tessy_jax.console.progress import View, cells_of, duration
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.run_folder import RunDirError
from tessy_jax.errors import DONE
from tessy_jax.storage.followed import ENDED, followed

_RUNNING, _ENDED = "running", "not running"
_REASONS = 5
_ERROR = re.compile(r"^(\S+ \S+) ERROR \S+: (.*)")
_NUMBERS = re.compile(r"\d+")
_SHARDED = r"(-\d{5}-of-\d{5})?"


@dataclass(frozen=True)
class Part:
    """One run directory: a run, or a stage of an evaluation.

    Attributes:
        name: of the part within the run; empty for the run itself.
        cells: what to show, by name.
        running: whether a process of this machine is at it; None: it cannot be seen from here.
    """

    name: str
    cells: dict[str, str]
    running: bool | None


def status(options: argparse.Namespace, console: Console) -> int:
    """Shows the state of a run, once or until it ends; returns the exit code.

    Args:
        options: of the command.
        console: for the moving panel; a single state goes to the output.

    Raises:
        RunDirError: there is no run.
    """
    run = options.run.expanduser()
    with followed(run) as look:
        here = look()
        parts = _read(run, here)
        if options.watch is None:
            out = Console(highlight=False, markup=False, soft_wrap=True)
            for part in parts:
                out.print(part.name or str(run), style="bold")
                for name, value in part.cells.items():
                    out.print(f"  {name:<12} {value}")
            return DONE
        with View(str(run), lambda _: _flat(parts), console, interval=options.watch) as view:
            while _goes_on(here, parts):
                view.update()
                time.sleep(options.watch)
                here = look()
                parts = _read(run, here)
    return DONE


def _goes_on(run: Path, parts: Sequence[Part]) -> bool:
    """Whether something may still be written: by a process at a part, or at the whole between two of its parts."""
    held = any(run.glob(".lock-*")) and _is_running(run) is not False
    return held or any(part.running is not False for part in parts)


def _read(run: Path, here: Path) -> list[Part]:
    """The state of a run that stands `here` on this machine; errors have its own name."""
    try:
        return read_status(here)
    except RunDirError as error:
        raise RunDirError(str(error).replace(str(here), str(run))) from None


def read_status(run: Path, now: float | None = None) -> list[Part]:
    """The state of a run directory, and of those inside it (the stages of an evaluation or an experiment).

    Args:
        now: seconds since 1970.

    Raises:
        RunDirError: it holds no run.
    """
    now = time.time() if now is None else now
    own = (run / "manifest.json").is_file()
    depths = ("*", "*/*") if (run / "config.yaml").is_file() else ()
    inner = sorted({file.parent for depth in depths for file in run.glob(f"{depth}/manifest.json")})
    if not (own or inner or (run / "stages.jsonl").is_file()):
        raise RunDirError(f"{run} holds no run: there is no manifest.json; give the --output of a run")
    stages = [_stages(run, now)] if (run / "stages.jsonl").is_file() else []
    return stages + [_part(run, folder, now) for folder in [*([run] if own else []), *inner]]


def _flat(parts: Sequence[Part]) -> dict[str, str]:
    return {f"{part.name} {name}".strip(): value for part in parts for name, value in part.cells.items()}


# -- a run directory ---------------------------------------------------------------------------------------------------


def _part(run: Path, folder: Path, now: float) -> Part:
    running = _is_running(folder)
    written = _last_written(folder)
    cells = {"state": _state(running, now - written)}
    metrics = [line for file in _newest(_files(folder, "metrics", "jsonl")) if (line := _last(file)) is not None]
    if metrics and "done" in metrics[0]:
        age = now - written if running else 0.0
        cells |= cells_of(_together(metrics, age))
    elif metrics:
        cells |= _training(metrics[0])
    if records := sum(_lines(file) for file in sorted((folder / "data").glob("*.jsonl"))):
        cells["records"] = f"{records:,}"
    if rejects := _reasons(folder):
        cells["rejects"] = "; ".join(rejects)
    if error := _last_error(folder):
        cells["last error"] = error
    name = "" if folder == run else folder.relative_to(run).as_posix()
    return Part(name, cells, running)


def _together(metrics: Sequence[dict[str, Any]], age: float) -> dict[str, Any]:
    """The numbers of all processes as one; the time that is left is the longest of theirs, less `age` seconds."""
    added = ("done", "rejected", "active", "rolled_back", "evicted")
    found = metrics[0] | {name: sum(one.get(name, 0) for one in metrics) for name in added}
    for name in ("tokens", "tokens_per_second"):
        authors = dict.fromkeys(by for one in metrics for by in one[name])
        found[name] = {by: round(sum(one[name].get(by, 0) for one in metrics), 2) for by in authors}
    if all("passes" in one for one in metrics):  # those of earlier versions have none
        found["passes"] = passes = sum(one["passes"] for one in metrics)
        for name in ("rows_wrote", "rows_read"):
            found[name] = sum(one[name] * one["passes"] for one in metrics) / max(1, passes)
    if all("host_visits" in one for one in metrics):
        found["host_visits"] = visits = sum(one["host_visits"] for one in metrics)
        rows = sum(one["rows_per_visit"] * one["host_visits"] for one in metrics)
        found["rows_per_visit"] = rows / max(1, visits)
    totals = [one["total"] for one in metrics]
    kept = sum(found["tokens"].values())
    switches = sum(one["switches_per_1k_tokens"] * sum(one["tokens"].values()) for one in metrics)
    left = [one["eta_seconds"] for one in metrics]
    return found | {
        "total": None if None in totals else sum(totals),
        "seconds": max(one["seconds"] for one in metrics) + age,
        "waste": found["rolled_back"] / (kept + found["rolled_back"]) if kept + found["rolled_back"] else 0.0,
        "switches_per_1k_tokens": switches / kept if kept else 0.0,
        "eta_seconds": None if None in left else max(0.0, max(left) - age),
    }


def _training(line: dict[str, Any]) -> dict[str, str]:
    """Of the last line of a training run's metrics."""
    cells = {"step": str(line.get("step", "?")), "epoch": str(line.get("epoch", line.get("epochs", "?")))}
    if "loss" in line:
        cells["loss"] = f"{line['loss']:.3f}"
    if line.get("tokens_per_second"):
        cells["tok/s"] = f"{line['tokens_per_second']:,.0f}"
    if line.get("eta_seconds") is not None:
        cells["eta"] = duration(line["eta_seconds"])
    return cells


def _stages(run: Path, now: float) -> Part:
    """An experiment: how many stages are done, the last one, and what failed."""
    rows = [row for _, row in read_objects(run / "stages.jsonl") if row is not None]
    latest = {row["stage"]: row for row in rows}
    failed = [name for name, row in latest.items() if row["code"]]
    written = (run / "stages.jsonl").stat().st_mtime
    cells = {
        "stages": f"{len(latest) - len(failed)} done",
        "last": f"{rows[-1]['stage']}, {duration(now - written)} ago" if rows else "none yet",
    }
    if failed:
        cells["failed"] = ", ".join(failed)
    if error := _last_error(run):
        cells["last error"] = error
    return Part("stages", cells, _is_running(run))


# -- pieces ------------------------------------------------------------------------------------------------------------


def _files(folder: Path, name: str, ending: str) -> list[Path]:
    pattern = re.compile(rf"{name}{_SHARDED}\.{ending}")
    return sorted(file for file in folder.iterdir() if pattern.fullmatch(file.name))


def _newest(files: Sequence[Path]) -> list[Path]:
    """Those of the number of processes or shards that wrote last: what others had done, these have counted."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(file.stem.partition("-of-")[2], []).append(file)
    return max(groups.values(), key=lambda group: max(file.stat().st_mtime for file in group), default=[])


def _is_running(folder: Path) -> bool | None:
    """Whether a process that took the directory lives; None where all are of other machines or unknown."""
    texts = [file.read_text("utf-8", "replace") for file in folder.glob(".lock-*")]
    owners = [text for text in texts if text != ENDED]
    if texts and not owners:
        return False
    found = [match for text in owners if (match := re.fullmatch(r"process (\d+) on (.+)", text))]
    here = [int(match[1]) for match in found if match[2] == socket.gethostname()]
    if any(map(_lives, here)):
        return True
    return False if here and len(here) == len(owners) else None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def _state(running: bool | None, age: float) -> str:
    word = {True: _RUNNING, False: _ENDED, None: "cannot be seen from here"}[running]
    return f"{word}; last written {duration(max(0.0, age))} ago"


def _last_written(folder: Path) -> float:
    files = [*folder.glob("*.jsonl"), *folder.glob("*.log"), *folder.glob("data/*"), *folder.glob("journal/*")]
    return max((file.stat().st_mtime for file in files), default=(folder / "manifest.json").stat().st_mtime)


def _last(file: Path) -> dict[str, Any] | None:
    """The last object of a file of JSON lines."""
    found = None
    for _, row in read_objects(file):
        found = row if row is not None else found
    return found


def _lines(file: Path) -> int:
    with file.open("rb") as opened:
        return sum(line.endswith(b"\n") for line in opened)


def _reasons(folder: Path) -> list[str]:
    """The most frequent reasons of rejects; reasons that differ in numbers only count together."""
    kinds: dict[str, list[str]] = {}
    for file in _files(folder, "rejects", "jsonl"):
        for _, row in read_objects(file):
            if row is not None:
                reason = str(row.get("reason", "no reason given"))
                kinds.setdefault(_NUMBERS.sub("#", reason), []).append(reason)
    counts = Counter({kind: len(reasons) for kind, reasons in kinds.items()}).most_common(_REASONS)
    return [f"{count} x {kinds[kind][0]}" for kind, count in counts]


def _last_error(folder: Path) -> str | None:
    """The last error in the logs, with its time."""
    return max((error for file in _files(folder, "run", "log") for error in _errors(file)), default=None)


def _errors(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if found := _ERROR.match(line.rstrip("\n")):
                yield f"{found[1]}: {found[2]}"
