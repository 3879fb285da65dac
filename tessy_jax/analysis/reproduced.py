"""Whether a probe that was trained again is the one that is shipped: what was measured of both, number by number."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tessy_jax.console.messages import tell
from tessy_jax.errors import DONE, ERROR
from tessy_jax.predictors.probe import read_facts
from tessy_jax.text.tokenizer import TextError


@dataclass(frozen=True)
class Verdict:
    """Whether a probe was reproduced, and why, for people."""

    reproduced: bool
    words: str


def compare(mine: Path, shipped: Path) -> Verdict:
    """Compares the held-out numbers of two probes of one model.

    The same machine and versions give the same numbers. Others round differently, so that at some point other words are
    sampled; then the F1 of style has to lie in the interval of the shipped probe, and has to be better than that of the
    word list.

    Args:
        mine: folder of the probe that was trained again.
        shipped: folder of the other.

    Raises:
        TextError: one of them is no probe, or holds no measured numbers.
    """
    ours, theirs = _numbers(mine), _numbers(shipped)
    found, wanted = ours["scores.style.f1.value"], theirs["scores.style.f1.value"]
    differing = sorted(name for name in ours.keys() | theirs.keys() if not _equal(ours.get(name), theirs.get(name)))
    if not differing:
        return Verdict(True, f"reproduced: all {len(ours)} numbers are those of {shipped}, F1 of style {wanted:.3f}")
    low, high = (theirs[f"scores.style.f1.{end}"] for end in ("low", "high"))
    gain = ours.get("baseline.f1_gain.low", 0.0)
    interval = f"F1 of style {found:.3f} (shipped: {wanted:.3f}, {low:.3f} … {high:.3f})"
    if low <= found <= high and gain > 0:
        return Verdict(
            True,
            f"reproduced, not to the last digit ({len(differing)} of {len(ours)} numbers differ: another machine or "
            f"other versions?): {interval}; surely better than the word list",
        )
    shown = [f"  {name}: {ours.get(name, 'none')} here, {theirs.get(name, 'none')} there" for name in differing[:10]]
    return Verdict(
        False,
        f"not reproduced: {interval}, at least {gain:+.3f} to the word list\n{mine} and {shipped} differ in "
        f"{len(differing)} numbers:\n" + "\n".join(shown) + "\nif configurations, texts or labels were changed on "
        "purpose, train the shipped probe anew: docs/predictors.md",
    )


def compare_probes(mine: Path, shipped: Path, console: Console) -> int:
    """Says what `compare` finds; returns the exit code, ERROR where the probe was not reproduced."""
    verdict = compare(mine, shipped)
    tell(console, verdict.words)
    return DONE if verdict.reproduced else ERROR


def _numbers(folder: Path) -> dict[str, Any]:
    """All that was measured of a probe, by dotted name, with what it belongs to."""
    facts = read_facts(folder)
    kept = {name: facts[name] for name in ("layer", "threshold", "tokenizer", "configuration")}
    found = kept | dict(_leaves(facts.get("metrics", {})))
    if "scores.style.f1.value" not in found:
        raise TextError(f"{folder}/probe.json: holds no measured numbers; train the probe again")
    return found


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _equal(a: Any, b: Any) -> bool:
    return math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b
