"""GPT-OSS as it was released: experts packed by four bits, in files and in memory."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx
from jax.sharding import AxisType
from jaxtyping import Array

from tessy_jax import models
from tessy_jax.models.formats.mx import Mxfp4, Mxint8
from tessy_jax.models.grouped import KERNELS, one_by_one
from tests.kit import tiny

B, T = 4, 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("mxfp4")
    return folder, tiny.gpt_oss_mxfp4(folder)


def stored(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


def decoded(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """An independent decoder, by the table of the specification."""
    sizes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    table = np.array(sizes + [-size for size in sizes], np.float64)
    values = np.zeros((*blocks.shape[:-1], 32))
    for byte in range(16):
        values[..., 2 * byte] = table[blocks[..., byte] % 16]
        values[..., 2 * byte + 1] = table[blocks[..., byte] // 16]
    values *= 2.0 ** (scales.astype(np.float64) - 127)[..., None]
    return values.reshape(*scales.shape[:-1], -1)


def logits(model: Any, tokens: np.ndarray, mesh: Any = None) -> np.ndarray:
    """A prefill of all but 4 tokens, and those one by one."""
    graphdef, params = nnx.split(model)

    @jax.jit
    def step(params: Any, tokens: Any, positions: Any, cache: Any) -> Any:
        model = nnx.merge(graphdef, params)
        hidden, cache = model(tokens, positions, cache)
        return model.logits(hidden), cache

    cache = models.init_cache(model.config, B, T, slack=T, mesh=mesh)
    out = []
    for start, end in ((0, T - 4), *((t, t + 1) for t in range(T - 4, T))):
        positions = jnp.broadcast_to(jnp.arange(start, end), (B, end - start))
        got, cache = step(params, jnp.asarray(tokens[:, start:end]), positions, cache)
        out.append(np.asarray(got))
    return np.concatenate(out, axis=1)


def product(rows: Array, blocks: Array, scales: Array, sizes: Array) -> Array:
    return one_by_one(rows, (blocks, scales), sizes, scales.shape[2], lambda e: Mxfp4().opened(*e, rows.dtype))


def matrices(packing: Mxfp4 | Mxint8, blocks: Array, scales: Array, dtype: Any = jnp.float32) -> Array:
    """The decoded matrices [E, I, O]: products with the rows of the identity."""
    rows = jnp.eye(scales.shape[1] * 32, dtype=dtype)
    return jnp.stack([packing.opened(b, s, dtype)(rows) for b, s in zip(blocks, scales, strict=True)])


def tokens_for(model: Any) -> np.ndarray:
    return np.random.default_rng(1).integers(0, model.config.vocab_size, (B, T))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_all_bytes_are_decoded_exactly(dtype: Any) -> None:
    blocks = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    scales = np.array([1, 2, 60, 100, 119, 120, 126, 127, 128, 129, 140, 180, 200, 240, 250, 251], np.uint8)
    got = matrices(Mxfp4(), jnp.asarray(blocks.reshape(1, -1, 1)), jnp.asarray(scales[None, :, None]), dtype)
    assert got.dtype == dtype
    expected = decoded(blocks, scales[None, None])
    expected = np.where(np.abs(expected) < 2.0**-126, 0, expected)  # less than a normal number
    np.testing.assert_array_equal(np.asarray(got, np.float64)[..., 0], expected[0])


@pytest.mark.parametrize("sizes", [[3, 0, 130, 1, 7], [0, 0, 0, 0, 0], [300, 0, 0, 0, 0], [0, 0, 0, 0, 9]], ids=str)
def test_packed_products_are_those_of_the_decoded_matrices(sizes: list[int]) -> None:
    """Experts without rows, with more rows than a block, and rows of no expert at the end."""
    random = np.random.default_rng(0)
    blocks = jnp.asarray(random.integers(0, 256, (5, 32, 48), np.uint8))
    scales = jnp.asarray(random.integers(119, 122, (5, 2, 48), np.uint8))
    rows = jnp.asarray(random.normal(size=(304, 64)), jnp.float32)
    got = jax.jit(product)(rows, blocks, scales, jnp.asarray(sizes))
    unpacked = matrices(Mxfp4(), blocks, scales)
    expected = KERNELS["xla"](rows, unpacked, jnp.asarray(sizes))
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert not np.any(np.asarray(got)[sum(sizes) :])


def test_logits_equal_those_of_the_unpacked_model(checkpoint: tuple[Path, Any]) -> None:
    folder, torch_model = checkpoint
    model = models.load(folder)
    for name, value in models.named_parameters(model).items():
        assert value.dtype == (jnp.uint8 if name.endswith(("_blocks", "_scales")) else jnp.float32)
    tokens = tokens_for(model)
    with torch.no_grad():
        expected = torch_model(torch.tensor(tokens)).logits.numpy()
    difference = np.abs(logits(model, tokens) - expected).max()
    print(f"mxfp4: max |difference| {difference:.1e}")
    assert expected.std() > 0.5
    assert difference <= 1e-4


def test_round_trip(tmp_path: Path, checkpoint: tuple[Path, Any]) -> None:
    """The same bytes come out, whatever the dtype of the rest, and transformers reads them."""
    folder, torch_model = checkpoint
    model = models.load(folder)
    models.save_hf(model, tmp_path / "out", base=folder)
    before, after = stored(folder), stored(tmp_path / "out")
    assert sorted(before) == sorted(after)
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert models.read_config(tmp_path / "out") == model.config
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(tiny.unpacked(tmp_path / "out")(tokens).logits, torch_model(tokens).logits)
    models.save_hf(models.load(folder, dtype=jnp.bfloat16), tmp_path / "half")
    half = stored(tmp_path / "half")
    assert {str(value.dtype) for value in half.values()} == {"uint8", "bfloat16"}
    name = "model.layers.0.mlp.experts.down_proj_blocks"
    np.testing.assert_array_equal(half[name], before[name])
    assert "quantization_config" in json.loads((tmp_path / "half" / "config.json").read_text())


def test_experts_on_a_mesh(checkpoint: tuple[Path, Any]) -> None:
    folder, _ = checkpoint
    mesh = jax.make_mesh((2, 2, 2), ("fsdp", "tensor", "expert"), axis_types=(AxisType.Auto,) * 3)
    rules = models.INFERENCE.replace(vocab=())
    alone, model = models.load(folder), models.load(folder, mesh=mesh, rules=rules)
    difference = np.abs(logits(model, tokens_for(model), mesh) - logits(alone, tokens_for(alone))).max()
    print(f"mxfp4 on a mesh: max |difference| {difference:.1e}")
    assert difference <= 1e-4
    blocks = models.named_parameters(model)["model.layers.0.mlp.experts.down_proj_blocks"]
    assert blocks.sharding.shard_shape(blocks.shape) == (3, 32, 64)  # of 6 experts, 4 groups of 16 bytes, 64 outputs


def test_a_width_that_would_split_a_group_is_refused(tmp_path: Path) -> None:
    tiny.gpt_oss_mxfp4(tmp_path, intermediate_size=96, vocab_size=92)
    mesh = jax.make_mesh((4,), ("tensor",), axis_types=(AxisType.Auto,))
    with pytest.raises(models.ShardingError) as error:
        models.load(tmp_path, mesh=mesh)
    assert str(error.value) == (
        "model.layers.0.mlp.experts.down_proj_blocks: dimension 1 (3 expert_ff) does not divide over mesh axis "
        "'tensor' of size 4. Use a size of 1 or 3."
    )
    models.load(tmp_path, mesh=mesh, rules=models.INFERENCE.replace(expert_ff=()))


def test_random_models_have_sane_logits(checkpoint: tuple[Path, Any]) -> None:
    config = models.read_config(checkpoint[0])
    model = models.from_config(config, jax.random.key(0), jnp.bfloat16)
    parameters = models.named_parameters(model)
    weights = [
        matrices(Mxfp4(), value, parameters[name.replace("blocks", "scales")])
        for name, value in parameters.items()
        if name.endswith("_blocks")
    ]
    assert all(0.015 < float(jnp.std(value)) < 0.03 for value in weights)
    assert np.isfinite(logits(model, tokens_for(model))).all()
