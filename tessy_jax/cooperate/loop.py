"""The cooperative loop: one jitted `lax.while_loop` over turns, and the two small programs that put rows into it.

    until enough rows are done:
        for role in (student, teacher):
            if any row has this role:  turn(role)

Both models, both predictors and all caches stay on one mesh; state and caches are donated, so a dispatch changes
them in place.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import lax
from jaxtyping import Array, Bool, Int

from tessy_jax.cooperate.state import Phase, Role, State, Vocab, writes
from tessy_jax.cooperate.streams import catch_up
from tessy_jax.cooperate.turn import Turn, WorkCount, replace_stream
from tessy_jax.text_jax.arrays import pick


class Params(struct.PyTreeNode):
    """All that is only read: by role, the writers' weights and tables and the predictors' weights."""

    writers: tuple[Any, ...]
    tables: tuple[Vocab, ...]
    judges: tuple[Any, ...]


class Carry(struct.PyTreeNode):
    """Everything that is written: the rows, and by role the caches (writer, predictor)."""

    state: State
    caches: tuple[tuple[Any, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """The compiled programs over one pair of turns."""

    turns: tuple[Turn, ...]

    def __post_init__(self) -> None:
        compiled = {
            "dispatch": jax.jit(self._dispatch, donate_argnames="memory"),
            "prefill": jax.jit(self._prefill, donate_argnames="memory", static_argnames=("role", "chunk")),
            "admit": jax.jit(self._admit, donate_argnames="memory"),
        }
        for name, program in compiled.items():
            object.__setattr__(self, name, program)

    dispatch: Callable[..., tuple[Carry, WorkCount]] = dataclasses.field(init=False)
    prefill: Callable[..., Carry] = dataclasses.field(init=False)
    admit: Callable[..., Carry] = dataclasses.field(init=False)

    def _dispatch(
        self, params: Params, memory: Carry, turns: Int[Array, ""], enough: Int[Array, ""]
    ) -> tuple[Carry, WorkCount]:
        """Runs at most `turns` turns of each role, and returns early once `enough` more rows are done or all of them
        are.
        """
        memory = memory.replace(state=memory.state.replace(logged=jnp.zeros_like(memory.state.logged)))
        busy = memory.state.phase != Phase.DONE

        def going_on(carry: tuple[Carry, WorkCount, Array]) -> Bool[Array, ""]:
            memory, _, i = carry
            still = busy & (memory.state.phase != Phase.DONE)
            done = jnp.sum(busy) - jnp.sum(still)
            return (i < turns) & jnp.any(still) & (done < enough)

        def one(carry: tuple[Carry, WorkCount, Array]) -> tuple[Carry, WorkCount, Array]:
            memory, steps, i = carry
            for role in Role:
                memory, steps = lax.cond(
                    jnp.any(writes(memory.state, role)), self._turn(role, params), lambda m, s: (m, s), memory, steps
                )
            return memory, steps, i + 1

        memory, steps, _ = lax.while_loop(going_on, one, (memory, WorkCount.zero(), jnp.zeros((), jnp.int32)))
        return memory, steps

    def _turn(self, role: Role, params: Params) -> Callable[[Carry, WorkCount], tuple[Carry, WorkCount]]:
        def run(memory: Carry, steps: WorkCount) -> tuple[Carry, WorkCount]:
            state, caches, steps = self.turns[role](
                params.writers[role], params.judges[role], params.tables[role], memory.state, memory.caches[role], steps
            )
            both = (caches, memory.caches[1]) if role == Role.STUDENT else (memory.caches[0], caches)
            return Carry(state, both), steps

        return run

    def _admit(self, memory: Carry, rows: Bool[Array, " B"], fresh: State) -> Carry:
        """Puts the `rows` of `fresh` into their slots. Their caches need no clearing: nothing of them has been read
        yet.
        """
        return memory.replace(state=jax.tree.map(lambda new, old: pick(rows, new, old), fresh, memory.state))

    def _prefill(self, params: Params, memory: Carry, slots: Int[Array, " A"], *, role: Role, chunk: int) -> Carry:
        """Reads the streams of `slots` into `role`'s cache, `chunk` tokens at a time, all but the last token.

        Only these rows are computed: slots beyond the batch pad the list.
        """
        state, (cache, judge_cache) = memory.state, memory.caches[role]
        turn = self.turns[role]
        stream, few = jax.tree.map(lambda a: a[jnp.minimum(slots, len(state.key) - 1)], (state.writers[role], cache))

        def read(tokens: Array, positions: Array, cache: Any) -> Any:
            return nnx.merge(turn.graph, params.writers[role])(tokens, positions, cache)[1]

        rows = slots < len(state.key)
        stream, few = catch_up(stream, rows, stream.n - 1, chunk, read, few)

        def back(old: Array, new: Array) -> Array:
            return old.at[slots].set(new, mode="drop")

        cache = jax.tree.map(back, cache, few)
        stream = jax.tree.map(back, state.writers[role], stream)
        caches = (cache, judge_cache)
        both = (caches, memory.caches[1]) if role == Role.STUDENT else (memory.caches[0], caches)
        return Carry(replace_stream(state, role, stream), both)
