"""What `analyse` runs: read the data, let the student read it, count, and write the report.

OUTPUT/report.html   report.json   rejects.jsonl   own/: what --draw has written
"""

import argparse
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import jax.numpy as jnp
from rich.console import Console

from tessy_jax import models
from tessy_jax.analysis.flags import flags
from tessy_jax.analysis.likelihood import Likelihood
from tessy_jax.analysis.own import draw_own, own_place
from tessy_jax.analysis.page import write_page
from tessy_jax.analysis.report import Numbers, lines, numbers
from tessy_jax.analysis.settings import Settings
from tessy_jax.analysis.traces import DataSet, Reading, names_of, read_set, read_verdicts
from tessy_jax.analysis.vectors import require_sklearn, vectors
from tessy_jax.config.training import ComputeConfig
from tessy_jax.console.messages import say
from tessy_jax.console.progress import View, duration
from tessy_jax.data.jsonl import make_folder, replace_file
from tessy_jax.data.records import dump_line
from tessy_jax.devices import compilation_cache
from tessy_jax.errors import DONE, INTERRUPTED, REJECTS, ConfigError
from tessy_jax.storage.outputs import check_writable
from tessy_jax.text.chat import Chat
from tessy_jax.text.thinking import thinking_of
from tessy_jax.text.tokenizer import ContentTokenizer


def analyse(options: argparse.Namespace, console: Console) -> int:
    """Analyses data sets, and returns the exit code: `REJECTS` where rows could not be learned.

    Args:
        options: of the command.
        console: for messages; the summary goes to the output.

    Raises:
        UserError: one of many kinds; the text says what was wrong and what to do.
    """
    require_sklearn()
    settings = Settings.of(options)
    check_writable(settings.output)
    chat = _chat(settings)
    config = _config(settings, chat)
    teacher = ContentTokenizer.load(settings.teacher) if settings.teacher else None

    own = own_place(settings) if settings.draw else settings.reference
    places = [*settings.data, *([own] if own else [])]
    length = min(settings.length, config.max_position_embeddings)
    verdicts = read_verdicts(settings.judged)
    reading = Reading(chat, settings.prompt.system, length, settings.limit, verdicts)
    sets: list[DataSet] = []
    for place, name in zip(places, names_of(places), strict=True):
        drawn = settings.draw > 0 and place is own
        if drawn and not draw_own(settings, sets, length, chat, console):
            return INTERRUPTED
        say(console, f"reading {place}")
        sets.append(read_set(place, name, reading._replace(limit=None) if drawn else reading))

    _read(settings, sets, console)
    for trace in chain.from_iterable(one.traces for one in sets):
        trace.marks = flags(trace, chat.thinking)

    say(console, "counting")
    found = numbers(sets, own is not None, vectors(sets), chat, settings.benchmarks)
    _write(settings.output, found, sets, teacher)
    Console(highlight=False, markup=False, soft_wrap=True).print("\n".join(lines(found)))
    say(console, f"the report is {settings.output / 'report.html'}")
    return REJECTS if any(one.rejects for one in sets) else DONE


def _chat(settings: Settings) -> Chat:
    """The student's tokenizer and template, compared with the checkpoint's own."""
    thinking = thinking_of(settings.student, **settings.thinking.model_dump(exclude_none=True))
    chat = Chat.load(settings.student, thinking=thinking, **settings.prompt.model_dump(exclude={"system"}))
    chat.check()
    return chat


def _config(settings: Settings, chat: Chat) -> models.DecoderConfig:
    config = models.read_config(settings.student)
    if config.labels:
        raise ConfigError(f"--student: {settings.student} is a token classifier; give a language model")
    chat.check_fits(config.vocab_size)
    models.check_weights(config, settings.student)
    return config


def _read(settings: Settings, sets: Sequence[DataSet], console: Console) -> None:
    """The student reads all traces."""
    traces = [trace for one in sets for trace in one.traces]
    total, done = sum(len(trace.example.tokens) for trace in traces), 0
    compilation_cache.use(ComputeConfig())
    model = models.load(settings.student, dtype=jnp.dtype(settings.dtype))
    assert isinstance(model, models.CausalLM)
    started = time.monotonic()

    def cells(now: float) -> dict[str, str]:
        seconds = now - started
        left = duration(seconds * (total - done) / done) if done else "?"
        return {"read": f"{done:,}/{total:,} tokens", "elapsed": duration(seconds), "eta": left}

    with View("the student reads", cells, console) as view:

        def seen(tokens: int) -> None:
            nonlocal done
            done += tokens
            view.update()

        losses = Likelihood(model, settings.batch_tokens).nll([trace.example for trace in traces], seen)
    for trace, nll in zip(traces, losses, strict=True):
        trace.nll = nll


def _write(output: Path, found: Numbers, sets: Sequence[DataSet], teacher: ContentTokenizer | None) -> None:
    make_folder(output)
    rejects = (reject for one in sets for reject in one.rejects)
    replace_file(output / "rejects.jsonl", "".join(dump_line(reject.to_row()) + "\n" for reject in rejects))
    replace_file(output / "report.json", dump_line(found) + "\n")
    write_page(output / "report.html", found, sets, teacher)
