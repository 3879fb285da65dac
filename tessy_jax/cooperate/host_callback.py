"""Calls to the host from inside the jitted loop: text needs a tokenizer, and tokenizers run in Python.

A call is a pure function of its arguments, row by row. On a mesh it happens in a fully manual `shard_map` over the
batch axes, so that each process reads only its own rows. It never touches JAX arrays, and an error comes back as a
code: an exception inside a callback has no defined outcome.
"""

import logging
import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int, UInt8

from tessy_jax.text.retokenize import Retokenizer, TokenEdit
from tessy_jax.text_jax.arrays import Leaf

log = logging.getLogger(__name__)

ROWS = PartitionSpec(("data", "fsdp"))
"""How everything that leads with B lies on the mesh."""

FAILED = -1
"""The `count` of an edit that the host could not make."""


class TokenEdits(struct.PyTreeNode):
    """One edit a row of the canonical end of a stream: drop tokens, then append others.

        [p p a b|x]   drop 1, ids [c d 0 0], count 2   ->   [p p a c d]

    Attributes:
        drop: canonical tokens to drop.
        ids, ends: R tokens and the bytes of the text reached after each.
        count: how many of them are meant; FAILED if the host could not read the row.
        covered: bytes that the canonical tokens stand for afterwards.
    """

    drop: Int[Leaf, "*B"]
    ids: Int[Leaf, "*B R"]
    ends: Int[Leaf, "*B R"]
    count: Int[Leaf, "*B"]
    covered: Int[Leaf, "*B"]

    @staticmethod
    def shape(width: int) -> "TokenEdits":
        """Shapes of the edit of one row, of so many tokens."""
        one = jax.ShapeDtypeStruct((), jnp.int32)
        many = jax.ShapeDtypeStruct((width,), jnp.int32)
        return TokenEdits(one, many, many, one, one)


TASKS = ("words", "text")
"""What the host is asked for: the words of a span, and the tokens of a text at a hand-over."""


class Visits(NamedTuple):
    """How often the host was called, and for how many rows in all."""

    calls: int
    rows: int


class Host:
    """The host as the loop calls it, on a mesh or on one device.

    It counts its visits here, where they happen: by task, those of this process. On a mesh each part of the batch that
    has a row to ask for makes a visit of its own.
    """

    def __init__(self, mesh: Mesh | None):
        self.mesh = mesh
        self._visits = dict.fromkeys(TASKS, Visits(0, 0))
        self._lock = threading.Lock()  # devices call from threads of their own

    def call(self, task: str, row: Callable, shape: Any, rows: Bool[Array, " B"], *args: Any) -> Any:
        """See `call_host`. `task`: one of `TASKS`."""

        def count(number: int) -> None:
            with self._lock:
                calls, rows = self._visits[task]
                self._visits[task] = Visits(calls + 1, rows + number)

        return call_host(self.mesh, row, shape, rows, *args, count=count)

    def take_visits(self) -> dict[str, Visits]:
        """The visits since this was asked last."""
        with self._lock:
            visits, self._visits = self._visits, dict.fromkeys(TASKS, Visits(0, 0))
        return visits


def call_host(
    mesh: Mesh | None,
    row: Callable,
    shape: Any,
    rows: Bool[Array, " B"],
    *args: Any,
    count: Callable[[int], None],
) -> Any:
    """Calls `row(*arguments of the row)` on the host for each row in `rows`; other rows get zeros.

    Args:
        row: takes and returns NumPy values; it never touches JAX.
        shape: what it returns, a pytree of shapes of one row: `TokenEdits`, or a struct with them as its field `edits`.
        args: arrays that lead with B, or pytrees of them.
        count: is told for how many rows, whenever there are any.

    If `row` raises, the error is logged and the `count` of its edit says FAILED.
    """
    leaves = jax.tree.leaves(shape)
    tree: Any = jax.tree.structure(shape)
    failure = [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
    nothing = jax.tree.unflatten(tree, failure)
    edits = nothing if isinstance(nothing, TokenEdits) else nothing.edits
    edits.count[...] = FAILED
    # One array of int32 for everything: on TPUs a callback in a shard_map cannot return arrays of several ranks.
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def batch(rows: Array, *args: Any) -> np.ndarray:
        columns, argument_tree = jax.tree.flatten(args)
        asked, *columns = (np.asarray(a) for a in (rows, *columns))
        out = np.zeros((len(asked), sum(sizes)), np.int32)
        if asked.any():
            count(int(asked.sum()))
        for b in np.flatnonzero(asked):
            try:
                arguments = jax.tree.unflatten(argument_tree, [column[b] for column in columns])
                values = tree.flatten_up_to(row(*arguments))
            except Exception:
                log.exception("a row could not be read on the host; it goes to the rejects")
                values = failure
            for start, value in zip(starts, map(np.ravel, values), strict=True):
                out[b, start : start + len(value)] = value
        return out

    def local(rows: Array, *args: Any) -> Array:
        return jax.pure_callback(batch, jax.ShapeDtypeStruct((rows.shape[0], sum(sizes)), jnp.int32), rows, *args)

    call = local if mesh is None else jax.shard_map(local, mesh=mesh, in_specs=ROWS, out_specs=ROWS, check_vma=False)
    packed = call(rows, *args)
    parts = [
        packed[:, start : start + size].reshape(-1, *leaf.shape).astype(leaf.dtype)
        for start, size, leaf in zip(starts, sizes, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, parts)


class HostTokenizer:
    """Keeps one vocabulary's canonical tokens of the rows up to date, at most `width` tokens a call."""

    def __init__(self, retokenizer: Retokenizer, width: int = 64):
        self.retokenizer, self.width = retokenizer, width

    @property
    def shape(self) -> TokenEdits:
        """Shapes of the edit of one row."""
        return TokenEdits.shape(self.width)

    def step(self, text: UInt8[np.ndarray, " Y"], covered: int, target: int) -> TokenEdits:
        """From the canonical tokens of `text[:covered]` towards those of `text[:target]`."""
        data = text[: max(covered, target)].tobytes()
        edit = self.retokenizer.edit(data, int(covered), int(target))
        return self.pack(data, covered, target, edit)

    def pack(self, data: bytes, covered: int, target: int, edit: TokenEdit) -> TokenEdits:
        """`edit` in arrays of `width`; if it is too long, a shorter step in the same direction instead."""
        while len(edit.ids) > self.width:
            reached = [end for end in edit.ends[: self.width - 8] if covered < end < target]
            if not reached:
                raise ValueError(
                    f"{len(edit.ids)} tokens replace {edit.drop} from byte {covered} to {target}; limit {self.width}"
                )
            target = reached[-1]
            edit = self.retokenizer.edit(data, int(covered), target)
        return TokenEdits(edit.drop, edit.ids, edit.ends, len(edit.ids), int(target))
