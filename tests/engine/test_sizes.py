"""What a forward pass reads, by hand."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tessy_jax.engine.sizes import pass_bytes


@dataclasses.dataclass
class Config:
    tie_word_embeddings: bool
    expert_share: float = 0.25


def model(tied: bool) -> Any:
    """400 bytes of an embedding table, 100 of a layer, and experts of 1,000, of which a token goes to a quarter."""
    sizes = {("embed_tokens", "weight"): 400, ("layers", "q_proj", "weight"): 100, ("layers", "experts", "up"): 1000}
    params = {path: nnx.Param(jax.ShapeDtypeStruct((size,), jnp.int8)) for path, size in sizes.items()}
    return SimpleNamespace(params=nnx.from_flat_state(params), config=Config(tied))


@pytest.mark.parametrize(
    ("tied", "rows", "read"),
    [(False, 1, 100 + 250), (True, 1, 400 + 100 + 250), (False, 2, 100 + 1000 * (1 - 0.75**2)), (False, 99, 1100)],
)
def test_bytes_of_a_pass(tied: bool, rows: int, read: float) -> None:
    assert pass_bytes(model(tied), rows) == pytest.approx(read)
