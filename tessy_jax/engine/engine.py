"""The engine: keeps the slots of the loop filled, and hands out what is finished. Continuous batching, from the host's
side.
"""

import dataclasses
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from tessy_jax.config.sections import Budgets, EngineConfig
from tessy_jax.cooperate.host_callback import ROWS, Visits
from tessy_jax.cooperate.loop import Loop
from tessy_jax.cooperate.state import Phase, Role, State
from tessy_jax.cooperate.turn import Carry, Schedule, WorkCount
from tessy_jax.data.inputs import Reject
from tessy_jax.data.messages import why
from tessy_jax.data.records import Problem, Record, RowState
from tessy_jax.devices.processes import anywhere, everywhere
from tessy_jax.engine.language_model import LanguageModel, Prompt
from tessy_jax.engine.queue import JobQueue, OpenQueue, Waiting, place, usable
from tessy_jax.engine.request import RequestOutput
from tessy_jax.engine.rows import AS_NAMED, NAMES, NOTHING_MORE, Job, Keeps, Past, Seats
from tessy_jax.engine.sizes import (
    ROLLBACK_DEPTH,
    by_shard,
    make_caches,
    make_pages,
    make_params,
    make_rows,
    open_room,
    pool_of,
    prefill_piece,
    prefill_rows,
    prompt_room,
    too_long,
)
from tessy_jax.predictors.base import Predictor

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """What the host found after one dispatch.

    Attributes:
      finished: records of rows that are done. rejected: jobs that failed, with the reason.
      outputs: of rows with settings of their own, how far each of them is, those that are done included; such rows
        have no records, and are in no journal.
      active: the rows in flight, to be journaled, those that wait for pages included.
      evicted: how many rows have given their pages back before this dispatch.
      work: what the models did, the student's first.
      kept, dropped: tokens of the spans that ended in this dispatch, the student's first. spans: how many of
        those are of the trace.
      seconds: by phase: prefill, dispatch, host.
      visits: to the host, by task (`host_callback.TASKS`), for this process's rows.
    """

    finished: list[Record]
    rejected: list[tuple[Job, str]]
    active: list[RowState]
    work: WorkCount
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    spans: int
    evicted: int
    seconds: dict[str, float]
    visits: dict[str, Visits] = dataclasses.field(default_factory=dict)
    outputs: list[RequestOutput] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Slot:
    """A row in flight. `age`: see `Waiting`; `tokens`: of each model's stream, prompts included."""

    job: Job
    past: Past
    age: int
    tokens: list[int]


