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
from tessy_jax.cooperate.host_callback import TokenEdits
from tessy_jax.cooperate.judge import PaperBoundary
from tessy_jax.cooperate.loop import Loop
from tessy_jax.cooperate.turn import Turn
from tessy_jax.cooperate.words_host import HostReading, HostWords, RowView
from tessy_jax.data.inputs import read
from tessy_jax.data.records import Problem, Record
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.pair import Pair

KINDS = ("words of a span", "words that an event ends", "words taken back", "tokens handed over")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", type=Path, help="a configuration of synthesize, preset `paper`")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    problems = [problem for problem in read(Path(config.input)) if isinstance(problem, Problem)][: config.limit]
    engine = Pair.open(config).load(mesh=None)
    turns = engine.loop.schedule.turns
    both = (turns, map(_always_host, turns))
    counts, records = zip(*(_run(engine, some, problems) for some in both), strict=True)
    print(f"{len(records[0])} records, the same: {records[0] == records[1]}\n")
    print("| rows on the host for | device first | host always |\n|---|---:|---:|")
    for kind in KINDS:
        print(f"| {kind} | {counts[0][kind]} | {counts[1][kind]} |")


def _always_host(turn: Turn) -> Turn:
    """The turn that asks the host for everything."""
    assert isinstance(turn.boundary, PaperBoundary), "preset `released_code` always visits the host"
    return dataclasses.replace(
        turn,
        hand_over=dataclasses.replace(turn.hand_over, same_vocab=False),
        boundary=dataclasses.replace(turn.boundary, device_words=None),
    )


def _run(engine: Engine, turns: Iterable[Turn], problems: list[Problem]) -> tuple[dict[str, int], list[Record]]:
    """Visits by kind, and the records, of an engine with these turns."""
    counts: dict[str, int] = collections.Counter()

    def counted(turn: Turn) -> Turn:
        def retokenize(*args: Any) -> TokenEdits:
            counts[KINDS[3]] += 1
            return turn.hand_over.retokenize(*args)

        return dataclasses.replace(turn, hand_over=dataclasses.replace(turn.hand_over, retokenize=retokenize))

    def read_words(self: HostWords, row: RowView) -> HostReading:
        counts[KINDS[1 if row.event else 2 if row.rejected else 0]] += 1
        return original(self, row)

    original, HostWords.read = HostWords.read, read_words
    try:
        engine.loop = Loop(dataclasses.replace(engine.loop.schedule, turns=tuple(map(counted, turns))))
        finished = list(engine.generate(problems))
    finally:
        HostWords.read = original
    return counts, sorted(finished, key=lambda record: record.problem.id)


if __name__ == "__main__":
    main()
