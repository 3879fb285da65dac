"""The cooperative loop: one jitted `lax.while_loop`, and the two small programs that put rows into it.

    until enough rows are done:
        one round of the schedule             turn.RollbackSchedule: Algorithm 1 of the paper
                                              stream.StreamSchedule: the same rows, in passes that are full

Both models, both predictors and all caches stay on one mesh; the carry is donated, so a dispatch changes it in place.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.host_callback import Host
from tessy_jax.cooperate.params import Params
from tessy_jax.cooperate.state import Phase, Role, State, Stream
from tessy_jax.cooperate.streams import catch_up
from tessy_jax.cooperate.turn import Carry, Schedule, WorkCount
from tessy_jax.text_jax.arrays import pick


class _Progress(NamedTuple):
    carry: Carry
    work: WorkCount
    memory: Any
    rounds: Int[Array, ""]


@dataclass(frozen=True, eq=False)
class Loop:
    """The compiled programs of one schedule.

    Attributes:
        dispatch: `(params, carry, rounds, enough) -> carry, work`: runs at most `rounds` rounds, and returns earlier
            once `enough` more rows are done (1: others wait for their slots), all of them are, one waits for slots, or
            one has ended as many spans as its log holds.
        prefill: `(model, stream, cache, slots, *, role, chunk) -> stream, cache`: reads the streams of `slots` into the
            cache of `role`, `chunk` tokens at a time, all but the last token.
        admit: `(state, rows, fresh) -> state`: puts the `rows` of the state `fresh` into their slots.

    Each gets what it needs and no more: then all loops of one model have one program that reads its prompts, in JAX's
    compilation cache too.
    """

    schedule: Schedule
    dispatch: Callable[..., tuple[Carry, WorkCount]] = field(init=False)
    prefill: Callable[..., tuple[Stream, Any]] = field(init=False)
    admit: Callable[..., State] = field(init=False)

    def __post_init__(self) -> None:
        compiled = {
            "dispatch": jax.jit(self._dispatch, donate_argnames="carry"),
            "prefill": jax.jit(self._prefill, donate_argnames=("stream", "cache"), static_argnames=("role", "chunk")),
            "admit": jax.jit(self._admit, donate_argnames="state"),
        }
        for name, program in compiled.items():
            object.__setattr__(self, name, program)

    @property
    def host(self) -> Host:
        """Where all turns ask for what the device cannot do."""
        return self.schedule.turns[0].hand_over.host

    def _dispatch(
        self, params: Params, carry: Carry, rounds: Int[Array, ""], enough: Int[Array, ""]
    ) -> tuple[Carry, WorkCount]:
        state = carry.state
        start = state.replace(logged=jnp.zeros_like(state.logged), waiting=jnp.zeros_like(state.waiting))
        if start.scores is not None:
            start = start.replace(scores=start.scores.emptied())
        carry = carry.replace(state=start)
        busy = carry.state.phase != Phase.DONE

        def going_on(now: _Progress) -> Bool[Array, ""]:
            still = busy & (now.carry.state.phase != Phase.DONE)
            done = jnp.sum(busy) - jnp.sum(still)
            rows = now.carry.state
            stops = jnp.any(rows.waiting) | jnp.any(rows.logged >= state.log.shape[1] - 1)
            if rows.dropped is not None:  # it must have room for what another round may drop
                stops |= jnp.any(rows.dropped.full(rows.logged))
            if rows.scores is not None:
                stops |= jnp.any(rows.scores.full())
            return (now.rounds < rounds) & jnp.any(still) & (done < enough) & ~stops

        def one_round(now: _Progress) -> _Progress:
            return _Progress(*self.schedule.round(params, now.carry, now.work, now.memory), now.rounds + 1)

        first = _Progress(carry, WorkCount.zero(), self.schedule.start(enough == 1), jnp.zeros((), jnp.int32))
        end = lax.while_loop(going_on, one_round, first)
        return end.carry, end.work

    def _admit(self, state: State, rows: Bool[Array, " B"], fresh: State) -> State:
        # Caches need no clearing: nothing of the new rows has been read yet.
        return jax.tree.map(lambda new, old: pick(rows, new, old), fresh, state)

    def _prefill(
        self, model: Any, stream: Stream, cache: Any, slots: Int[Array, " A"], *, role: Role, chunk: int
    ) -> tuple[Stream, Any]:
        graph, batch = self.schedule.turns[role].generate.graph, len(stream.n)

        def read(tokens: Array, positions: Array, cache: Any) -> Any:
            return nnx.merge(graph, model)(tokens, positions, cache)[1]

        # Only these rows are computed, and their caches written where they lie; slots beyond the batch pad the list.
        inside = jnp.minimum(slots, batch - 1)
        some = jax.tree.map(lambda a: a[inside], stream)
        some, cache = catch_up(some, slots < batch, some.n - 1, chunk, read, cache.of_rows(slots))

        def back(old: Array, new: Array) -> Array:
            return old.at[slots].set(new, mode="drop")

        return jax.tree.map(back, stream, some), cache.of_rows(None)
