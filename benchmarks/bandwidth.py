"""Memory bandwidth: what this device reaches, and what one decode step of a model asks for."""

import timeit
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.models import Cache


def measure(mebibytes: int = 512, repeats: int = 10) -> dict[str, float]:
    """Bandwidth of one device in GB/s (1e9 bytes), best of `repeats`, by what is done with an array of this size.

    Programs differ in how well the compiler spreads them over the cores: compare with the best of the three.
    """
    width = 4096
    matrix = jnp.ones((mebibytes * 2**20 // (4 * width), width), jnp.float32)
    programs: dict[str, tuple[Callable[[jax.Array], jax.Array], int]] = {
        "sum": (lambda x: jnp.sum(x), 1),
        "copy": (lambda x: x + 1, 2),  # reads and writes
        "matrix times vector": (lambda x: x @ x[0], 1),
    }
    rates = {}
    for name, (function, passes) in programs.items():
        program = jax.jit(function)
        program(matrix).block_until_ready()
        names = {"program": program, "matrix": matrix}
        times = timeit.repeat("program(matrix).block_until_ready()", globals=names, number=1, repeat=repeats)
        rates[name] = passes * matrix.nbytes / min(times) / 1e9
    return rates


def step_bytes(model: LanguageModel, cache: Cache, length: int | None = None) -> tuple[int, int]:
    """Bytes that one decode step of the whole batch has to read: (weights, cache slots in use).

    An embedding matrix that is not also the output matrix is left out: a step reads a few of its rows. `length`: tokens
    of each row; None: as many as there is room for.
    """
    leaves = jax.tree.leaves(model.params)
    weights = sum(leaf.nbytes for leaf in leaves)
    if not model.config.tie_word_embeddings:
        weights -= model.config.vocab_size * model.config.hidden_size * leaves[0].dtype.itemsize
    slots = 0.0
    for layer in cache.layers:
        rows = len(layer.k) if cache.table is None else len(cache.table)
        used = cache.in_use(layer, length or cache.length, rows)
        slots += used * sum(x.nbytes for x in (layer.k, layer.v, layer.k_scale, layer.v_scale) if x is not None)
    return weights, round(slots)
