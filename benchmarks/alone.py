"""One model writing alone: in the engine, as rows that begin in the answer phase, and with `transformers` on torch."""

import copy
import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tessy_jax.config.sections import Budgets, EngineConfig
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.cooperate.state import Role
from tessy_jax.data.records import Message
from tessy_jax.engine.engine import Dispatch, Engine
from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.engine.rows import Job
from tessy_jax.engine.solo import solo_engine


@dataclasses.dataclass(frozen=True, eq=False)
class Alone(LanguageModel):
    """A model whose prompts have `length` tokens: the first and the last ones of the chat's prompt. None: all of it."""

    length: int | None = None

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        ids = super().prompt_ids(messages)
        return ids if self.length is None else [*ids[:1], *ids[len(ids) - self.length + 1 :]]


def alone_engine(
    model: LanguageModel,
    sampling: Sampling,
    config: EngineConfig,
    tokens: int,
    k: int,
    length: int | None,
    mesh: Mesh | None,
) -> Engine:
    """An engine in which `model` writes exactly `tokens` tokens per row, all in one dispatch and `k` per turn.

    No token ends its turn. `length` is that of the prompt, the end-of-thinking marker included; None: the chat's own.
    """
    chat = copy.copy(model.chat)
    chat.eos_ids = frozenset()
    if length is not None:
        length -= len(chat.closed_ids(b""))
        if length < 1:
            raise SystemExit("error: the prompt must be longer than the end-of-thinking marker: raise --prompt-tokens")
    solo = Alone(model.graph, model.params, model.config, chat, sampling, model.system, model.cache, length)
    config = config.model_copy(update={"turns_per_dispatch": math.ceil(tokens / k)})
    return solo_engine(solo, Budgets(max_think_tokens=1, max_answer_tokens=tokens), k, config, 0, mesh)


def pretend_read(engine: Engine) -> None:
    """From now on prompts count as read without being read: what a step costs does not depend on what the cache holds,
    and prompts that fill a context take minutes. The texts mean nothing.
    """

    def read(role: Role, slots: np.ndarray, longest: int) -> None:
        state = engine.carry.state
        stream = state.streams[role]
        cached = jnp.maximum(stream.n - 1, 0)
        # Two arrays, not one twice: a donated buffer must not be shared.
        state = state.with_stream(role, stream.replace(cached=cached, high=cached + 0))
        engine.carry = engine.carry.replace(state=state)

    # The engine is made by `solo_engine`, and only this benchmark wants one that does not read.
    engine._read = read  # type: ignore[method-assign]


def run(engine: Engine, jobs: Sequence[Job]) -> list[Dispatch]:
    """Runs all jobs. A benchmark with rejected rows would count the wrong thing: it stops."""
    dispatches = list(engine.run(iter(jobs)))
    for dispatch in dispatches:
        for job, reason in dispatch.rejected:
            raise SystemExit(f"error: {job.problem.id}: {reason}")
    return dispatches


def written(engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """(prompts, new tokens) of the last run, by slot; all prompts have one length, and so have the texts."""
    stream = engine.host.streams[Role.STUDENT]
    base, n = int(stream.base[0]), int(stream.n[0])
    return stream.tokens[:, :base], stream.tokens[:, base:n]


class Torch:
    """`generate` of transformers, greedy, on the weights of a checkpoint folder, or on random ones (`dummy`).

    Raises:
      ImportError: torch is not installed.
    """

    def __init__(self, folder: Path, dtype: str, eos_ids: frozenset[int], dummy: bool = False):
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(os.cpu_count() or 1)
        self.name = f"torch {torch.__version__}, transformers {transformers.__version__}"
        self.device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
        self.tensor, self.eos = torch.tensor, sorted(eos_ids) or None
        loader: Any = transformers.AutoModelForCausalLM
        if dummy:
            with torch.device(self.device):  # drawn where they are used
                shapes = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
                self.model = loader.from_config(shapes, dtype=getattr(torch, dtype)).eval()
        else:
            model = loader.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
            self.model = model.eval().to(self.device)

    def write(self, prompts: np.ndarray, tokens: int) -> tuple[float, np.ndarray]:
        """(seconds per decode step, new tokens): exactly `tokens` per row; the first comes with reading the prompt."""
        ids, clock = self.tensor(prompts.astype(np.int64), device=self.device), Clock()
        out = self.model.generate(
            ids,
            attention_mask=(ids == ids).long(),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            eos_token_id=self.eos,
            pad_token_id=0,
            streamer=clock,
        )
        first, last = clock.times[1], clock.times[-1]  # times[0] is that of the prompt
        return (last - first) / (tokens - 1), out[:, ids.shape[1] :].cpu().numpy()


class Clock:
    """A streamer for `generate` that notes when each token came, in seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass
