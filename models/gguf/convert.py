"""A Hugging Face folder of a GGUF file, without torch.

The folder holds config.json, generation_config.json, model.safetensors, tokenizer.json and tokenizer_config.json (with
the chat template, where the file has one). transformers reads it as it reads the GGUF file itself: the same tokens and
the same logits.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tessy_jax.models.build import describe
from tessy_jax.models.config import ModelConfigError
from tessy_jax.models.gguf.architectures import architecture_of, hf_config, hf_names, token_ids
from tessy_jax.models.gguf.reader import GGUFError, GGUFFile
from tessy_jax.models.gguf.tokenizer import build_tokenizer
from tessy_jax.models.gguf.weights import stored_bytes, write_safetensors
from tessy_jax.models.registry import config_from_hf
from tessy_jax.storage.copies import local
from tessy_jax.storage.files import result_folder
from tessy_jax.storage.paths import StorePath
from tessy_jax.storage.store import Store


def convert(source: Path, out: Path, dtype: str = "float32", overwrite: bool = False) -> None:
    """Converts the GGUF file `source` to the Hugging Face folder `out`.

    The folder appears whole or not at all: it is made beside `out` and then renamed. Memory holds about the largest
    tensor in float32, besides the file's pages.

    Args:
        source: a `.gguf` file of architecture llama or gemma3; on a store it is copied to this machine.
        out: the folder to make; on a store its config.json, without which it is no model, comes last.
        dtype: what to store the weights as, "float32" (exact) or "bfloat16" (rounded).
        overwrite: replace `out` if it is a model folder already.

    Raises:
        GGUFError: the file cannot be converted.
        FileExistsError: `out` exists and may not be replaced.
        OSError: `out` cannot be written, or its disk has too little room.
        StorageError: the store of one of them fails.
    """
    if isinstance(out, StorePath):
        return _convert_to_store(source, out, dtype, overwrite)
    _check_replaceable(out, overwrite)
    file = GGUFFile(local(source))
    config = hf_config(file, dtype)
    names = hf_names(file)
    tokenizer, tokenizer_config = build_tokenizer(file)
    shapes = {hf_name: file.shape(name) for name, hf_name in names.items()}
    _check_shapes(file, config, shapes)

    out.parent.mkdir(parents=True, exist_ok=True)
    needed, free = stored_bytes(shapes, dtype), shutil.disk_usage(out.parent).free
    if needed > free:
        raise OSError(f"{out}: the weights need {needed:,} bytes, but the disk has {free:,} free")
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        _write_json(partial / "config.json", config)
        _write_json(partial / "generation_config.json", token_ids(file))
        _write_json(partial / "tokenizer_config.json", tokenizer_config)
        tokenizer.save(str(partial / "tokenizer.json"))
        restore = architecture_of(file).restore
        weights = (restore(hf_name, file.weights(name), config) for name, hf_name in names.items())
        write_safetensors(partial / "model.safetensors", shapes, dtype, weights)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert_to_store(source: Path, out: StorePath, dtype: str, overwrite: bool) -> None:
    store = Store.open(out)
    there = store.list()
    if there:
        _check_overwrite(out, overwrite, "config.json" in there)
    with result_folder(out, last="config.json") as folder:
        convert(source, folder, dtype, overwrite=True)
        store.delete(sorted(there, key="config.json".__ne__))  # no file of the model before stays with this one


def _check_shapes(file: GGUFFile, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises GGUFError unless `models.load` would take the folder."""
    try:
        expected = {name: spec.shape for name, spec in describe(config_from_hf(config, "its config.json")).items()}
    except ModelConfigError as error:
        raise GGUFError(f"{file.path}: {error}") from None
    wrong = [name for name, shape in shapes.items() if expected[name] != shape]
    if wrong:
        raise GGUFError(
            f"{file.path}: {wrong[0]} has shape {shapes[wrong[0]]}, but the metadata says {expected[wrong[0]]}; "
            "download the file again"
        )


def _check_replaceable(out: Path, overwrite: bool) -> None:
    if out.exists():
        is_empty = out.is_dir() and not any(out.iterdir())
        _check_overwrite(out, overwrite, is_empty or (out / "config.json").is_file())


def _check_overwrite(out: Path, overwrite: bool, is_model: bool) -> None:
    if not overwrite:
        raise FileExistsError(f"{out}: exists already; give another folder, or --overwrite to replace it")
    if not is_model:
        raise FileExistsError(f"{out}: is not a model folder (it has no config.json), so --overwrite leaves it alone")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
