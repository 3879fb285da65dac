"""Models on 8 (virtual) devices compute what they compute on one; what does not divide is said readably."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from tessy_jax import models
from tessy_jax.models import sharding
from tessy_jax.models.by_length import BLOCKS
from tessy_jax.models.sharding import Dim
from tests.kit import tiny

B, T = 4, 12


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches as short as these are looked at in several blocks of slots."""
    monkeypatch.setitem(BLOCKS, "cpu", 5)


def mesh_of(**axes: int) -> Any:
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


@pytest.fixture(autouse=True)
def _eight_devices() -> None:
    assert jax.device_count() >= 8, "XLA_FLAGS=--xla_force_host_platform_device_count=8"


def run(model: Any, mesh: Any, rules: Any) -> tuple[np.ndarray, Any]:
    """Logits of two chunks through the cache, and the cache."""
    graphdef, params = nnx.split(model)
    cache = models.init_cache(model.config, B, T, slack=8, mesh=mesh, rules=rules)

    @jax.jit
    def step(params: Any, tokens: Any, positions: Any, cache: Any) -> Any:
        model = nnx.merge(graphdef, params)
        hidden, cache = model(tokens, positions, cache)
        return (model.scores if model.config.labels else model.logits)(hidden), cache

    out = []
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (B, T))
    for start in range(0, T, 6):
        positions = jnp.broadcast_to(jnp.arange(start, start + 6), (B, 6))
        logits, cache = step(params, jnp.asarray(tokens[:, start : start + 6]), positions, cache)
        out.append(np.asarray(logits))
    return np.concatenate(out, axis=1), cache


@pytest.mark.parametrize("rules", [models.INFERENCE, models.TRAINING], ids=["inference", "training"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_classifier"])
def test_a_mesh_changes_nothing(tmp_path: Path, family: str, rules: Any) -> None:
    getattr(tiny, family)(tmp_path, vocab_size=90)
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    one, _ = run(models.load(tmp_path), None, rules)
    model = models.load(tmp_path, mesh=mesh, rules=rules)
    split, cache = run(model, mesh, rules)
    difference = np.abs(split - one).max()
    print(f"{family}: max |difference| {difference:.1e}")
    assert difference <= 1e-4
    embed = "fsdp" if rules is models.TRAINING else None
    weights = models.named_parameters(model)
    shardings = {
        n: w.sharding.spec
        for n, w in weights.items()
        if n.endswith(("0.self_attn.o_proj.weight", "0.mlp.up_proj.weight"))
    }
    assert [*map(tuple, shardings.values())] == [("tensor", embed), (embed, "tensor")] or [
        *map(tuple, shardings.values())
    ] == [(embed, "tensor"), ("tensor", embed)]
    assert cache.layers[0].k.sharding.is_equivalent_to(
        jax.NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "tensor")), 4
    )


@pytest.mark.parametrize(
    ("family", "axes"),
    [
        ("qwen3_moe", {"fsdp": 2, "tensor": 2, "expert": 2}),
        ("qwen3_moe", {"data": 4, "expert": 2}),
        ("qwen3_moe", {"expert": 3, "tensor": 2}),  # 6 experts divide over both
        ("gpt_oss", {"fsdp": 2, "tensor": 2}),
        ("gpt_oss", {"fsdp": 2, "tensor": 2, "expert": 2}),
        ("deepseek_v3", {"fsdp": 2, "tensor": 2, "expert": 2}),
    ],
    ids=str,
)
def test_experts_on_a_mesh(tmp_path: Path, family: str, axes: dict[str, int]) -> None:
    """Experts and their width are split; logits, and with the rules of training gradients, are those of one device."""
    getattr(tiny, family)(tmp_path, vocab_size=90)
    mesh = mesh_of(**axes)
    alone, model = models.load(tmp_path), models.load(tmp_path, mesh=mesh)
    difference = np.abs(run(model, mesh, models.INFERENCE)[0] - run(alone, None, models.INFERENCE)[0]).max()
    print(f"{family} on {axes}: max |difference| {difference:.1e}")
    assert difference <= 1e-4
    experts = {n: p for n, p in models.named_parameters(model).items() if ".mlp.experts." in n}
    assert experts
    whole = axes.get("expert", 1) * axes.get("tensor", 1) in (2, 6)
    split_over = tuple(axis for axis in ("expert", "tensor") if axis in axes and (whole or axis == "expert"))
    assert {p.sharding.spec[0] for p in experts.values()} == {split_over if len(split_over) > 1 else split_over[0]}
    one, split = gradient(alone), gradient(models.load(tmp_path, mesh=mesh, rules=models.TRAINING))
    for name, value in one.items():
        np.testing.assert_allclose(split[name], value, atol=1e-5 * np.abs(value).max(), err_msg=name)


