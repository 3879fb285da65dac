"""Checkpoints in and out: bit for bit, readable by transformers, and errors that say what to do."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from tessy_jax import models
from tests.kit import tiny


def stored(folder: Path) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        out |= safetensors.numpy.load_file(file)
    return out


def rewrite(folder: Path, change: Any) -> Path:
    """Change the tensors of a checkpoint with one file."""
    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file, {"format": "pt"})
    return file


@pytest.mark.parametrize(
    "family", ["llama", "gemma3", "qwen3", "qwen3_classifier", "qwen2", "qwen3_moe", "gpt_oss", "deepseek_v3"]
)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 9_000], ids=["one-file", "index"])
def test_round_trip(tmp_path: Path, family: str, max_shard_bytes: int) -> None:
    """transformers -> here -> transformers: the same bits, names, config and logits."""
    torch_model = getattr(tiny, family)(tmp_path / "in")
    model = models.load(tmp_path / "in")
    models.save_hf(model, tmp_path / "out", base=tmp_path / "in", max_shard_bytes=max_shard_bytes)
    assert (tmp_path / "out" / "model.safetensors.index.json").exists() == (max_shard_bytes == 9_000)
    before, after = stored(tmp_path / "in"), stored(tmp_path / "out")
    assert list(sorted(before)) == list(sorted(after))
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    for name, value in models.named_parameters(model).items():
        assert name in before or ".experts." in name
        if name in before:
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    again = models.load(tmp_path / "out")
    assert again.config == model.config
    loaded = models.named_parameters(model)
    for name, value in models.named_parameters(again).items():
        np.testing.assert_array_equal(value, loaded[name], err_msg=name)
    tokens = torch.arange(30)[None]
    reloaded, report = type(torch_model).from_pretrained(
        tmp_path / "out", attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    assert not any(report.values())
    assert reloaded.config.pad_token_id == torch_model.config.pad_token_id  # from `base`
    with torch.no_grad():
        assert torch.equal(reloaded.eval()(tokens).logits, torch_model(tokens).logits)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_dtypes_are_kept_and_converted(tmp_path: Path, dtype: Any) -> None:
    tiny.qwen3(tmp_path / "in")
    half = models.load(tmp_path / "in", dtype=dtype)
    models.save_hf(half, tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == jnp.dtype(dtype).name
    exact, rounded = stored(tmp_path / "in"), models.named_parameters(models.load(tmp_path / "half"))
    for name, value in exact.items():
        np.testing.assert_array_equal(rounded[name], value.astype(dtype).astype(np.float32), err_msg=name)
    models.save_hf(models.load(tmp_path / "in"), tmp_path / "converted", dtype=dtype)
    files = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("half", "converted")]
    assert files[0] == files[1]
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == getattr(
        torch, jnp.dtype(dtype).name
    )


def test_tied_duplicates_old_buffers_and_bare_names_are_understood(tmp_path: Path) -> None:
    """Some exporters write lm_head twice or RoPE buffers; HF's bare …Model has no `model.` prefix."""
    tiny.qwen3(tmp_path)
    expected = models.named_parameters(models.load(tmp_path))

    def add(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(6, np.float32)
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    rewrite(tmp_path, add)
    for name, value in models.named_parameters(models.load(tmp_path)).items():
        np.testing.assert_array_equal(value, expected[name])


def test_layers_that_predict_further_tokens_are_not_read(tmp_path: Path) -> None:
    """R1's checkpoint has a layer after the last; the config that is written says that it is gone."""
    tiny.deepseek_v3(tmp_path / "in")

    def add(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.3.eh_proj.weight"] = np.ones((26, 52), np.float32)
        tensors["model.layers.3.mlp.experts.0.up_proj.weight"] = np.ones((16, 26), np.float32)

    rewrite(tmp_path / "in", add)
    models.save_hf(models.load(tmp_path / "in"), tmp_path / "out", base=tmp_path / "in")
    assert not any(name.startswith("model.layers.3.") for name in stored(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_nextn_predict_layers"] == 0
    rewrite(tmp_path / "in", lambda tensors: tensors.update({"model.layers.4.norm": np.ones(1, np.float32)}))
    with pytest.raises(models.WeightsError, match=r"model\.layers\.4\.norm: is not a parameter of this DeepseekV3"):
        models.load(tmp_path / "in")


def fails(folder: Path, message: str) -> None:
    with pytest.raises(models.WeightsError) as error:
        models.load(folder)
    assert str(error.value) == message


def test_missing_files_are_named(tmp_path: Path) -> None:
    tiny.llama(tmp_path)
    file = tmp_path / "model.safetensors"
    file.rename(tmp_path / "elsewhere")
    fails(
        tmp_path,
        f"{tmp_path}: has neither model.safetensors nor model.safetensors.index.json. "
        "Download the safetensors files; convert GGUF first (python -m tessy_jax.convert).",
    )
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}))
    lost = tmp_path / "model-00001-of-00001.safetensors"
    fails(tmp_path, f"{lost}: no such file, but {index.name} lists it. Download it again.")
    (tmp_path / "elsewhere").rename(lost)
    index.write_text(json.dumps({"weight_map": {"model.nose.weight": lost.name}}))
    fails(
        tmp_path,
        f"{lost}: lacks tensor model.nose.weight, which {index.name} says it has. Download the file again.",
    )


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    tiny.llama(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"

    def drop(tensors: dict[str, np.ndarray]) -> None:
        tensors["kept"] = tensors.pop(name)

    file = rewrite(tmp_path, drop)
    fails(
        tmp_path,
        f"{tmp_path}: tensor {name} is missing (LlamaForCausalLM, shape (44, 24)). "
        "The checkpoint is incomplete, or its config.json belongs to another model.",
    )

    def transpose(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = np.ascontiguousarray(tensors["kept"].T)

    rewrite(tmp_path, transpose)
    fails(
        tmp_path,
        f"{file}: {name}: has shape (24, 44), but config.json says (44, 24). "
        "The weights and config.json belong to different models.",
    )

    def restore(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors["kept"]

    rewrite(tmp_path, restore)
    fails(
        tmp_path,
        f"{file}: kept: is not a parameter of this LlamaForCausalLM (1 such tensors). "
        "Check architectures, num_hidden_layers and the bias fields in config.json.",
    )

    def integers(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors.pop("kept").astype(np.int8)

    rewrite(tmp_path, integers)
    fails(
        tmp_path,
        f"{file}: {name}: has dtype int8; here it must be bfloat16 or float16 or float32. "
        "Check quantization_config in config.json.",
    )


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    tiny.llama(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    fails(
        tmp_path,
        f"{file}: is truncated: it should have {len(whole)} bytes, it has {len(whole) - 1}. Download it again.",
    )
    header = 8 + int.from_bytes(whole[:8], "little")
    file.write_bytes(whole[:100])
    fails(tmp_path, f"{file}: is truncated: its header alone needs {header} bytes, it has 100. Download it again.")
    file.write_bytes((9).to_bytes(8, "little") + b"not json!")
    fails(tmp_path, f"{file}: is not a safetensors file: its header is not JSON. Download it again.")


def test_saving_never_overwrites(tmp_path: Path) -> None:
    tiny.llama(tmp_path)
    model = models.load(tmp_path)
    with pytest.raises(models.WeightsError) as error:
        models.save_hf(model, tmp_path)
    assert str(error.value) == f"{tmp_path}: already holds a checkpoint. Give a new folder, or delete this one."
    with pytest.raises(models.WeightsError, match="cannot store dtype int8; supported: bfloat16, float16, float32"):
        models.save_hf(model, tmp_path / "new", dtype=jnp.int8)


def test_loaded_parameters_do_not_alias_the_file(tmp_path: Path) -> None:
    tiny.llama(tmp_path)
    model = models.load(tmp_path)
    before = {n: np.array(v) for n, v in models.named_parameters(model).items()}
    file = tmp_path / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size // 2)
        stream.write(b"\0" * (size // 2))
    for name, value in models.named_parameters(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_bfloat16_files_hold_bfloat16(tmp_path: Path) -> None:
    tiny.llama(tmp_path / "in")
    models.save_hf(models.load(tmp_path / "in", dtype=jnp.bfloat16), tmp_path / "out")
    assert {t.dtype for t in stored(tmp_path / "out").values()} == {np.dtype(ml_dtypes.bfloat16)}
