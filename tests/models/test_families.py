"""Every family against transformers (torch, CPU, float32), whatever the order in which tokens are fed.

A schedule is a list of chunks; a chunk is the [B, C] positions to feed, -1 for padding. However a schedule cuts or
delays the text, the logits at a position must be those of transformers' forward pass over the whole text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tessy_jax import models
from tessy_jax.models.by_length import BLOCKS
from tests.kit import tiny
from tests.kit.products import float32_products

B, T = 2, 40
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches as short as these are looked at in several blocks of slots."""
    monkeypatch.setitem(BLOCKS, "cpu", 16)


@dataclass
class Pair:
    """A checkpoint in transformers and here; `call` is compiled once per chunk and cache size."""

    name: str
    torch_model: Any
    model: Any
    tokens: np.ndarray
    expected: np.ndarray

    def __post_init__(self) -> None:
        graphdef, self.params = nnx.split(self.model)

        def call(params: Any, tokens: Any, positions: Any, cache: Any) -> Any:
            model = nnx.merge(graphdef, params)
            hidden, cache = model(tokens, positions, cache)
            head = model.scores if isinstance(model, models.TokenClassifier) else model.logits
            return head(hidden), cache

        self.call = jax.jit(call)

    def feed(self, cache: Any, positions: np.ndarray, wrong: bool = False) -> tuple[np.ndarray, Any]:
        """Feed the text's tokens at these positions (or other tokens instead): logits and cache."""
        tokens = np.take_along_axis(self.tokens, np.maximum(positions, 0), axis=1)
        if wrong:
            tokens = (tokens + 1) % self.model.config.vocab_size
        logits, cache = self.call(self.params, jnp.asarray(tokens), jnp.asarray(positions, jnp.int32), cache)
        return np.asarray(logits), cache

    def check(self, logits: np.ndarray, positions: np.ndarray) -> float:
        """The largest difference from transformers at these positions."""
        assert np.isfinite(logits).all()  # padding too
        real = positions >= 0
        expected = np.take_along_axis(self.expected, np.maximum(positions, 0)[:, :, None], axis=1)
        return float(np.abs(logits - expected)[real].max(initial=0))

    def replay(self, schedule: list[np.ndarray], slack: int) -> float:
        """Feed a schedule that covers the text; the largest difference from transformers."""
        cache = models.init_cache(self.model.config, B, T, slack)
        worst = 0.0
        for positions in schedule:
            logits, cache = self.feed(cache, positions)
            worst = max(worst, self.check(logits, positions))
        assert all(set(range(T)) <= set(np.concatenate([c[row] for c in schedule])) for row in range(B))
        print(f"{self.name}: max |difference| {worst:.1e} over {len(schedule)} chunks")
        return worst


@pytest.fixture(
    scope="module",
    params=["llama", "gemma3", "qwen3", "qwen3_classifier", "qwen2", "qwen3_moe", "gpt_oss", "deepseek_v3"],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    torch_model = getattr(tiny, request.param)(folder)
    model = models.load(folder)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (B, T))
    with torch.no_grad():
        expected = torch_model(torch.tensor(tokens)).logits.numpy()
    assert expected.std() > 0.5  # the comparison is worth something
    return Pair(request.param, torch_model, model, tokens, expected)


def ragged(chunk: int, seed: int) -> Iterator[np.ndarray]:
    """Chunks in which every row takes a random number of tokens, at its own pace, with padding at random places."""
    rng = np.random.default_rng(seed)
    fed = np.zeros(B, int)
    while (fed < T).any():
        positions = np.full((B, chunk), -1)
        for row in range(B):
            n = min(rng.integers(0, chunk + 1), T - fed[row])
            where = np.sort(rng.choice(chunk, n, replace=False))
            positions[row, where] = fed[row] + np.arange(n)
            fed[row] += n
        yield positions


def test_float32_is_multiplied_in_float32(pair: Pair) -> None:
    """On every platform: JAX's default on GPUs is TF32, on TPUs bfloat16, and no test here would notice."""
    cache = models.init_cache(pair.model.config, B, T, 3)
    positions = jnp.zeros((B, 3), jnp.int32)
    assert float32_products(pair.call, pair.params, positions, positions, cache) == []