def gradient(model: Any) -> dict[str, np.ndarray]:
    """Of the mean square of the last hidden states, by parameter."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, model.config.vocab_size, (B, T)))
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    graphdef, params = nnx.split(model)
    packed = models.Packed(jnp.zeros((B, T), int), model.config.masks)

    def loss(params: Any) -> Any:
        return jnp.square(nnx.merge(graphdef, params)(tokens, positions, packed)[0]).mean()

    found = nnx.merge(graphdef, jax.jit(jax.grad(loss))(params))
    return {name: np.asarray(value) for name, value in models.named_parameters(found).items()}


def test_experts_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    tiny.qwen3_moe(tmp_path)
    with pytest.raises(models.ShardingError) as error:
        models.load(tmp_path, mesh=mesh_of(expert=4))
    assert str(error.value) == (
        "model.layers.0.mlp.experts.down_proj.weight: dimension 0 (6 experts) does not divide over mesh axis 'expert' "
        "of size 4. Use a size of 1, 2, 3 or 6."
    )


def test_key_value_heads_that_do_not_divide_are_replicated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.qwen3(tmp_path, vocab_size=88)
    mesh = mesh_of(data=2, tensor=4)
    sharding._warn_replicated.cache_clear()  # it is said once a process, and other tests may have come before
    with caplog.at_level(logging.WARNING):
        model = models.load(tmp_path, mesh=mesh)
    assert caplog.messages == ["2 key/value heads do not divide over mesh axis 'tensor' of size 4: replicating them."]
    assert models.named_parameters(model)["model.layers.0.self_attn.k_proj.weight"].sharding.is_fully_replicated
    one, _ = run(models.load(tmp_path), None, models.INFERENCE)
    split, cache = run(model, mesh, models.INFERENCE)
    assert np.abs(split - one).max() <= 1e-4
    for layer in cache.layers:  # but a device remembers only the head that its queries look at
        assert layer.k.sharding.shard_shape(layer.k.shape)[:2] == (B // 2, 1)


def test_a_random_model_does_not_depend_on_the_mesh(tmp_path: Path) -> None:
    tiny.llama(tmp_path, vocab_size=90)
    config = models.read_config(tmp_path)
    one = models.named_parameters(models.from_config(config, jax.random.key(3)))
    split = models.named_parameters(
        models.from_config(config, jax.random.key(3), mesh=mesh_of(fsdp=2, tensor=2), rules=models.TRAINING)
    )
    for name, value in one.items():
        np.testing.assert_array_equal(value, split[name], err_msg=name)


def test_what_does_not_divide_is_refused(tmp_path: Path) -> None:
    tiny.llama(tmp_path, num_attention_heads=9, num_key_value_heads=3, hidden_size=36, vocab_size=90)
    with pytest.raises(models.ShardingError) as error:
        models.load(tmp_path, mesh=mesh_of(tensor=2))
    assert str(error.value) == (
        "model.layers.0.self_attn.o_proj.weight: dimension 1 (9 heads) does not divide over mesh axis 'tensor' of "
        "size 2. Use a size of 1, 3 or 9."
    )
    rules = models.INFERENCE.replace(heads=(), kv_heads=())
    one, _ = run(models.load(tmp_path), None, rules)
    split, _ = run(models.load(tmp_path, mesh=mesh_of(tensor=2), rules=rules), mesh_of(tensor=2), rules)
    assert np.abs(split - one).max() <= 1e-4
    with pytest.raises(models.ShardingError) as error:
        models.init_cache(models.read_config(tmp_path), 3, T, 4, mesh=mesh_of(data=2, fsdp=2))
    assert str(error.value) == (
        "cache: dimension 0 (3 batch) does not divide over mesh axis 'data*fsdp' of size 4. Use a size of 1 or 3."
    )


def test_one_mesh_axis_twice_is_refused() -> None:
    rules = models.INFERENCE.replace(embed=("tensor",))
    with pytest.raises(models.ShardingError) as error:
        models.sharding_for(mesh_of(tensor=2), rules, (Dim(4, "ff"), Dim(6, "embed")), "w")
    assert str(error.value) == (
        "w: the rules split two of its dimensions over mesh axis 'tensor'. Map 'embed' to another axis."
    )


def test_a_decode_step_communicates_sums_only(tmp_path: Path) -> None:
    """Cache writes stay on their device; per block there is one sum after attention and one after the MLP."""
    tiny.llama(tmp_path, vocab_size=90)
    mesh = mesh_of(data=2, tensor=2)
    model = models.load(tmp_path, mesh=mesh)
    graphdef, params = nnx.split(model)
    cache = models.init_cache(model.config, B, T, slack=8, mesh=mesh)
    tokens = jax.device_put(jnp.zeros((B, 1), jnp.int32), jax.NamedSharding(mesh, PartitionSpec("data")))

    def step(params: Any, tokens: Any, cache: Any) -> Any:
        model = nnx.merge(graphdef, params)
        hidden, cache = model(tokens, tokens, cache)
        return model.logits(hidden), cache

    compiled = jax.jit(step, donate_argnums=2).lower(params, tokens, cache).compile()
    text = compiled.as_text()
    assert [text.count(f" {op}(") for op in ("all-gather", "all-to-all", "collective-permute")] == [0, 0, 0]
    assert text.count(" all-reduce(") == 1 + 2 * model.config.num_hidden_layers  # 1: embedding rows
    # The donated cache is updated in place.
    size = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(cache))
    assert compiled.memory_analysis().alias_size_in_bytes >= size