class Engine:
    """Runs jobs through the loop. `rooms`: for prompts, by role.

    Args:
        schedule: the turns, and their order.
        models, predictors: by role.
        config: sizes and speeds; none of them changes a trace.
        budgets: limits of one trace.
        mesh: where everything lies; None for one device.
        depth: deepest rollback that the caches' rings hold, in tokens.
        seats: whose models they are.
        keeps: what records hold besides the traces.
        stop_ids: room for the stop ids of rows that have settings of their own (`GenerationRequest`); None: they
            have none.

    Raises:
        ConfigError: the budgets alone fill the context.
    """

    def __init__(
        self,
        schedule: Schedule,
        models: tuple[LanguageModel, ...],
        predictors: tuple[Predictor, ...],
        config: EngineConfig,
        budgets: Budgets,
        seed: int,
        mesh: Mesh | None,
        depth: int = ROLLBACK_DEPTH,
        seats: Seats = AS_NAMED,
        keeps: Keeps = NOTHING_MORE,
        stop_ids: int | None = None,
    ):
        self.config, self.mesh, self.models = config, mesh, models
        self.loop = Loop(schedule)
        k = max(turn.generate.k for turn in schedule.turns)
        self.rooms = prompt_room(budgets, config, k) if stop_ids is None else open_room(config, k)
        self.rows = make_rows(models, predictors, budgets, config, schedule, seed, seats, keeps, stop_ids)
        self.params = make_params(models, predictors)
        self.local = config.batch // jax.process_count()
        self.host = self.rows.empty(self.local)
        caches = make_caches(models, predictors, config, pool_of(config, mesh), mesh, depth)
        self.carry = Carry(self._put(self.host), caches)
        self.slots: list[_Slot | None] = [None] * self.local
        self.pages = make_pages(self.carry.caches, config, mesh)
        self.queue = JobQueue()

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

    # -- the run -------------------------------------------------------------------------------------------------------

    def room(self, job: Job) -> tuple[list[Prompt], str | None]:
        """The job's prompts, in the tokens of each model, and why it cannot be done, if so: it does not fit, or a
        template or tokenizer refuses it.
        """
        try:
            prompts = self.rows.prompts(job)
        except Exception as error:  # templates are programs: whatever one raises, the other rows go on
            return [], why(error)
        for name, prompt in zip(self.rows.seats.authors, prompts, strict=True):
            if len(prompt.opening) > self.rows.text_bytes:
                return prompts, f"the prompt for the {name} has {len(prompt.opening)} bytes without a word's end"
        return prompts, too_long([prompt.size for prompt in prompts], self.rooms, self.rows.seats.authors)

    def generate(self, rows: Iterable[Problem | Reject], samples: int = 1) -> Iterator[Record]:
        """The traces of the problems among `rows`, `samples` of each, in the order in which they are finished.

        A row that cannot be used (it is a reject, a template refuses it, its prompt is too long) is left out and named
        in the log with the reason; the others go on.
        """
        for dispatch in self.run(Job(problem, sample) for problem in usable(rows) for sample in range(samples)):
            for job, reason in dispatch.rejected:
                log.warning("%s, sample %d: %s", place(job.problem), job.sample_index, reason)
            yield from dispatch.finished

    def run(self, jobs: Iterator[Job] | OpenQueue) -> Iterator[Dispatch]:
        """Runs all `jobs`; yields after each dispatch, on all processes alike. Closing the generator stops the run."""
        self.queue = jobs if isinstance(jobs, OpenQueue) else JobQueue(jobs)
        while True:
            started = time.perf_counter()
            evicted = self._cancel() + self._evict()
            rejected = self._admit(evicted)
            admitted = time.perf_counter()
            busy = everywhere(np.array([sum(s is not None for s in self.slots)]))
            if not busy.sum():
                if anywhere(bool(rejected)):
                    self.host = self.rows.empty(self.local)
                    yield self._report([], rejected, WorkCount.zero(), 0, {"prefill": admitted - started})
                return
            # With problems waiting, come back as soon as a slot is free; else only to journal.
            enough = 1 if anywhere(bool(self.queue)) else self.config.batch
            rounds = self.loop.schedule.rounds(self.config.turns_per_dispatch)
            self.carry, work = self.loop.dispatch(self.params, self.carry, jnp.int32(rounds), jnp.int32(enough))
            self.host = self._get(self.carry.state)
            done = time.perf_counter()
            finished, failed, outputs = self._harvest()
            seconds = {"prefill": admitted - started, "dispatch": done - admitted, "host": time.perf_counter() - done}
            yield self._report(finished, rejected + failed, work, len(evicted), seconds, outputs)

    def _cancel(self) -> list[int]:
        """Empties the slots of jobs that were cancelled; returns them."""
        keys = self.queue.take_cancelled()
        cancelled = [b for b, row in enumerate(self.slots) if row is not None and row.job.key in keys]
        for slot in cancelled:
            self.slots[slot] = None
        return cancelled

    def _evict(self) -> list[int]:
        """Makes sure of the pages that the next turn of each row needs, the oldest first. Where they run short, the
        youngest rows go back into the queue as they are; returns their slots.
        """
        for slot, row in enumerate(self.slots):
            if row is None:
                self.pages.release(slot)
            else:
                row.tokens = self._tokens(self.host, slot)
        evicted: list[int] = []
        oldest = self._by_age()
        for slot, row in oldest:
            while self.slots[slot] is row and not self.pages.hold(slot, self._ahead(row)):
                youngest, given_up = next(
                    (b, each) for b, each in oldest[::-1] if self.slots[b] is each and self.pages.share(b, slot)
                )
                state = self._snapshot(youngest, given_up)
                self.queue.put_back(Waiting(given_up.age, dataclasses.replace(given_up.job, state=state)))
                self.slots[youngest] = None
                self.pages.release(youngest)
                evicted.append(youngest)
        return evicted

    def _deal(self) -> None:
        """Gives out what pages are free besides, for a dispatch in which no row waits, and tells the devices."""
        for slot, row in self._by_age():
            self.pages.hold(slot, self._ahead(row, 2 * self.config.turns_per_dispatch))  # the other's words come too
        self._tell()

    def _tell(self) -> None:
        for role, pages in enumerate(self.pages.caches):
            if pages is not None:
                caches = self.carry.caches[role]
                table, writable = self._put(pages.table), self._put(pages.writable)
                caches = caches._replace(model=caches.model.with_table(table, writable))
                self.carry = self.carry.with_role(Role(role), self.carry.state, caches)

    def _by_age(self) -> list[tuple[int, _Slot]]:
        rows = [(slot, row) for slot, row in enumerate(self.slots) if row is not None]
        return sorted(rows, key=lambda both: both[1].age)

    def _tokens(self, rows: State, slot: int) -> list[int]:
        return [int(stream.n[slot]) for stream in rows.streams]

    def _ahead(self, row: _Slot, turns: int = 1) -> list[int]:
        """Tokens of each model that the row may have after so many turns of it."""
        written = [turns * turn.generate.k for turn in self.loop.schedule.turns]
        return [n + more for n, more in itertools.zip_longest(row.tokens, written, fillvalue=0)]

    def _admit(self, evicted: Sequence[int]) -> list[tuple[Job, str]]:
        """Fills free slots, and empties those of `evicted` rows. Returns the jobs that do not fit."""
        fresh = self.rows.empty(self.local)
        rejected: list[tuple[Job, str]] = []
        filled, short = np.zeros(self.local, bool), np.zeros(self.local, bool)
        shared = np.zeros((self.local, len(Role)), np.int32)
        for slot in range(self.local):
            while self.slots[slot] is None and not short[slot] and (waiting := self.queue.take()):
                prompts, reason = self.room(waiting.job)
                reason = reason or self._fill(fresh, slot, waiting.job, prompts)
                if reason is not None:
                    rejected.append((waiting.job, reason))
                    continue
                begun = self.rows.start(waiting.job)
                past = Past(begun.spans, begun.dropped_text, begun.word_scores)
                row = _Slot(waiting.job, past, waiting.age, self._tokens(fresh, slot))
                # Each of the others may need a page soon: a row that comes too early would have to go again.
                others = [b for b, _ in self._by_age() if self.pages.share(b, slot)]
                found = self.pages.begin(slot, [p.ids for p in prompts], self._ahead(row), spare=len(others))
                if found is not None:
                    self.slots[slot], filled[slot], shared[slot] = row, True, found
                    self._skip(fresh, slot, found)
                else:
                    self.queue.put_back(waiting)
                    _clear(fresh, slot)
                    short |= [self.pages.share(slot, b) for b in range(self.local)]
        self._deal()
        changed = filled.copy()
        changed[list(evicted)] = True
        if anywhere(bool(changed.any())):
            state = self.loop.admit(self.carry.state, self._put(changed), self._put(fresh))
            self.carry = self.carry.replace(state=state)
        self._prefill(fresh, filled, shared)
        return rejected

    def _fill(self, fresh: State, slot: int, job: Job, prompts: Sequence[Prompt]) -> str | None:
        """Writes the job's row into a slot; returns why it cannot be, if so."""
        try:
            self.rows.fill(fresh, slot, job, prompts)
        except Exception as error:  # of a tokenizer, over the text of a row that is taken up again
            _clear(fresh, slot)
            return why(error)
        return None

    def _skip(self, fresh: State, slot: int, shared: Sequence[int]) -> None:
        """Takes so many tokens of each stream for read. Rings must see them even so."""
        for stream, tokens, caches in zip(fresh.streams, shared, self.carry.caches, strict=True):
            if tokens and not caches.model.has_rings:
                stream.cached[slot] = stream.high[slot] = tokens

    def _prefill(self, fresh: State, filled: np.ndarray, shared: np.ndarray) -> None:
        """Reads the new rows' prompts. Who shares more comes later: what it shares has been read by then."""
        new, behind = everywhere(filled), everywhere(shared)
        if not new.any():
            return
        for turn in self.loop.schedule.turns:
            stream = fresh.streams[turn.role]
            unread = everywhere(stream.n - stream.cached)
            for tokens in np.unique(behind[new, turn.role]):
                slots = np.flatnonzero(new & (behind[:, turn.role] == tokens))
                self._read(turn.role, slots, int(unread[slots].max()))
        self.pages.seal()
        self._tell()
        jax.block_until_ready(self.carry)  # or the dispatch would be charged for it

    def _read(self, role: Role, slots: np.ndarray, longest: int) -> None:
        """Reads the streams of `slots`: many in one call when many are new, else a few at a time."""
        chunk = prefill_piece(longest, self.config.prompt_buckets)
        rows = prefill_rows(self.config, chunk, self.mesh)
        for some in by_shard(slots, self.config.batch, rows.width(len(slots)), rows.ways):
            state, caches = self.carry.state, self.carry.caches[role]
            stream, cache = self.loop.prefill(
                self.params.models[role], state.streams[role], caches.model, some, role=role, chunk=chunk
            )
            caches = caches._replace(model=cache)
            self.carry = self.carry.with_role(role, state.with_stream(role, stream), caches)

    def _harvest(self) -> tuple[list[Record], list[tuple[Job, str]], list[RequestOutput]]:
        finished: list[Record] = []
        rejected: list[tuple[Job, str]] = []
        outputs: list[RequestOutput] = []
        for b, slot in enumerate(self.slots):
            if slot is None:
                continue
            slot.past = self.rows.past(self.host, b, slot.past)
            if slot.job.request is not None:
                outputs.append(self.rows.output(self.host, b, slot.job, slot.past))
                if outputs[-1].finish:
                    self.slots[b] = None
            elif self.host.phase[b] == Phase.DONE:
                record = self.rows.record(self.host, b, slot.job, slot.past)
                if isinstance(record, Record):
                    finished.append(record)
                else:
                    rejected.append((slot.job, record))
                self.slots[b] = None
        return finished, rejected, outputs

    def snapshots(self) -> list[RowState]:
        """The rows in flight, as of the last dispatch, and those that wait for pages."""
        taken = [(b, slot) for b, slot in enumerate(self.slots) if slot is not None and slot.job.request is None]
        rows = [self._snapshot(b, slot) for b, slot in taken]
        return rows + self.queue.states()

    def _snapshot(self, slot: int, row: _Slot) -> RowState:
        return self.rows.snapshot(self.host, slot, row.job, row.past)

    def _report(
        self,
        finished: list[Record],
        rejected: list[tuple[Job, str]],
        work: WorkCount,
        evicted: int,
        seconds: dict[str, float],
        outputs: Sequence[RequestOutput] = (),
    ) -> Dispatch:
        logged = np.arange(self.host.log.shape[1]) < self.host.logged[:, None]
        spans = self.host.log[logged]
        roles = [self.rows.seats.authors.index(name) for name in NAMES]
        return Dispatch(
            finished=finished,
            rejected=rejected,
            active=self.snapshots(),
            work=jax.tree.map(lambda a: tuple(np.asarray(a)[roles].tolist()), work),
            kept=tuple(int(spans[spans[:, 0] == role, 3].sum()) for role in roles),
            dropped=tuple(int(spans[spans[:, 0] == role, 4].sum()) for role in roles),
            spans=int((spans[:, 1] == Phase.THINK).sum()),
            evicted=evicted,
            seconds=seconds,
            visits=self.loop.host.take_visits(),
            outputs=list(outputs),
        )


def _clear(rows: State, slot: int) -> None:
    for array in jax.tree.leaves(rows):
        array[slot] = 0
