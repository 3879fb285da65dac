"""Which files of a folder are read, and what is said of damaged ones: by their headers, before anything is loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import transformers

from tessy_jax import models
from tessy_jax.errors import UserError
from tests.kit import tiny

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 538090408\n"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    tiny.llama(tmp_path / "llama")
    return tmp_path / "llama"


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


def write(folder: Path, values: dict[str, np.ndarray], name: str = "model.safetensors") -> None:
    safetensors.numpy.save_file(values, folder / name, {"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def checked(folder: Path) -> None:
    models.check_weights(models.read_config(folder), folder)


def refused(folder: Path, *words: str) -> None:
    """Both what looks at headers and what loads refuse the folder, in words."""
    for read in (checked, models.load):
        with pytest.raises(UserError) as error:
            read(folder)
        assert all(word in str(error.value) for word in words), error.value
        assert "\n" not in str(error.value)


# -- which files -------------------------------------------------------------------------------------------------------


def shard(folder: Path, **more: str) -> None:
    """Writes the weights as two files and an index."""
    values = tensors(folder)
    names = sorted(values)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, own in parts.items():
        write(folder, {name: values[name] for name in own}, file)
    weight_map = {name: file for file, own in parts.items() for name in own} | more
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_one_file_counts_where_the_index_is_left_over(llama: Path) -> None:
    """As in transformers: shards that are gone, or an index that lists the one file."""
    index = llama / "model.safetensors.index.json"
    for weight_map in ({"model.norm.weight": "model-00001-of-00009.safetensors"}, {"a": "model.safetensors"}):
        index.write_text(json.dumps({"weight_map": weight_map}))
        checked(llama)
    shard(llama)
    refused(llama, "model.safetensors", "index.json", "model-00001-of-00002.safetensors", "Remove one")
    (llama / "model.safetensors").unlink()
    checked(llama)


def test_files_that_transformers_does_not_read_change_nothing(llama: Path) -> None:
    other = {name: value + 1 for name, value in tensors(llama).items()}
    write(llama, other, "consolidated.safetensors")
    write(llama, other, "extra.safetensors")
    (llama / "pytorch_model.bin").write_bytes(b"pickle")
    loaded = models.named_parameters(models.load(llama))
    for name, value in tensors(llama).items():
        np.testing.assert_array_equal(loaded[name], value)


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ("consolidated.safetensors", ("consolidated.safetensors", "not in the format of transformers")),
        ("model-00001-of-00002.safetensors", ("model-00001-of-00002.safetensors", "index.json", "missing")),
        ("pytorch_model.bin", ("pytorch_model.bin", "save_pretrained")),
        ("consolidated.00.pth", ("consolidated.00.pth", "pickled")),
        ("adapter_model.safetensors", ("adapter_model.safetensors", "Merge it")),
        ("weights.safetensors", ("weights.safetensors", "Rename it")),
        ("model-q8_0.gguf", ("model-q8_0.gguf", "tessy_jax.convert")),
    ],
)
def test_other_formats_are_named(llama: Path, instead: str, words: tuple[str, ...]) -> None:
    (llama / "model.safetensors").rename(llama / instead)
    refused(llama, str(llama), *words)


def test_an_adapters_folder_is_refused(llama: Path) -> None:
    (llama / "adapter_config.json").write_text("{}")
    refused(llama, "adapter_config.json", "merge_and_unload")


# -- tied embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda x: x + 1, lambda x: x[:-1], lambda x: np.where(np.arange(24) == 23, 0, x)])
def test_a_head_of_its_own_is_not_dropped(llama: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    configure(llama, tie_word_embeddings=True)
    values = tensors(llama)
    values["lm_head.weight"] = np.ascontiguousarray(change(values["model.embed_tokens.weight"]), np.float32)
    write(llama, values)
    refused(llama, "model.safetensors", "lm_head.weight", "tie_word_embeddings")


def test_untied_heads_and_heads_that_are_the_embeddings_are_read_as_in_transformers(llama: Path) -> None:
    """The same matrix twice; and the head alone, of which transformers makes the embeddings."""
    configure(llama, tie_word_embeddings=True)
    values = tensors(llama)
    embeddings = values["model.embed_tokens.weight"]
    for change in ({"lm_head.weight": embeddings.copy()}, {"lm_head.weight": values["lm_head.weight"]}):
        if not np.array_equal(change["lm_head.weight"], embeddings):
            del values["model.embed_tokens.weight"]
        write(llama, values | change)
        theirs = transformers.LlamaForCausalLM.from_pretrained(llama)
        checked(llama)
        ours = models.load(llama)
        np.testing.assert_array_equal(ours.output_weight(), theirs.lm_head.weight.detach())
        models.save_hf(ours, llama.with_name(f"out{len(values)}"), base=llama)
        again = transformers.LlamaForCausalLM.from_pretrained(llama.with_name(f"out{len(values)}"))
        assert (again.model.embed_tokens.weight == theirs.model.embed_tokens.weight).all()


# -- damaged files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_git_lfs_pointers_are_named(llama: Path, name: str) -> None:
    if name.endswith("index.json"):
        (llama / "model.safetensors").unlink()
    (llama / name).write_text(LFS)
    refused(llama, name, "is a Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"metadata": {"total_size": 1}}', ("weight_map: is None",)),
        ("[]", ("list", "JSON object")),
        ("{", ("is not valid JSON", "Download")),
        ('{"weight_map": {"a": 3}}', ("weight_map.a: is 3",)),
        ('{"weight_map": {"a": "../b.safetensors"}}', ("weight_map.a",)),
        ('{"weight_map": {"a": "b.bin"}}', ("weight_map.a", "b.bin")),
        ("\udcff", ("is not text in UTF-8",)),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_damaged_indices_are_named(llama: Path, text: str, words: tuple[str, ...], alone: bool) -> None:
    if alone:
        (llama / "model.safetensors").unlink()
    (llama / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(llama, "model.safetensors.index.json", *words)


@pytest.mark.parametrize("prefix", ["language_model.", "base_model.model.", "model."])
def test_other_names_are_found_in_the_headers(llama: Path, prefix: str) -> None:
    write(llama, {prefix + name: value for name, value in tensors(llama).items()})
    refused(llama, "is missing (LlamaForCausalLM", str(llama))


def test_buffers_are_not_parameters(llama: Path) -> None:
    """Whole numbers under a name that the model does not have: transformers drops them too."""
    values = tensors(llama)
    buffers = {
        "model.position_ids": np.arange(9),
        "model.layers.0.self_attn.masked": np.ones((2, 2), bool),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(5, np.float32),
    }
    write(llama, values | buffers)
    checked(llama)
    models.load(llama)
    write(llama, values | {"model.layers.0.self_attn.q_proj.qweight": np.ones((2, 2), np.int32)})
    refused(llama, "model.layers.0.self_attn.q_proj.qweight: has dtype I32", "unquantised")
    write(llama, values | {"model.norm.weight": np.ones(24, np.int64)})
    refused(llama, "model.norm.weight: has dtype I64", "unquantised")
    write(llama, values | {"model.layers.0.extra.weight": np.ones(3, np.float32)})
    refused(llama, "model.layers.0.extra.weight: is not a parameter")


def test_labels_in_another_order_are_not_trained_on(tmp_path: Path) -> None:
    labels = {"id2label": {0: "Style", 1: "capability"}, "label2id": {"Style": 0, "capability": 1}}
    tiny.qwen3_classifier(tmp_path, **labels)
    with pytest.raises(models.ModelConfigError, match=r"config\.json: id2label: is Style, capability"):
        models.check_classifier(tmp_path, ("capability", "style"))
    configure(tmp_path, label2id={"Style": 1, "capability": 0})
    with pytest.raises(models.ModelConfigError, match=r"config\.json: label2id: is .* contradicts id2label"):
        models.read_config(tmp_path)
    tiny.qwen3_classifier(tmp_path)
    assert models.check_classifier(tmp_path, ("capability", "style")).labels == ("capability", "style")
