"""Sampling against the oracle's NumPy, and random numbers that depend on what they should and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tessy_jax.cooperate.sampling import RowSettings, Sampling, row_key, uniforms
from tests.kit.oracle import draw

SETTINGS = [
    Sampling(0.0),
    Sampling(1.0),
    Sampling(0.7, top_k=5),
    Sampling(1.3, top_p=0.8),
    Sampling(0.9, min_p=0.1),
    Sampling(0.8, top_k=20, top_p=0.9, min_p=0.02),
    Sampling(1.0, top_k=1000, top_p=0.6),
]


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_tokens_are_the_oracles(how: Sampling) -> None:
    random = np.random.default_rng(3)
    logits = random.normal(size=(400, 97)).astype(np.float32) * 3
    logits[random.random(logits.shape) < 0.2] = -np.inf
    u = random.random(400).astype(np.float32)
    ours = np.asarray(how(jnp.asarray(logits), jnp.asarray(u)))
    theirs = [draw(row, how, float(x)) for row, x in zip(logits, u, strict=True)]
    assert ours.tolist() == theirs


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_numbers_at_the_edges_choose_no_forbidden_token(how: Sampling) -> None:
    """A number just below 1, and exactly 0, still choose an allowed token."""
    logits = np.full((2, 50), -np.inf, np.float32)
    logits[:, [7, 31]] = 0.0
    chosen = np.asarray(how(jnp.asarray(logits), jnp.asarray([0.0, np.nextafter(1, 0, dtype=np.float32)])))
    assert set(chosen.tolist()) <= {7, 31}


def test_rows_that_differ_choose_what_each_would_choose_alone() -> None:
    """By the oracle's NumPy, all settings side by side in one compiled program; also where values are equal."""
    random = np.random.default_rng(4)
    batch = 60 * len(SETTINGS)
    each = [SETTINGS[row % len(SETTINGS)] for row in range(batch)]
    logits = random.normal(size=(batch, 97)).astype(np.float32) * 3
    logits[random.random(logits.shape) < 0.2] = -np.inf
    u = random.random(batch).astype(np.float32)

    settings = RowSettings.empty(batch, 2)
    for row, how in enumerate(each):
        for name in ("temperature", "top_k", "top_p", "min_p"):
            getattr(settings, name)[row] = getattr(how, name)
    choose = jax.jit(RowSettings.choose)
    ours = np.asarray(choose(settings, jnp.asarray(logits), jnp.asarray(u)))
    assert ours.tolist() == [draw(row, how, float(x)) for row, how, x in zip(logits, each, u, strict=True)]

    coarse = np.round(logits)  # many tokens are as probable as each other: of those at the limit the first stay
    for how in (Sampling(0.7, top_k=5), Sampling(1.0), Sampling(0.0), Sampling(1.0, top_k=3, min_p=0.3)):
        rows = [row for row, other in enumerate(each) if other == how] or list(range(60))
        same = settings.replace(
            **{
                name: np.full(batch, getattr(how, name), getattr(settings, name).dtype)
                for name in ("temperature", "top_k", "top_p", "min_p")
            }
        )
        ours = np.asarray(choose(same, jnp.asarray(coarse), jnp.asarray(u)))
        assert ours[rows].tolist() == [draw(coarse[row], how, float(u[row])) for row in rows]


def test_random_numbers_are_functions_of_row_offset_and_author() -> None:
    keys = np.stack([row_key(0, "a", 0), row_key(0, "a", 1), row_key(1, "a", 0), row_key(0, "b", 0)])
    here = np.asarray(uniforms(jnp.asarray(keys), jnp.full(4, 10), 0))
    assert len(set(here.tolist())) == 4
    shuffled = np.asarray(uniforms(jnp.asarray(keys[::-1]), jnp.full(4, 10), 0))
    assert shuffled[::-1].tolist() == here.tolist()
    assert not set(here.tolist()) & set(np.asarray(uniforms(jnp.asarray(keys), jnp.full(4, 11), 0)).tolist())
    assert not set(here.tolist()) & set(np.asarray(uniforms(jnp.asarray(keys), jnp.full(4, 10), 1)).tolist())
