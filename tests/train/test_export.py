"""What is exported is what was trained: where texts end, in which dtype, and without what belongs to other files."""

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import transformers

from tessy_jax import models
from tessy_jax.text.chat import Chat
from tessy_jax.train.export import EndOfTurn, export
from tests.kit import tiny, vocab

IM_END, END_OF_TEXT = "<|im_end|>", "<|endoftext|>"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = vocab.small_chatml(tmp_path_factory.mktemp("source"))
    size = Chat.load(folder).tokenizer.vocab_size
    tiny.llama(folder, vocab_size=size, num_hidden_layers=1)
    return folder


@pytest.fixture
def base(source: Path, tmp_path: Path) -> Path:
    """A copy of the source, to be changed."""
    return shutil.copytree(source, tmp_path / "base", ignore=shutil.ignore_patterns("generation_config.json"))


def ids(folder: Path) -> tuple[int, int]:
    tokens = Chat.load(folder).tokenizer.ids
    return tokens[IM_END], tokens[END_OF_TEXT]


def change(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | values))


def exported(base: Path, folder: Path, **options: Any) -> Path:
    export(models.load(base), base, folder, **options)
    return folder


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer"),
    [
        ("end_of_text", "end_of_text", END_OF_TEXT),
        (None, "end_of_text", END_OF_TEXT),
        ("list", None, END_OF_TEXT),
        (None, None, END_OF_TEXT),
        ("end_of_text", "im_end", IM_END),
    ],
)
def test_generation_stops_where_training_ended_answers(
    base: Path, tmp_path: Path, generation: str | None, config: str | None, tokenizer: str
) -> None:
    im_end, end_of_text = ids(base)
    named = {"end_of_text": end_of_text, "im_end": im_end, "list": [end_of_text, 3], None: None}
    if generation is not None:
        change(base, "generation_config.json", eos_token_id=named[generation])
    change(base, "config.json", eos_token_id=named[config])
    change(base, "tokenizer_config.json", eos_token=tokenizer, pad_token=END_OF_TEXT)
    change(base, "special_tokens_map.json", eos_token={"content": tokenizer}, pad_token=END_OF_TEXT)
    out = exported(base, tmp_path / "out", end=EndOfTurn(im_end, IM_END))

    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    ends = model.generation_config.eos_token_id
    assert im_end in (ends if isinstance(ends, list) else [ends])
    if generation is not None:
        assert end_of_text in ends  # what the base ended with stays
    reloaded = transformers.AutoTokenizer.from_pretrained(out)
    assert (reloaded.eos_token, reloaded.pad_token) == (IM_END, END_OF_TEXT)
    assert im_end in Chat.load(out).eos_ids


@pytest.mark.parametrize("end", [None, "im_end"])
def test_a_base_that_ends_so_already_is_left_as_it_is(base: Path, tmp_path: Path, end: str | None) -> None:
    im_end, end_of_text = ids(base)
    change(base, "generation_config.json", eos_token_id=[im_end, end_of_text])
    change(base, "config.json", eos_token_id=end_of_text)
    out = exported(base, tmp_path / "out", end=end and EndOfTurn(im_end, IM_END))
    for name in ("generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == end_of_text


@pytest.mark.parametrize("most", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_the_dtype_is_that_of_most_numbers(base: Path, tmp_path: Path, most: Any) -> None:
    """Whatever comes first in the file: some checkpoints keep norms, others the embeddings in another dtype."""
    values = safetensors.numpy.load_file(base / "model.safetensors")
    other = np.float32 if most != np.float32 else ml_dtypes.bfloat16
    kept = {name: value.astype(other if "norm" in name else most) for name, value in values.items()}
    safetensors.numpy.save_file(kept, base / "model.safetensors")
    (base / "pytorch_model.bin.index.json").write_text("{}")
    out = exported(base, tmp_path / "out")
    stored = safetensors.numpy.load_file(out / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {np.dtype(most)}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == np.dtype(most).name
    assert not (out / "pytorch_model.bin.index.json").exists()
