"""Runs of `synthesize` by the methods of the paper's Table 1, on the tiny pair, and what plain Python makes of them."""

from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from jax.sharding import Mesh
from transformers import AutoModelForCausalLM

from tessy_jax import synthesize
from tessy_jax.baselines.seated import Seated
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.engine.engine import Engine
from tessy_jax.text.chat import Chat, Thinking
from tessy_jax.text.repetition import Repetition
from tests.kit.oracle import Author, Oracle, Trace
from tests.kit.run_synthesize import TEMPLATE, pair

THINK, ANSWER = 40, 8
BUDGETS = [f"cooperation.max_think_tokens={THINK}", f"cooperation.max_answer_tokens={ANSWER}", "engine.context=384"]
_engines: dict[Any, Engine] = {}
_load = Seated.load


def call(method: str, *arguments: object) -> int:
    """The command in this process; models in the same seats are loaded and compiled once."""

    def load(self: Seated, mesh: Mesh | None = None) -> Engine:
        models = tuple((one.folder, one.config.prompt.system, one.config.sampling.temperature) for one in self.sources)
        key = models, self.seats
        if key not in _engines:
            _engines[key] = _load(self, mesh)
        engine = _engines[key]
        engine.slots, engine.host = [None] * engine.local, engine.rows.empty(engine.local)
        engine.carry = engine.carry.replace(state=engine._put(engine.host))
        return engine

    with mock.patch.object(Seated, "load", load):
        return synthesize.main([str(methods_file()), *BUDGETS, f"method={method}", *map(str, arguments)])


@cache
def methods_file() -> Path:
    """The pair's configuration, greedy and without predictors."""
    values = yaml.safe_load(pair().read_text("utf-8"))
    del values["predictors"]
    for name in ("student", "teacher"):
        values[name]["sampling"] = {"temperature": 0}
    values["engine"]["turns_per_dispatch"] = 2
    file = pair().parent / "methods.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
    return file


@cache
def _author(name: str) -> Author:
    folder = pair().parent / name
    given = {"template": TEMPLATE, "thinking": Thinking(marker="</end>")} if name == "teacher" else {}
    chat = Chat.load(folder, **given)
    return Author(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), chat, Sampling(0.0))


def plain(thinks: str, answers: str, messages: list[dict], record: str, sample: int = 0) -> tuple[str, Trace]:
    """Thinking by one author and the answer by another, in plain Python and torch: the text in the student's form."""
    authors = (_author(answers), _author(thinks))
    oracle = Oracle(
        authors=authors,
        encode_for_judge=tuple(author.chat.tokenizer.encode for author in authors),
        style=(lambda ids: np.ones(len(ids)), lambda ids: np.zeros(len(ids))),
        thresholds=(0.5, 0.5),
        max_think_tokens=THINK,
        max_answer_tokens=ANSWER,
        loops=Repetition().loops,
        seed=5,
        first=1,
    )
    trace = oracle.trace(messages, record, sample)
    written, form = authors[0].chat.thinking, _author("student").chat.thinking
    between = (written.before + written.marker + written.after).encode()
    thought, answer = trace.text[: trace.think_end], trace.text[trace.think_end + len(between) :]
    text = form.open + thought.decode() + form.before + form.marker + form.after + answer.decode(errors="ignore")
    return text, trace
