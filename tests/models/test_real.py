"""The demo's real weights against transformers (torch): prefill, chunks, decode by row, past the window.

The reference is torch in float64 on the same float32 weights; its norms and rotary tables stay float32. Float32 rounds
differently on every processor: with AVX2 alone torch's float32 logits of SmolLM2 (they reach 35) are 1.0e-4 away from
its float64 ones, with AVX-512 less. So ours may be 1e-4 away, or four times as far as torch's are in the same run.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from tessy_jax import models
from tests.kit import ROOT

BOUND = 1e-4
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
LENGTHS = {"smollm2-135m-instruct": 96, "gemma3-270m": 560}  # Gemma's window is 512, its ring here 512 + 24


class Both:
    """One checkpoint in both libraries, the tokens of a long text, and torch's logits for them."""

    def __init__(self, folder: Path):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ids = tokenizer(TEXT).input_ids[: LENGTHS[folder.name]]
        self.tokens = np.array(ids, np.int32)
        with torch.no_grad():
            reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            single = reference(torch.tensor([ids])).logits[0].numpy()
            self.logits = reference.double()(torch.tensor([ids])).logits[0].numpy()
        rounding = float(np.abs(single - self.logits).max())
        print(f"torch, float32: max |Δlogit| = {rounding:.2e}")
        self.bound = max(BOUND, 4 * rounding)
        self.model = models.load(folder)
        graph, self.params = nnx.split(self.model)

        def forward(params: Any, tokens: jax.Array, positions: jax.Array, cache: models.Cache) -> tuple[jax.Array, Any]:
            model = nnx.merge(graph, params)
            hidden, cache = model(tokens, positions, cache)
            return model.logits(hidden), cache

        self.forward = jax.jit(forward, donate_argnames="cache")

    def cache(self, rows: int) -> models.Cache:
        return models.init_cache(self.model.config, rows, 1024, 24)


@pytest.fixture(scope="module", params=list(LENGTHS))
def both(request: pytest.FixtureRequest, demo_weights: Path) -> Both:
    return Both(demo_weights / request.param)


def close(what: str, ours: jax.Array, theirs: np.ndarray, bound: float) -> None:
    worst = float(np.abs(np.asarray(ours) - theirs).max())
    print(f"{what}: max |Δlogit| = {worst:.2e}, bound {bound:.2e}")
    assert worst <= bound


def test_chunks_past_the_window(both: Both) -> None:
    """The whole text, 16 tokens at a time; the last chunk is padded."""
    cache, worst = both.cache(1), []
    for start in range(0, len(both.tokens), 16):
        some = both.tokens[start : start + 16]
        pad = 16 - len(some)
        positions = np.pad(np.arange(start, start + len(some)), (0, pad), constant_values=-1)
        logits, cache = both.forward(both.params, np.pad(some, (0, pad))[None], positions[None], cache)
        worst.append(np.abs(np.asarray(logits[0, : len(some)]) - both.logits[start : start + len(some)]).max())
    close("chunks", jnp.asarray(max(worst)), np.zeros(()), both.bound)


def test_prefill_and_decode_by_row(both: Both) -> None:
    """Two rows of different lengths: one prefill, then one token at a time at each row's own position."""
    lengths = np.array([24, 9])
    index = np.arange(24)
    positions = np.where(index < lengths[:, None], index, -1)
    logits, cache = both.forward(both.params, np.tile(both.tokens[:24], (2, 1)), positions, both.cache(2))
    for row, length in enumerate(lengths):
        close("prefill", logits[row, :length], both.logits[:length], both.bound)
    for step in range(8):
        at = lengths + step
        logits, cache = both.forward(both.params, both.tokens[at][:, None], at[:, None], cache)
        close("decode", logits[:, 0], both.logits[at], both.bound)
