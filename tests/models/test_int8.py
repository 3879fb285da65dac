"""Int8 weights are what rounding the rows says, on one device and on a mesh; int8 caches are near the exact ones."""

import dataclasses
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
from tessy_jax.models.formats.mx import Mxfp4, Mxint8
from tessy_jax.models.sharding import Dim
from tests.kit import tiny
from tests.models.test_mesh import mesh_of, run
from tests.models.test_mxfp4 import matrices

KEPT = ("embed_tokens", "lm_head", "norm", "bias", "mlp.gate.weight", "router", "score")
"""What is never in 8 bits."""


def rounded(rows: np.ndarray) -> np.ndarray:
    """Rows as int8 times a scale, computed anew."""
    rows = rows.astype(np.float32)
    out = np.empty_like(rows)
    for i in np.ndindex(rows.shape[:-1]):
        scale = np.float32(max(abs(float(x)) for x in rows[i])) / np.float32(127)
        out[i] = np.round(rows[i] / scale) * scale
    return out


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe"])
def test_logits_are_those_of_rounded_weights(tmp_path: Path, family: str) -> None:
    torch_model = getattr(tiny, family)(tmp_path, vocab_size=90)
    model = models.load(tmp_path, int8=True)
    matrices = {n: p for n, p in models.named_parameters(model).items() if p.dtype == jnp.int8}
    assert matrices
    for name in matrices:
        assert name.endswith("proj.weight")
        assert not any(part in name for part in KEPT)
    with torch.no_grad():
        for name, weight in torch_model.named_parameters():
            if not any(part in name for part in KEPT):
                weight.copy_(torch.from_numpy(rounded(weight.numpy())))
    got, _ = run(model, None, models.INFERENCE)
    tokens = np.random.default_rng(0).integers(0, 90, got.shape[:2])
    with torch.no_grad():
        expected = torch_model(torch.tensor(tokens)).logits.numpy()
    difference = np.abs(got - expected).max()
    print(f"{family}: max |difference| {difference:.1e}")
    assert difference <= 1e-4
    exact, _ = run(models.load(tmp_path), None, models.INFERENCE)
    assert np.abs(exact - expected).max() > 1e-2  # the rounding did something


def test_a_mesh_changes_nothing(tmp_path: Path) -> None:
    tiny.qwen3_moe(tmp_path, vocab_size=90)
    mesh = mesh_of(fsdp=2, tensor=2, expert=2)
    one, _ = run(models.load(tmp_path, int8=True), None, models.INFERENCE)
    model = models.load(tmp_path, int8=True, mesh=mesh)
    assert np.abs(run(model, mesh, models.INFERENCE)[0] - one).max() <= 1e-4
    down = models.named_parameters(model)["model.layers.0.mlp.experts.down_proj.weight"]
    assert down.addressable_shards[0].data.shape == (3, 22, 9)  # its rows were made whole, and then cut


def test_they_are_not_stored(tmp_path: Path) -> None:
    tiny.qwen3(tmp_path / "in")
    with pytest.raises(models.WeightsError) as error:
        models.save_hf(models.load(tmp_path / "in", int8=True), tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path / 'out'}: cannot store int8 weights made while loading; load the model without int8."
    )


def test_a_random_model_is_of_the_usual_size(tmp_path: Path) -> None:
    tiny.qwen3(tmp_path)
    config = dataclasses.replace(models.read_config(tmp_path), int8=True)
    parameters = models.named_parameters(models.from_config(config, jax.random.key(0)))
    name = "model.layers.0.mlp.up_proj"
    std = float(np.std(np.asarray(parameters[f"{name}.weight"]) * np.asarray(parameters[f"{name}.scale"])[:, None]))
    assert std == pytest.approx(0.02, rel=0.1)


