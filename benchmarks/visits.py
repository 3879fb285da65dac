"""How often rows visit the host: `python benchmarks/visits.py CONFIG [key=value …]`.

Runs the configuration twice, with and without what the device does of words and hand-over, prints how many rows went to
the host and what for, and says whether the records are the same.
"""

import argparse
import collections
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tessy_jax.config.synthesize import load_config
from tessy_jax.cooperate.judge import PaperBoundary
from tessy_jax.cooperate.loop import Loop
from tessy_jax.cooperate.turn import Turn
from tessy_jax.cooperate.words_host import HostWords
from tessy_jax.data.inputs import read
from tessy_jax.data.records import Problem
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.pair import Pair
from tessy_jax.engine.rows import Job

KINDS = ("words of a span", "words that an event ends", "words taken back", "tokens handed over")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", type=Path, help="a configuration of synthesize, preset `paper`")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    problems = [problem for problem in read(Path(config.input)) if isinstance(problem, Problem)][: config.limit]
    engine = Pair.open(config).load(mesh=None)
    turns = engine.loop.turns
    counts, records = zip(*(_run(engine, some, problems) for some in (turns, map(_asking, turns))), strict=True)
    print(f"{len(records[0])} records, the same: {records[0] == records[1]}\n")
    print("| rows on the host for | device first | host always |\n|---|---:|---:|")
    for kind in KINDS:
        print(f"| {kind} | {counts[0][kind]} | {counts[1][kind]} |")


def _asking(turn: Turn) -> Turn:
    """The turn that asks the host for everything."""
    assert isinstance(turn.boundary, PaperBoundary), "preset `released_code` always visits the host"
    return dataclasses.replace(turn, shared=False, boundary=dataclasses.replace(turn.boundary, plain=None))


def _run(engine: Engine, turns: Iterable[Turn], problems: list[Problem]) -> tuple[dict[str, int], list[Any]]:
    """Visits by kind, and the records, of an engine with these turns."""
    counts: dict[str, int] = collections.Counter()

    def counted(turn: Turn) -> Turn:
        def step(*args: Any) -> Any:
            counts[KINDS[3]] += 1
            return turn.step(*args)

        return dataclasses.replace(turn, step=step)

    def row(self: HostWords, *args: Any) -> Any:
        event, rejected = args[4], args[5]
        counts[KINDS[1 if event else 2 if rejected else 0]] += 1
        return original(self, *args)

    original, HostWords.row = HostWords.row, row
    try:
        engine.loop = Loop(tuple(map(counted, turns)))
        finished = [r for d in engine.run(iter([Job(p, 0) for p in problems])) for r in d.finished]
    finally:
        HostWords.row = original
    return counts, sorted(finished, key=lambda record: record.problem.id)


if __name__ == "__main__":
    main()
