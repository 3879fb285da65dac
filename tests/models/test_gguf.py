"""GGUF metadata means what it means to llama.cpp (llama-model.cpp, load_hparams), or the file is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tessy_jax.models.gguf.convert import convert
from tessy_jax.models.gguf.reader import GGUFError
from tests.kit import tiny_gguf
from tests.kit.tiny_gguf import METADATA, tensors, write


def converted(folder: Path, weights: Any = None, **metadata: Any) -> dict[str, Any]:
    """The config.json that comes of a file with these changes of its metadata."""
    file = write(folder / "tiny.gguf", METADATA | metadata, tensors() if weights is None else weights)
    convert(file, folder / "out", overwrite=True)
    return json.loads((folder / "out/config.json").read_text())


@pytest.mark.parametrize(
    ("metadata", "factor"),
    [
        ({"llama.rope.scaling.factor": 4.0}, 4.0),
        ({"llama.rope.scale_linear": 2.5}, 2.5),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scale_linear": 2.0},
            2.0,
        ),
        (
            {"llama.rope.scaling.factor": 4.0, "llama.rope.scale_linear": 2.0},
            4.0,
        ),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None),
        ({"llama.rope.scaling.type": "linear"}, None),
        ({"llama.rope.scaling.factor": 0.0}, None),
        ({"llama.rope.scaling.factor": 1.0}, None),
        ({}, None),
    ],
)
def test_rope_scaling(tmp_path: Path, metadata: dict[str, Any], factor: float | None) -> None:
    scaling = converted(tmp_path, **metadata)["rope_scaling"]
    assert scaling == (None if factor is None else {"rope_type": "linear", "factor": factor})


def test_what_llama_cpp_has_a_default_for_may_be_missing(tmp_path: Path) -> None:
    assert converted(tmp_path, **{"llama.rope.freq_base": None})["rope_theta"] == 10_000.0
    all_heads = tensors(kv_heads=tiny_gguf.HEADS)
    config = converted(tmp_path, all_heads, **{"llama.attention.head_count_kv": None})
    assert config["num_key_value_heads"] == tiny_gguf.HEADS
    assert converted(tmp_path)["head_dim"] == 8
    wide = {
        "llama.attention.key_length": 12,
        "llama.attention.value_length": 12,
        "llama.rope.dimension_count": 12,
    }
    assert converted(tmp_path, tensors(head_dim=12), **wide)["head_dim"] == 12
    assert converted(tmp_path, **{"llama.attention.head_count_kv": [2, 2]})["num_key_value_heads"] == 2
    neutral = {"llama.expert_count": 0, "llama.attention.causal": True, "llama.rope.scaling.attn_factor": 1.0}
    assert converted(tmp_path, **neutral) == converted(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn' is not supported"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count: is 4; only that of a key, 8,"),
        ({"llama.attention.value_length": 4}, "llama.attention.value_length: is 4"),
        ({"llama.rope.scaling.attn_factor": 1.5}, "llama.rope.scaling.attn_factor: is 1.5, which is not supported"),
        ({"llama.attention.scale": 0.5}, "llama.attention.scale: is 0.5"),
        ({"llama.logit_scale": 2.0}, "llama.logit_scale: is 2.0"),
        ({"llama.expert_count": 8}, "llama.expert_count: is 8"),
        ({"llama.attention.causal": False, "llama.pooling_type": 2}, "llama.pooling_type: is 2"),
        ({"llama.attention.head_count_kv": [2, 1]}, r"llama.attention.head_count_kv: is \[2, 1\]"),
        ({"llama.block_count": 3}, "tensor blk.2.attn_norm.weight is missing"),
        ({"llama.block_count": 2**31 - 1}, "llama.block_count: is 2147483647; it is 10000 at most"),
        (
            {"llama.feed_forward_length": 65},
            r"gate_proj.weight has shape \(64, 32\), but the metadata says \(65",
        ),
        ({"llama.embedding_length": "32"}, "llama.embedding_length: is '32'"),
        ({"tokenizer.ggml.eos_token_id": 99}, "tokenizer.ggml.eos_token_id: is 99, but there are 29 tokens"),
        ({"tokenizer.ggml.token_type": [1]}, "tokenizer.ggml.token_type: has 1 entries for 29 tokens"),
        ({"tokenizer.ggml.merges": ["a b", "q"]}, "tokenizer.ggml.merges: entry 1 is 'q', which makes no token"),
        ({"tokenizer.ggml.add_bos_token": True}, "the metadata has no 'tokenizer.ggml.bos_token_id'"),
    ],
)
def test_what_would_be_lost_is_refused_by_name(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(GGUFError, match=rf"tiny\.gguf: .*{message}"):
        converted(tmp_path, **metadata)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def split(folder: Path, count: int = 3) -> list[Path]:
    """A model in several parts, of which only the first has its metadata."""
    names, weights = [f"m-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)], list(tensors().items())
    for number, name in enumerate(names):
        place = {"split.no": number, "split.count": count, "split.tensors.count": len(weights)}
        write(folder / name, place | (METADATA if number == 0 else {}), dict(weights[number::count]))
    return [folder / name for name in names]


def test_all_parts_of_a_split_model_are_read_from_the_first(tmp_path: Path) -> None:
    parts = split(tmp_path)
    convert(parts[0], tmp_path / "out")
    convert(write(tmp_path / "whole.gguf", METADATA, tensors()), tmp_path / "whole")
    assert (tmp_path / "out/config.json").read_bytes() == (tmp_path / "whole/config.json").read_bytes()
    ours, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert ours.keys() == whole.keys()
    assert all((ours[name] == whole[name]).all() for name in whole)

    for number in (1, 2):
        with pytest.raises(GGUFError, match=rf"is part {number + 1} of 3; give the first, m-00001-of-00003\.gguf"):
            convert(parts[number], tmp_path / "new")
    parts[1].rename(tmp_path / "elsewhere")
    with pytest.raises(GGUFError, match=r"m-00002-of-00003\.gguf: no such file"):
        convert(parts[0], tmp_path / "new")
    parts[0].rename(tmp_path / "first.gguf")
    with pytest.raises(GGUFError, match=r"first\.gguf: is part 1 of 3, and its name does not say so"):
        convert(tmp_path / "first.gguf", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n")
    with pytest.raises(GGUFError, match=r"model\.gguf: is a Git LFS pointer"):
        convert(file, tmp_path / "out")
