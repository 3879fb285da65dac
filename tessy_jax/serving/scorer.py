"""How likely the model finds the tokens of texts: one pass over rows that hold several, with no cache.

It stands beside the engine's loop, in which nothing changes for it: prompts have logarithms too, and a text that nobody
asks about costs nothing. Memory is bounded: logits exist for a few tokens at a time.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.engine.sizes import shards
from tessy_jax.models import CausalLM, Packed
from tessy_jax.text_jax.arrays import Leaf

MOST = 20
"""Tokens of each place that are told at most. OpenAI's number."""

_CHUNK = 128
"""Tokens whose logits exist at the same time; rows are multiples of it."""
_ROW = 2048
"""Tokens of texts that share a row."""


class Question(NamedTuple):
    """Tokens of a text, and the first that is asked about; that has another before it."""

    ids: Int32[np.ndarray, " T"]
    begin: int


class Scores(NamedTuple):
    """Of the A tokens that were asked about, given those before them.

    Attributes:
        chosen: log p of each token.
        likeliest: log p of the likeliest in its place, in falling order; ids: which those are.
    """

    chosen: Float32[Leaf, "*A"]
    likeliest: Float32[Leaf, "*A K"]
    ids: Int32[Leaf, "*A K"]


class Rows(NamedTuple):
    """Texts side by side.

    Attributes:
        segments: number of each token's text in its row, from 1; 0: nothing is there.
        asked: the tokens whose next one is asked about.
    """

    tokens: Int32[Leaf, "B T"]
    positions: Int32[Leaf, "B T"]
    segments: Int32[Leaf, "B T"]
    asked: Bool[Leaf, "B T"]


class Scorer:
    """A model that reads texts. It may be called where the engine runs: in the same thread."""

    def __init__(self, model: LanguageModel, mesh: Mesh | None):
        self._params, self._ways = model.params, shards(mesh)
        graph, masks = model.graph, model.config.masks

        @jax.jit
        def read(params: Any, rows: Rows) -> Scores:
            merged = nnx.merge(graph, params)
            hidden, _ = merged(rows.tokens, rows.positions, Packed(rows.segments, masks, "blocks"))
            return _scores(merged, hidden, jnp.roll(rows.tokens, -1, axis=1), rows.asked)

        self._read = read

    def score(self, questions: Sequence[Question]) -> list[Scores]:
        """The answer to each. Rows are of 128 tokens, 256, and so on: a few compiled shapes read everything."""
        found: list[Scores] = []
        rows = list(_by_row(questions))
        for start in range(0, len(rows), self._ways):
            some = rows[start : start + self._ways]
            read = jax.tree.map(np.asarray, self._read(self._params, _side_by_side(some, self._ways)))
            for number, row in enumerate(some):
                end = 0
                for ids, begin in row:
                    places = slice(end + begin - 1, end + len(ids) - 1)
                    found.append(Scores(*(values[number, places] for values in read)))
                    end += len(ids)
        return found


def _by_row(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """The questions in their order; a text that is longer than a row has one of its own."""
    row: list[Question] = []
    for question in questions:
        if row and sum(len(each.ids) for each in row) + len(question.ids) > _ROW:
            yield row
            row = []
        row.append(question)
    if row:
        yield row


def _side_by_side(rows: Sequence[Sequence[Question]], many: int) -> Rows:
    """So many rows of the same length: a power of two."""
    longest = max(sum(len(question.ids) for question in row) for row in rows)
    shape = many, max(_CHUNK, 1 << (longest - 1).bit_length())
    found = Rows(
        np.zeros(shape, np.int32), np.full(shape, -1, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
    )
    for number, row in enumerate(rows):
        start = 0
        for segment, (ids, begin) in enumerate(row, 1):
            end = start + len(ids)
            found.tokens[number, start:end] = ids
            found.positions[number, start:end] = np.arange(len(ids))
            found.segments[number, start:end] = segment
            found.asked[number, start + begin - 1 : end - 1] = True
            start = end
    return found


def _scores(
    model: CausalLM, hidden: Float[Array, "B T D"], targets: Int[Array, "B T"], asked: Bool[Array, "B T"]
) -> Scores:
    """Of the targets; chunks in which nothing is asked are left out."""
    many = min(MOST, model.config.vocab_size)

    def chunk(part: tuple[Array, Array, Array]) -> Scores:
        hidden, targets, asked = part

        def read() -> Scores:
            logits = model.logits(hidden)
            whole = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
            likeliest, ids = jax.lax.top_k(logits, many)
            chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)
            return Scores((chosen - whole)[:, 0], likeliest - whole, ids)

        def nothing() -> Scores:
            none = jnp.zeros((_CHUNK, many), jnp.float32)
            return Scores(none[:, 0], none, none.astype(jnp.int32))

        return jax.lax.cond(jnp.any(asked), read, nothing)

    chunks = jax.tree.map(lambda a: a.reshape(-1, _CHUNK, *a.shape[2:]), (hidden, targets, asked))
    return jax.tree.map(lambda a: a.reshape(*targets.shape, *a.shape[2:]), jax.lax.map(chunk, chunks))
