"""The engine: keeps the slots of the loop filled, and hands out what is finished. Continuous batching, from the host's
side.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from tessy_jax.config.sections import Budgets, EngineConfig
from tessy_jax.cooperate.host_callback import ROWS
from tessy_jax.cooperate.loop import Carry, Loop, Params
from tessy_jax.cooperate.state import Phase, Role
from tessy_jax.cooperate.turn import Turn, WorkCount
from tessy_jax.data.records import Record, RowState, Span
from tessy_jax.engine.language_model import LanguageModel, shared
from tessy_jax.engine.rows import Job, Rows
from tessy_jax.errors import ConfigError
from tessy_jax.predictors.base import Predictor
from tessy_jax.predictors.probe import Probe
from tessy_jax.text.retokenize import Retokenizer

log = logging.getLogger(__name__)

MARGIN = 64
"""Tokens a row may run past its budgets: an undecided word (48 bytes) and the end-of-thinking marker."""


PREFILL_TOKENS = 2048
"""Tokens per pass of prefill: enough to be bound by arithmetic, while its scores (tokens x heads x context) stay small.
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes and speeds of an engine; none of them changes a trace. Meanings and defaults: `config.EngineConfig`."""

    batch: int
    context: int
    prompt_buckets: tuple[int, ...]
    chunk: int
    turns_per_dispatch: int
    depth: int = 256
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """What one visit of the host found.

    Attributes:
      finished: records of rows that are done. rejected: jobs that failed, with the reason.
      active: the rows in flight, to be journaled.
      steps: the work done, by role.
      kept, dropped: tokens of the spans that ended in this dispatch, by role. spans: how many of those are of the
        trace.
      seconds: by phase: prefill, dispatch, host.
    """

    finished: list[Record]
    rejected: list[tuple[Job, str]]
    active: list[RowState]
    steps: WorkCount
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    spans: int
    seconds: dict[str, float]


def prefill_rows(settings: Settings, chunk: int, mesh: Mesh | None) -> tuple[int, int]:
    """Rows that a call of prefill reads when few are new, and when many are: at most `PREFILL_TOKENS` in all, where
    the mesh lets it be so little.
    """
    ways = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    many = min(settings.batch, max(1, PREFILL_TOKENS // (chunk * ways)) * ways)
    return min(many, max(ways, settings.batch // 8)), many


def check_budgets(budgets: Budgets, settings: Settings, tokens: int) -> list[int]:
    """Tokens that the context leaves for the student's and the teacher's prompt; `tokens`: of a turn, at most.

    Raises:
      ConfigError: there are none for the student's.
    """
    margin = MARGIN + tokens
    needed = (budgets.max_think_tokens + budgets.max_answer_tokens + margin, budgets.max_think_tokens + margin)
    if settings.context <= needed[0]:
        raise ConfigError(
            f"engine.context {settings.context} holds no prompt: the token budgets need {needed[0]} tokens; "
            "raise engine.context or lower max_think_tokens or max_answer_tokens"
        )
    return [settings.context - tokens for tokens in needed]


def rows_of(
    voices: Sequence[LanguageModel], predictors: Sequence[Predictor | Probe], settings: Settings, seed: int
) -> Rows:
    """The rows of an engine with these sizes."""
    return Rows(
        voices=tuple(voices),
        judges=tuple(None if isinstance(p, Probe) else Retokenizer(p.tokenizer) for p in predictors),
        context=settings.context,
        text_bytes=8 * settings.context,
        log=2 * settings.turns_per_dispatch + 2,
        seed=seed,
    )


def reads_alike(voice: LanguageModel, predictor: Predictor | Probe) -> bool:
    """Whether a predictor reads what its writer writes, without another vocabulary in between."""
    return isinstance(predictor, Probe) or shared(voice.chat.tokenizer, predictor.tokenizer)


def params_of(voices: Sequence[LanguageModel], predictors: Sequence[Predictor | Probe]) -> Params:
    """All that an engine's programs only read."""
    both = tuple(zip(voices, predictors, strict=True))
    return Params(
        writers=tuple(v.params for v in voices),
        tables=tuple(v.table.replace(canonical=v.canonical if reads_alike(v, p) else None) for v, p in both),
        judges=tuple(p.params for p in predictors),
    )