def test_released_experts_keep_their_values(tmp_path: Path) -> None:
    """GPT-OSS's experts from 4 bits into 8: exactly what they were."""
    tiny.gpt_oss_mxfp4(tmp_path)
    packed, model = models.load(tmp_path), models.load(tmp_path, int8=True)
    parameters = models.named_parameters(model)
    for kind in ("gate_up_proj", "down_proj"):
        name = f"model.layers.1.mlp.experts.{kind}"
        four = (models.named_parameters(packed)[f"{name}_{part}"] for part in ("blocks", "scales"))
        eight = (parameters[f"{name}_{part}"] for part in ("blocks", "scales"))
        assert parameters[f"{name}_blocks"].dtype == jnp.int8
        for got, expected in zip(matrices(Mxint8(packed=True), *eight), matrices(Mxfp4(), *four), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("packed", [True, False])
def test_experts_in_groups(tmp_path: Path, packed: bool) -> None:
    """Those of GPT-OSS, from either kind of checkpoint: as if torch had their values, and the same on a mesh."""
    if packed:
        torch_model = tiny.gpt_oss_mxfp4(tmp_path, vocab_size=92)
    else:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1}
        torch_model = tiny.gpt_oss(tmp_path, vocab_size=92, **sizes)
    model = models.load(tmp_path, int8=True)
    parameters = models.named_parameters(model)
    with torch.no_grad():
        for name, weight in torch_model.named_parameters():
            if name.endswith(("gate_up_proj", "down_proj")):
                stored = (parameters[f"{name}_{part}"] for part in ("blocks", "scales"))
                weight.copy_(torch.from_numpy(np.array(matrices(Mxint8(packed), *stored))))
            elif not any(part in name for part in (*KEPT, "sinks")):
                weight.copy_(torch.from_numpy(rounded(weight.numpy())))
        got, _ = run(model, None, models.INFERENCE)
        tokens = np.random.default_rng(0).integers(0, 92, got.shape[:2])
        expected = torch_model(torch.tensor(tokens)).logits.numpy()
    difference = np.abs(got - expected).max()
    print(f"gpt_oss in 8 bits, packed {packed}: max |difference| {difference:.1e}")
    assert difference <= 1e-4
    mesh = mesh_of(fsdp=2, tensor=2, expert=2)
    split = models.load(tmp_path, int8=True, mesh=mesh)
    assert np.abs(run(split, mesh, models.INFERENCE)[0] - got).max() <= 1e-4
    for name, value in models.named_parameters(split).items():
        np.testing.assert_array_equal(value, parameters[name], err_msg=name)


def test_floats_are_rounded_to_groups() -> None:
    """No number is off by more than half a step, a 64th of its group's power of two; zeros stay zeros."""
    floats = np.random.default_rng(0).normal(size=(2, 96, 5)).astype(np.float32) * np.float32(1e-3)
    floats[:, 32:64] = 0
    blocks, scales = (
        parameter.get_metadata()["derived_from"]([floats], (slice(None),) * 3)
        for parameter in Mxint8(packed=False).matrices("w", Dim(2), Dim(5), Dim(96))
    )
    got = np.asarray(matrices(Mxint8(packed=False), jnp.asarray(blocks), jnp.asarray(scales)))
    largest = np.abs(floats.reshape(2, 3, 32, 5)).max(axis=2, keepdims=True)
    step = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1)))) / 64
    off = np.abs(got - floats).reshape(2, 3, 32, 5)
    assert np.all(off <= 1.01 * step)  # 127.6 steps are 127, all else is half a step
    assert np.mean(off[:, ::2] <= step[:, ::2] / 2) > 0.99
    assert not got[:, 32:64].any()


def test_a_width_without_groups_is_refused(tmp_path: Path) -> None:
    tiny.gpt_oss(tmp_path)
    with pytest.raises(models.ModelConfigError, match="hidden_size is 26; packed experts need a multiple of 32"):
        models.load(tmp_path, int8=True)


@pytest.mark.parametrize("family", ["gpt_oss", "deepseek_v3"])
def test_a_cache_in_8_bits(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are near those of a float32 cache, also past the window, and what was rolled back leaves no trace."""
    monkeypatch.setitem(BLOCKS, "cpu", 7)
    getattr(tiny, family)(tmp_path, vocab_size=90, initializer_range=0.1)
    model = models.load(tmp_path)
    graphdef, params = nnx.split(model)
    tokens = np.random.default_rng(0).integers(0, 90, (2, 24))

    @jax.jit
    def step(params: Any, tokens: Any, positions: Any, cache: Any) -> Any:
        model = nnx.merge(graphdef, params)
        hidden, cache = model(tokens, positions, cache)
        return model.logits(hidden), cache

    def write(dtype: Any, detour: bool) -> np.ndarray:
        cache, out = models.init_cache(model.config, 2, 24, 9, dtype), []
        for start in range(0, 24, 4):
            positions = jnp.broadcast_to(jnp.arange(start, start + 4), (2, 4))
            if detour:
                _, cache = step(params, (tokens[:, start : start + 4] + 1) % 90, positions, cache)
            logits, cache = step(params, tokens[:, start : start + 4], positions, cache)
            out.append(np.asarray(logits))
        sizes = {(x.dtype.name, x.shape[-1] == 1) for x in jax.tree.leaves(cache)}
        assert sizes == ({("int8", False), ("float32", True)} if dtype == jnp.int8 else {("float32", False)})
        return np.concatenate(out, axis=1)

    exact, rough = write(jnp.float32, False), write(jnp.int8, False)
    p, q = jax.nn.log_softmax(exact), jax.nn.log_softmax(rough)
    divergence = float(jnp.mean(jnp.sum(jnp.exp(p) * (p - q), axis=-1)))
    print(f"{family}: mean divergence {divergence:.1e} nats")
    assert 0 < divergence < 1e-3
    np.testing.assert_array_equal(write(jnp.int8, True), rough)
