"""All numbers of an analysis: `report.json`. The page and the terminal show the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tessy_jax.analysis import counts, surprise
from tessy_jax.analysis.flags import FLAGS
from tessy_jax.analysis.overlap import contamination, duplicates_summary
from tessy_jax.analysis.traces import DataSet
from tessy_jax.analysis.vectors import Vectors, drawn, similarities
from tessy_jax.analysis.verdict import MEASURED, verdict
from tessy_jax.text.chat import Chat

Numbers = dict[str, Any]
"""As they stand in `report.json`."""

_EXAMPLES = 10
"""Traces named for a flag."""


def numbers(
    sets: Sequence[DataSet], reference: bool, found: Vectors, chat: Chat, benchmarks: Sequence[Path]
) -> Numbers:
    """Measures all data sets.

    Args:
        reference: whether the last of them is the student's own text.
        found: their vectors.
        chat: of the student.
        benchmarks: files of problems that should not be in the data.
    """
    losses = [surprise.summary(one.traces) for one in sets]
    own = losses[-1]["all"]["nats"] if reference else None
    names = token_names(chat)
    return {
        "student": str(chat.folder),
        "reference": sets[-1].name if reference else None,
        "flags": FLAGS,
        "measured": [one._asdict() for one in MEASURED],
        "explained": found.explained.tolist(),
        "similarity": similarities(found, sets),
        "sets": [
            {
                "name": one.name,
                "is_reference": reference and number == len(sets) - 1,
                **counts.summary(one, chat.thinking),
                "loss": loss,
                "verdict": verdict(loss["all"]["nats"], own),
                "dearest_tokens": [cost.to_row() for cost in surprise.dearest_tokens(one.traces, names.__getitem__)],
                "dearest_phrases": [cost.to_row() for cost in surprise.dearest_phrases(one.traces)],
                "flagged": _flagged(one),
                "near_duplicates": duplicates_summary(one),
                "contamination": {str(file): contamination(one, file) for file in benchmarks},
                "points": drawn(found, number).round(4).tolist(),
            }
            for number, (one, loss) in enumerate(zip(sets, losses, strict=True))
        ],
    }


def _flagged(data: DataSet) -> dict[str, list[str]]:
    """Some traces that have each flag, by id."""
    named = {flag: [trace.example.id for trace in data.traces if flag in trace.marks] for flag in FLAGS}
    return {flag: ids[:_EXAMPLES] for flag, ids in named.items() if ids}


def token_names(chat: Chat) -> dict[int, str]:
    """The text of every token of the student."""
    names = {i: token for token, i in chat.tokenizer.control.items()}
    table = enumerate(chat.tokenizer.token_bytes())
    return {i: data.decode(errors="replace") for i, data in table if data} | names


def lines(found: Numbers) -> list[str]:
    """The summary that the terminal shows."""
    out: list[str] = []
    for one in found["sets"]:
        tokens, loss = sum(one["tokens"].values()), one["loss"]
        out.append(f"{one['name']}" + (" (the student's own text)" if one["is_reference"] else ""))
        rejected = f", {one['rejected']} rows rejected" if one["rejected"] else ""
        out.append(f"  {one['traces']:,} traces, {tokens:,} tokens to learn{rejected}; {_length(one)}")
        if one["authors"]["shares"]:
            shares = ", ".join(f"{by} {share:.1%}" for by, share in one["authors"]["shares"].items())
            out.append(f"  thinking by {shares}; {one['switches_per_1k_tokens']:.1f} switches per 1,000 tokens")
        parts = ", ".join(f"{part} {value['nats']:.3f}" for part, value in loss["by_part"].items())
        out.append(f"  nats per token: {loss['all']['nats']:.3f} ({parts}); loss of sft at step 0: {_loss(loss)}")
        marks = ", ".join(f"{name} {count}" for name, count in one["flags"].items() if count)
        out.append(f"  flags: {marks or 'none'}; near-duplicates: {one['near_duplicates']['traces']}")
        for file, hit in one["contamination"].items():
            unread = f", {hit['unreadable']} rows without a problem" if hit["unreadable"] else ""
            out.append(f"  {file}: {hit['problems_found']} of {hit['problems']} problems found in the data{unread}")
        if not one["is_reference"]:
            out.append(f"  {one['verdict']['words']}")
    return out


def _length(one: Numbers) -> str:
    mean, low, high = (one["lengths"][key] for key in ("mean", "0.05", "0.95"))
    return f"{mean:.0f} tokens each (5 % to 95 %: {low:.0f} to {high:.0f})"


def _loss(loss: Numbers) -> str:
    return "none" if loss["step_0_loss"] is None else f"{loss['step_0_loss']:.3f}"