def caches_of(
    voices: Sequence[LanguageModel], predictors: Sequence[Predictor | Probe], settings: Settings, mesh: Mesh | None
) -> tuple[tuple[Any, Any], ...]:
    """By role, the empty caches of the writer and of its predictor."""
    slack = settings.depth + max(settings.chunk, *settings.prompt_buckets)
    return tuple(
        (
            voice.init_cache(settings.batch, settings.context, slack, jnp.dtype(settings.dtype), mesh),
            predictor.init_cache(settings.batch, settings.context, slack, mesh),
        )
        for voice, predictor in zip(voices, predictors, strict=True)
    )


@dataclasses.dataclass
class _Slot:
    job: Job
    spans: list[Span]
    sampled: int = 0


class Engine:
    """Runs jobs through the loop.

    Args:
      turns: the student's and the teacher's turn.
      voices, predictors: by role.
      budgets: limits of one trace.
      mesh: where everything lies; None for one device.

    Raises:
      ConfigError: the budgets alone fill the context.
    """

    def __init__(
        self,
        turns: tuple[Turn, ...],
        voices: tuple[LanguageModel, ...],
        predictors: tuple[Predictor | Probe, ...],
        settings: Settings,
        budgets: Budgets,
        seed: int,
        mesh: Mesh | None,
    ):
        self.settings, self.mesh, self.voices = settings, mesh, voices
        self.loop = Loop(turns)
        self._rooms = check_budgets(budgets, settings, max(turn.tokens for turn in turns))
        self.rows = rows_of(voices, predictors, settings, seed)
        self.params = params_of(voices, predictors)
        self.local = settings.batch // jax.process_count()
        self.host = self.rows.empty(self.local)
        self.memory = Carry(self._put(self.host), caches_of(voices, predictors, settings, mesh))
        self.slots: list[_Slot | None] = [None] * self.local

    # -- arrays to and fro ---------------------------------------------------------------------------------------------

    def _put(self, tree: Any) -> Any:
        """This process's rows as arrays of the whole batch."""
        if self.mesh is None:
            return jax.tree.map(jnp.array, tree)
        sharding = NamedSharding(self.mesh, ROWS)
        return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), tree)

    def _get(self, tree: Any) -> Any:
        """This process's rows of arrays of the whole batch."""

        def rows(array: jax.Array) -> np.ndarray:
            if array.is_fully_addressable:
                return np.array(array)
            parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
            return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

        return jax.tree.map(rows, tree)

    @staticmethod
    def _everywhere(local: np.ndarray) -> np.ndarray:
        """`local` of every process, one after the other: the host's decisions must be the same on all of them."""
        if jax.process_count() == 1:
            return local
        return np.asarray(multihost_utils.process_allgather(local)).reshape(-1, *local.shape[1:])

    def any_process(self, here: bool) -> bool:
        """Whether it holds on any process; all of them must ask."""
        return bool(self._everywhere(np.array([here])).any())

    # -- the run -------------------------------------------------------------------------------------------------------

    def room(self, job: Job) -> tuple[list[list[int]], str | None]:
        """The job's prompts, in the tokens of each voice, and why it does not fit, if so."""
        prompts = [voice.prompt_ids(job.problem.messages) for voice in self.voices]
        for name, prompt, room in zip(("student", "teacher"), prompts, self._rooms, strict=True):
            if len(prompt) > room:
                return prompts, (
                    f"the prompt has {len(prompt)} tokens for the {name}; engine.context {self.settings.context} "
                    f"leaves room for {room} beside the token budgets"
                )
        return prompts, None

    def run(self, jobs: Iterator[Job]) -> Iterator[Dispatch]:
        """Runs all `jobs`; yields after each dispatch, on all processes alike. Closing the generator stops the run."""
        waiting = True
        while True:
            started = time.perf_counter()
            rejected, waiting = self._admit(jobs, waiting)
            admitted = time.perf_counter()
            busy = self._everywhere(np.array([sum(s is not None for s in self.slots)]))
            if not busy.sum():
                if self.any_process(bool(rejected)):
                    self.host = self.rows.empty(self.local)
                    yield self._report([], rejected, WorkCount.zero(), {"prefill": admitted - started})
                return
            # With problems waiting, come back as soon as a slot is free; else only to journal.
            enough = 1 if self.any_process(waiting) else self.settings.batch
            self.memory, steps = self.loop.dispatch(
                self.params, self.memory, jnp.int32(self.settings.turns_per_dispatch), jnp.int32(enough)
            )
            self.host = self._get(self.memory.state)
            done = time.perf_counter()
            finished, failed = self._harvest()
            seconds = {"prefill": admitted - started, "dispatch": done - admitted, "host": time.perf_counter() - done}
            yield self._report(finished, rejected + failed, steps, seconds)

    def _admit(self, jobs: Iterator[Job], waiting: bool) -> tuple[list[tuple[Job, str]], bool]:
        """Fills free slots. Returns the jobs that do not fit, and whether more are waiting."""
        fresh, rows = self.rows.empty(self.local), np.zeros(self.local, bool)
        rejected: list[tuple[Job, str]] = []
        longest = 0
        for slot in range(self.local):
            while waiting and self.slots[slot] is None:
                job = next(jobs, None)
                if job is None:
                    waiting = False
                    break
                prompts, problem = self.room(job)
                if problem:
                    rejected.append((job, problem))
                    continue
                self.rows.fill(fresh, slot, job, prompts)
                self.slots[slot], rows[slot] = _Slot(job, list(job.start.spans)), True
                longest = max(longest, *(int(stream.n[slot]) for stream in fresh.writers))
        everyone = np.flatnonzero(self._everywhere(rows))
        if len(everyone):
            self.memory = self.loop.admit(self.memory, self._put(rows), self._put(fresh))
            self._prefill(everyone, int(self._everywhere(np.array([longest])).max()))
            jax.block_until_ready(self.memory)  # or the dispatch would be charged for it
        return rejected, waiting

    def _prefill(self, slots: np.ndarray, longest: int) -> None:
        """Reads the new rows' prompts: many in one call when many are new, else a few at a time."""
        buckets = self.settings.prompt_buckets
        chunk = next((b for b in buckets if b >= longest), buckets[-1])
        few, many = prefill_rows(self.settings, chunk, self.mesh)
        width = few if len(slots) <= 2 * few else many
        for start in range(0, len(slots), width):
            some = slots[start : start + width]
            padded = jnp.asarray(np.pad(some, (0, width - len(some)), constant_values=self.settings.batch))
            for role in Role:
                self.memory = self.loop.prefill(self.params, self.memory, padded, role=role, chunk=chunk)

    def _harvest(self) -> tuple[list[Record], list[tuple[Job, str]]]:
        finished: list[Record] = []
        rejected: list[tuple[Job, str]] = []
        for b, slot in enumerate(self.slots):
            if slot is None:
                continue
            slot.spans = self.rows.spans(self.host, b, slot.spans)
            if self.host.phase[b] == Phase.DONE:
                record = self.rows.record(self.host, b, slot.job, slot.spans)
                if isinstance(record, Record):
                    finished.append(record)
                else:
                    rejected.append((slot.job, record))
                self.slots[b] = None
        return finished, rejected

    def snapshots(self) -> list[RowState]:
        """The rows in flight, as of the last dispatch."""
        return [
            self.rows.snapshot(self.host, b, slot.job, slot.spans)
            for b, slot in enumerate(self.slots)
            if slot is not None
        ]

    def _report(
        self, finished: list[Record], rejected: list[tuple[Job, str]], steps: WorkCount, seconds: dict[str, float]
    ) -> Dispatch:
        logged = np.arange(self.host.log.shape[1]) < self.host.logged[:, None]
        spans = self.host.log[logged]
        return Dispatch(
            finished=finished,
            rejected=rejected,
            active=self.snapshots(),
            steps=jax.tree.map(lambda a: tuple(np.asarray(a).tolist()), steps),
            kept=tuple(int(spans[spans[:, 0] == role, 3].sum()) for role in Role),
            dropped=tuple(int(spans[spans[:, 0] == role, 4].sum()) for role in Role),
            spans=int((spans[:, 1] == Phase.THINK).sum()),
            seconds=seconds,
        )


def settings(engine: EngineConfig) -> Settings:
    """The engine's sizes, from the configuration."""
    return Settings(
        batch=engine.batch,
        context=engine.context,
        prompt_buckets=tuple(engine.prompt_buckets),
        chunk=engine.chunk,
        turns_per_dispatch=engine.turns_per_dispatch,
        dtype=engine.dtype,
    )
