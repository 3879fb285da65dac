"""Checkpoints in blocks of 8-bit floats: bits, logits, files and meshes, against a decoder of its own in NumPy."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from jax.sharding import AxisType

from tessy_jax import models
from tessy_jax.models.formats.fp8 import BlockFp8
from tessy_jax.models.weights import read_safetensors
from tests.kit import tiny

BLOCK = (8, 4)
SIZES = {"intermediate_size": 48, "qk_nope_head_dim": 8, "v_head_dim": 12}
"""Splits of these fall on borders of blocks; what no mesh splits (width, latents) ends in smaller ones."""


def decoded(bits: np.ndarray) -> np.ndarray:
    """e4m3fn by its definition: a sign, 4 bits of exponent with a bias of 7, 3 of mantissa; no infinities."""
    byte = bits.view(np.uint8).astype(int)
    sign, exponent, mantissa = np.where(byte >> 7, -1.0, 1.0), (byte >> 3) & 15, byte & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return (sign * np.where(byte & 127 == 127, np.nan, value)).astype(np.float32)


def multiplied_out(weight: np.ndarray, scale: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """Every block of a matrix times its scale."""
    out = decoded(weight)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            out[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]] *= scale[i, j]
    return out


def quantise(folder: Path) -> None:
    """Rewrite a checkpoint as DeepSeek writes its own: all but norms, router, embeddings and output, by block."""
    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    for name in [n for n in tensors if n.endswith("_proj.weight") or n.endswith("_with_mqa.weight")]:
        weight = tensors[name]
        count = tuple(-(-size // block) for size, block in zip(weight.shape, BLOCK, strict=True))
        scale = np.zeros(count, np.float32)
        bits = np.zeros(weight.shape, ml_dtypes.float8_e4m3fn)
        for i, j in np.ndindex(*count):
            part = np.s_[i * BLOCK[0] : (i + 1) * BLOCK[0], j * BLOCK[1] : (j + 1) * BLOCK[1]]
            scale[i, j] = np.abs(weight[part]).max() / 448
            bits[part] = (weight[part] / scale[i, j]).astype(bits.dtype)
        tensors[name], tensors[f"{name}_scale_inv"] = bits, scale
    safetensors.numpy.save_file(tensors, file, {"format": "pt"})
    method = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(BLOCK)}
    rewrite_config(folder, quantization_config=method)


def rewrite_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fp8")
    tiny.deepseek_v3(folder, **SIZES)
    quantise(folder)
    return folder


def logits(model: Any, mesh: Any = None) -> np.ndarray:
    """Of two rows through the cache."""
    graphdef, params = nnx.split(model)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 12)))
    cache = models.init_cache(model.config, 2, 12, slack=12, mesh=mesh)

    @jax.jit
    def run(params: Any, cache: Any) -> Any:
        model = nnx.merge(graphdef, params)
        hidden, _ = model(tokens, jnp.broadcast_to(jnp.arange(12), (2, 12)), cache)
        return model.logits(hidden)

    return np.asarray(run(params, cache))


@pytest.mark.parametrize("shape", [(576, 200), (128, 128), (5, 300)], ids=str)
def test_every_bit_pattern_is_decoded_exactly(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    weight = rng.permutation(np.resize(np.arange(256, dtype=np.uint8), shape).ravel()).reshape(shape)
    scale = np.exp(rng.normal(size=(-(-shape[0] // 128), -(-shape[1] // 128)))).astype(np.float32)
    eight = weight.view(ml_dtypes.float8_e4m3fn)
    expected = multiplied_out(weight, scale, (128, 128))
    got = BlockFp8(128, 128).matrix(jnp.asarray(eight), jnp.asarray(scale), jnp.float32)
    np.testing.assert_array_equal(got, expected)
    half = jax.jit(BlockFp8(128, 128).matrix, static_argnums=2)(jnp.asarray(eight), jnp.asarray(scale), jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.astype(jnp.float32), expected.astype(half.dtype).astype(np.float32))


def test_logits_are_those_of_the_multiplied_out_checkpoint(folder: Path, tmp_path: Path) -> None:
    tiny.deepseek_v3(tmp_path, **SIZES)
    stored = read_safetensors(folder / "model.safetensors")
    plain = {
        name: multiplied_out(value, stored[f"{name}_scale_inv"], BLOCK) if f"{name}_scale_inv" in stored else value
        for name, value in stored.items()
        if not name.endswith("_scale_inv")
    }
    before = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert 0.01 < max(np.abs(plain[n] - before[n]).max() for n in plain) < 0.1  # they were rounded
    safetensors.numpy.save_file(plain, tmp_path / "model.safetensors", {"format": "pt"})
    difference = np.abs(logits(models.load(folder)) - logits(models.load(tmp_path))).max()
    print(f"fp8: max |difference| {difference:.1e}")
    assert difference <= 1e-5


def test_parameters_stay_in_eight_bits_and_files_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    model = models.load(folder, dtype=jnp.bfloat16)
    dtypes = {name: str(value.dtype) for name, value in models.named_parameters(model).items()}
    eight = {name for name, dtype in dtypes.items() if dtype == "float8_e4m3fn"}
    assert {f"{name}_scale_inv" for name in eight} == {n for n in dtypes if n.endswith("_scale_inv")}
    names = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-2] for name in eight} == names
    models.save_hf(models.load(folder), tmp_path / "out", base=folder)
    before, after = (read_safetensors(f / "model.safetensors") for f in (folder, tmp_path / "out"))
    assert sorted(before) == sorted(after)
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        np.testing.assert_array_equal(value.view(np.uint8), after[name].view(np.uint8), err_msg=name)
    config, written = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "out"))
    assert written["quantization_config"] == config["quantization_config"]
    assert models.load(tmp_path / "out").config == model.config


def test_a_checkpoint_without_its_scales_is_refused(folder: Path, tmp_path: Path) -> None:
    tiny.deepseek_v3(tmp_path, **SIZES)
    method = json.loads((folder / "config.json").read_text())["quantization_config"]
    rewrite_config(tmp_path, quantization_config=method)
    with pytest.raises(models.WeightsError) as error:
        models.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'model.safetensors'}: model.layers.0.mlp.down_proj.weight: has dtype float32; here it must be "
        "float8_e4m3fn. Check quantization_config in config.json."
    )


def mesh_of(**axes: int) -> Any:
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def test_scales_are_split_like_their_matrices(folder: Path) -> None:
    mesh = mesh_of(fsdp=2, tensor=2, expert=2)
    model = models.load(folder, mesh=mesh)
    difference = np.abs(logits(model, mesh) - logits(models.load(folder))).max()
    print(f"fp8 on a mesh: max |difference| {difference:.1e}")
    assert difference <= 1e-4
    parameters = models.named_parameters(model)
    for name, scale in parameters.items():
        if name.endswith("_scale_inv"):
            assert scale.sharding.spec == parameters[name.removesuffix("_scale_inv")].sharding.spec


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (
            40,
            "gate_proj.weight_scale_inv: dimension 0 (5 blocks of 8 ff) does not divide over mesh axis 'tensor' of "
            "size 2. Use a size of 1 or 5.",
        ),
        (
            42,
            "down_proj.weight_scale_inv: dimension 1 (1 row of blocks of 4 ff with a smaller one) does not divide "
            "over mesh axis 'tensor' of size 2. Use a size of 1.",
        ),
    ],
)
def test_a_split_through_a_block_is_refused(tmp_path: Path, width: int, message: str) -> None:
    tiny.deepseek_v3(tmp_path, **SIZES | {"intermediate_size": width})
    quantise(tmp_path)
    with pytest.raises(models.ShardingError) as error:
        models.load(tmp_path, mesh=mesh_of(tensor=2))
    assert str(error.value) == f"model.layers.0.mlp.{message}"