def test_prefill_in_one_go(pair: Pair) -> None:
    positions = np.broadcast_to(np.arange(T), (B, T))
    assert pair.replay([positions], slack=T) <= TOLERANCE


def test_token_by_token_with_rows_at_different_positions(pair: Pair) -> None:
    """Row 1 starts 7 tokens later; the text is far longer than Gemma's window (7) and ring (7 + 9)."""
    delay = np.array([[0], [7]])
    steps = [np.full((B, 1), t) - delay for t in range(T + 7)]
    steps = [np.where((s >= 0) & (s < T), s, -1) for s in steps]
    assert pair.replay(steps, slack=9) <= TOLERANCE


def test_ragged_chunks(pair: Pair) -> None:
    assert pair.replay(list(ragged(5, seed=5)), slack=9) <= TOLERANCE


def test_rollback_leaves_no_trace(pair: Pair) -> None:
    """Up to 4 wrong tokens are generated after every chunk and forgotten: nothing changes, also past the ring."""
    cache = models.init_cache(pair.model.config, B, T, slack=5 + 4)
    worst = 0.0
    for positions in ragged(5, seed=7):
        logits, cache = pair.feed(cache, positions)
        worst = max(worst, pair.check(logits, positions))
        end = np.maximum(positions.max(axis=1, keepdims=True), -1)
        for step in range(1, 5):
            ahead = np.where((end >= 0) & (end + step < T), end + step, -1)
            _, cache = pair.feed(cache, ahead, wrong=True)
    print(f"{pair.name}: max |difference| {worst:.1e}")
    assert worst <= TOLERANCE


def test_pages_out_of_order_that_another_row_had(pair: Pair) -> None:
    """Each page has held other tokens of the other row before."""
    order = np.random.default_rng(3).permutation(10).reshape(B, 5).astype(np.int32)
    cache = models.init_cache(pair.model.config, B, T, slack=9, pool=models.Pool(pages=10, page=8))
    assert any(layer.paged for layer in cache.layers)
    cache = cache.with_table(jnp.asarray(order[::-1, ::-1]))
    for start in range(0, T, 5):
        _, cache = pair.feed(cache, np.broadcast_to(start + np.arange(5), (B, 5)), wrong=True)
    cache, worst = cache.with_table(jnp.asarray(order)), 0.0
    for positions in ragged(5, seed=9):
        logits, cache = pair.feed(cache, positions)
        worst = max(worst, pair.check(logits, positions))
    assert worst <= TOLERANCE


def test_rollback_equals_never_generated_bit_for_bit(pair: Pair) -> None:
    clean = models.init_cache(pair.model.config, B, T, slack=9)
    for start in range(0, 30, 5):
        _, clean = pair.feed(clean, np.broadcast_to(np.arange(start, start + 5), (B, 5)))
    dirty = clean
    for step in range(4):
        _, dirty = pair.feed(dirty, np.full((B, 1), 30 + step), wrong=True)
    positions = np.broadcast_to(np.arange(30, 35), (B, 5))
    np.testing.assert_array_equal(pair.feed(dirty, positions)[0], pair.feed(clean, positions)[0])


