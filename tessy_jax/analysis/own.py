"""Text of the student's own for `--draw`: a run of `sample` over the prompts of the data, which is resumed where it is
there.

OUTPUT/own/   a run directory      OUTPUT/own-prompts.jsonl   its input
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from tessy_jax.analysis.flags import split
from tessy_jax.analysis.settings import Settings
from tessy_jax.analysis.traces import DataSet, Trace
from tessy_jax.config.sample import SampleBudgets, SampleConfig
from tessy_jax.config.sections import EngineConfig
from tessy_jax.console.messages import say
from tessy_jax.data.inputs import read_rows
from tessy_jax.data.jsonl import make_folder, read_objects, replace_file
from tessy_jax.data.records import dump_line
from tessy_jax.data.run_folder import DifferentRunError
from tessy_jax.engine.language_model import prompt_ids
from tessy_jax.engine.run import write_traces
from tessy_jax.engine.sizes import MARGIN
from tessy_jax.engine.solo import Solo
from tessy_jax.errors import INTERRUPTED, ConfigError
from tessy_jax.storage.copies import own_files
from tessy_jax.text.chat import Chat
from tessy_jax.text.tokenizer import TextError

_ROWS = 8
"""In flight at a time."""

_WRITES = argparse.Namespace(pod=False, shard=None, dry_run=False, overwrite=False, show=False)
"""The options of `sample` that its run has."""


def own_place(settings: Settings) -> Path:
    """Where the student's own text is, drawn or to be drawn."""
    return settings.output / "own"


def draw_own(settings: Settings, sets: Sequence[DataSet], length: int, chat: Chat, console: Console) -> bool:
    """Lets the student write `settings.draw` texts for the prompts of the data, in turn; those that are there stay.
    Returns whether they are all written: the user may have stopped it.

    Args:
        sets: the data sets.
        length: tokens of prompt and text, at most.
        chat: of the student.

    Raises:
        ConfigError: text of another kind is there, or no prompt can be used.
        UserError: what `sample` raises.
    """
    traces = [trace for one in sets for trace in one.traces]
    prompts = list(_prompts(traces))
    place, file = own_place(settings), settings.output / "own-prompts.jsonl"
    make_folder(file.parent)
    replace_file(file, "".join(dump_line({"messages": messages}) + "\n" for messages in prompts))

    count = min(settings.draw, len(prompts))
    config = _config(settings, file, traces, _longest(prompts, settings, chat), length, chat).model_copy(
        update={"limit": count, "samples": -(-settings.draw // count)}
    )
    say(console, f"the student writes {count * config.samples} texts of its own, for {count} prompts of the data")
    try:
        code = write_traces(config, Solo, read_rows(file, limit=count), _WRITES, console)
    except DifferentRunError as error:
        differences = "\n".join(str(error).splitlines()[1:-1])
        raise ConfigError(
            f"--draw: {place} holds text that was drawn otherwise:\n{differences}\nremove that folder, or give another "
            "--output"
        ) from None
    here = own_files(place)
    rejects = [row for _, row in read_objects(here / "rejects.jsonl") if row] if code not in (0, INTERRUPTED) else []
    if rejects and not any(file.stat().st_size for file in (here / "data").glob("*.jsonl")):
        raise ConfigError(f"--draw: the student can answer none of the prompts; the first: {rejects[0]['reason']}")
    return code != INTERRUPTED


def _prompts(traces: Sequence[Trace]) -> Iterator[list[dict[str, Any]]]:
    """The conversations before the responses, each once, in the order of the data."""
    seen = set[str]()
    for trace in traces:
        messages = list(trace.example.before)
        key = dump_line({"messages": messages})
        if key not in seen:
            seen.add(key)
            yield messages


def _longest(prompts: Sequence[list[dict[str, Any]]], settings: Settings, chat: Chat) -> int:
    """Tokens of the longest prompt, with what opens the thinking, which data without thinking do not have."""
    lengths = [1]
    for messages in prompts:
        with suppress(TextError):  # `sample` says why
            lengths.append(len(prompt_ids(chat, settings.prompt.system, messages)))
    return max(lengths)


def _config(
    settings: Settings, file: Path, traces: Sequence[Trace], prompt: int, length: int, chat: Chat
) -> SampleConfig:
    """What `sample` is asked for: thinking and answers up to the longest of the data, and the student's own way to
    draw, as its run had it; `prompt` and `length`: tokens of the longest prompt, and of a trace at most.
    """
    longest = [1, 1]
    for trace in traces:
        for which, text in enumerate(split(trace, chat.thinking)):
            longest[which] = max(longest[which], len(chat.tokenizer.encode((text or "").encode())[0]))
    think, answer = min(longest[0], length // 2), min(longest[1], length // 4)
    budgets = SampleBudgets(max_think_tokens=think, max_answer_tokens=answer)
    needed = think + answer + MARGIN + budgets.k
    if length <= needed:
        raise ConfigError(f"--draw: a text needs {needed} tokens beside its prompt, and a trace may have {length}")
    context = min(length, needed + prompt + 1)
    return SampleConfig(
        model=str(settings.student),
        prompt=settings.prompt,
        thinking=settings.thinking,
        sampling=settings.sampling,
        budgets=budgets,
        engine=EngineConfig(batch=_ROWS, context=context, dtype=settings.dtype),
        input=str(file),
        output=own_place(settings),
    )