def test_block_context(pair: Pair) -> None:
    """`Blocks(6)` in a ring of 2 * 6 + 9 slots, chunks of 5, equals torch with an explicit mask."""
    block = 6
    i, j = np.arange(T)[:, None], np.arange(T)[None, :]
    seen = (j <= i) & (j >= np.maximum(0, (i // block - 1) * block))
    mask = torch.tensor(np.where(seen, 0.0, np.finfo(np.float32).min), dtype=torch.float32).expand(B, 1, T, T)
    masks: Any = mask
    if pair.name == "gemma3":
        masks = {"full_attention": mask, "sliding_attention": mask}
    with torch.no_grad():
        expected = pair.torch_model(torch.tensor(pair.tokens), attention_mask=masks).logits.numpy()
    cache = models.init_cache(pair.model.config, B, T, slack=9, mask=models.Blocks(block))
    assert {layer.k.shape[2] for layer in cache.layers} == {2 * block + 9}
    got = np.zeros_like(expected)
    for positions in ragged(5, seed=11):
        logits, cache = pair.feed(cache, positions)
        for row in range(B):
            real = positions[row] >= 0
            got[row, positions[row][real]] = logits[row, real]
    difference = np.abs(got - expected).max()
    print(f"{pair.name}: max |difference| {difference:.1e}")
    assert difference <= TOLERANCE
    assert np.abs(pair.expected - expected).max() > 0.01  # the mask did something


def test_packed_documents_do_not_see_each_other(pair: Pair) -> None:
    """Two documents in one row (the second starts at 15, positions restart) as if each were alone."""
    cut = 15
    positions = np.broadcast_to(np.r_[:cut, : T - cut], (B, T))
    segments = jnp.asarray(np.broadcast_to((np.arange(T) >= cut).astype(int), (B, T)))
    packed = models.Packed(segments, pair.model.config.masks)
    got, _ = pair.call(pair.params, jnp.asarray(pair.tokens), jnp.asarray(positions), packed)
    with torch.no_grad():
        second = pair.torch_model(torch.tensor(pair.tokens[:, cut:])).logits.numpy()
    expected = np.concatenate([pair.expected[:, :cut], second], axis=1)
    assert np.abs(np.asarray(got) - expected).max() <= TOLERANCE


def test_a_chunk_too_large_for_the_ring_is_refused(pair: Pair) -> None:
    cache = models.init_cache(pair.model.config, B, T, slack=4, mask=models.Sliding(7))
    message = (
        r"a chunk of 5 tokens does not fit the cache of layer 0 \(Sliding\(window=7\), 11 slots\): feed at most 4 at a "
        r"time, or call init_cache with slack >= chunk \+ deepest rollback\."
    )
    with pytest.raises(ValueError, match=f"^{message}"):
        pair.feed(cache, np.broadcast_to(np.arange(5), (B, 5)))


def test_rematerialised_blocks_give_the_same_gradient(pair: Pair) -> None:
    """`apply=jax.checkpoint(call_block)` is how a train step recomputes activations."""
    graphdef, params = nnx.split(pair.model)
    packed = models.Packed(jnp.zeros((B, T), int), pair.model.config.masks)
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))

    def loss(params: Any, apply: Any) -> Any:
        hidden, _ = nnx.merge(graphdef, params)(jnp.asarray(pair.tokens), positions, packed, apply)
        return jnp.square(hidden).sum() / 1000

    plain = jax.jit(jax.grad(lambda p: loss(p, models.call_block)))(params)
    remat = jax.jit(jax.grad(lambda p: loss(p, jax.checkpoint(models.call_block))))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, remat)


def test_latent_attention_in_its_other_forms(tmp_path: Path) -> None:
    """Queries straight from the hidden state, halves instead of neighbours, biases, no scaling; block by block."""
    rope = {"rope_type": "default", "rope_theta": 100.0}
    changes = {"q_lora_rank": None, "rope_interleave": False, "attention_bias": True, "rope_parameters": rope}
    torch_model = tiny.deepseek_v3(tmp_path, **changes)
    graphdef, params = nnx.split(models.load(tmp_path))
    tokens = np.random.default_rng(1).integers(0, 86, (B, T))

    @jax.jit
    def logits(params: Any) -> Any:
        model = nnx.merge(graphdef, params)
        packed = models.Packed(jnp.zeros((B, T), int), model.config.masks, "blocks")
        return model.logits(model(jnp.asarray(tokens), jnp.broadcast_to(jnp.arange(T), (B, T)), packed)[0])

    with torch.no_grad():
        expected = torch_model(torch.tensor(tokens)).logits.numpy()
    difference = np.abs(np.asarray(logits(params)) - expected).max()
    print(f"max |difference| {difference:.1e}")
    assert difference <= TOLERANCE
