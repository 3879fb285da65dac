"""Whatever is in a checkpoint's files, what reads them reads it or says in words which file is wrong, and where."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessy_jax import models
from tessy_jax.errors import UserError
from tessy_jax.models.gguf.architectures import hf_config, hf_names
from tessy_jax.models.gguf.reader import GGUFFile
from tessy_jax.models.gguf.tokenizer import build_tokenizer
from tessy_jax.models.tensors import DTYPES, open_tensors, read_header
from tessy_jax.text.chat import Chat
from tests.kit import tiny, tiny_gguf, vocab

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([2**31, 2**64, -(2**70), 10**400, 0.5, -1.0, 1e300, float("nan"), float("inf")])
    | st.sampled_from(["", "yarn", "linear", "llama3", "full_attention", "0", "fp8", "mxfp4"])
    | st.text(max_size=5)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=4), SCALARS, max_size=3)
"""What JSON can hold in a value's place."""

LARGE = st.sampled_from([2**63, 2**40, 2**31]).map(lambda n: n.to_bytes(8, "little"))
"""What may stand in place of a length."""

GONE = object()
TENSORS = tiny_gguf.tensors()

fuzz = settings(
    max_examples=300, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, ...]]:
    """Paths of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [(key, *rest) for key, child in inner for rest in [(), *places(child)]]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The JSON value with another at the path, where that is still there; `GONE`: with nothing."""
    at, *rest = path
    if isinstance(value, dict) and at in value:
        inner = put(value[at], tuple(rest), new) if rest else new
        return {key: inner if key == at else old for key, old in value.items() if key != at or inner is not GONE}
    if isinstance(value, list) and isinstance(at, int) and at < len(value):
        inner = put(value[at], tuple(rest), new) if rest else new
        return [inner if i == at else old for i, old in enumerate(value) if i != at or inner is not GONE]
    return value


@st.composite
def damaged(draw: Any, value: Any) -> Any:
    """The JSON value with something else, or nothing, in one or two places."""
    changed = value
    for _ in range(draw(st.integers(1, 2))):
        changed = put(changed, draw(st.sampled_from(places(value))), draw(VALUES | st.just(GONE)))
    return changed


@st.composite
def cut(draw: Any, data: bytes) -> bytes:
    """The bytes with some of them changed, or with an end that is missing."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        new = draw(st.binary(min_size=1, max_size=2) | LARGE)
        changed[at : at + len(new)] = new
    return bytes(changed[: draw(st.integers(0, len(changed)) if draw(st.booleans()) else st.just(len(changed)))])


def in_words(error: UserError, *files: str | Path) -> None:
    assert all(str(file) in str(error) for file in files)
    assert "\n" not in str(error)
    assert len(str(error)) < 900


@pytest.fixture(scope="module")
def bases(files: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """config.json of all families, in both key styles, and packed."""
    old = [models.config_from_hf(raw).to_hf() for raw in files.values()]
    fp8 = files["deepseek_v3"] | {"quantization_config": tiny.FP8}
    mxfp4 = {"hidden_size": 32, "intermediate_size": 32, "quantization_config": {"quant_method": "mxfp4"}}
    return [*files.values(), *old, fp8, files["gpt_oss"] | mxfp4]


@fuzz
@given(data=st.data())
def test_config_json(bases: list[dict[str, Any]], data: Any) -> None:
    raw = data.draw(damaged(data.draw(st.sampled_from(bases))))
    try:
        config = models.config_from_hf(raw, "here/config.json")
    except models.ModelConfigError as error:
        in_words(error, "here/config.json: ")
    else:
        assert [rope.frequencies(8).shape for rope in config.ropes[:3]]
        assert models.config_from_hf(config.to_hf()) == config


@fuzz
@given(data=st.data())
def test_bytes_of_config_json(tmp_path: Path, files: dict[str, dict[str, Any]], data: Any) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data.draw(cut(json.dumps(files["gemma3"]).encode())))
    try:
        models.read_config(tmp_path)
    except models.ModelConfigError as error:
        in_words(error, path)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    tiny.llama(folder, num_hidden_layers=1)
    return folder


@fuzz
@given(data=st.data())
def test_index(llama: Path, tmp_path: Path, data: Any) -> None:
    names = sorted(read_header(llama / "model.safetensors"))
    index = {"metadata": {"total_size": 5}, "weight_map": dict.fromkeys(names[:4], "model-00001-of-00001.safetensors")}
    path = tmp_path / "model.safetensors.index.json"
    changed = data.draw(damaged(index).map(lambda value: json.dumps(value).encode()) | cut(json.dumps(index).encode()))
    path.write_bytes(changed)
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    try:
        open_tensors(tmp_path)
    except models.WeightsError as error:
        in_words(error, "model.safetensors.index.json")


@fuzz
@given(data=st.data())
def test_safetensors_header(llama: Path, tmp_path: Path, data: Any) -> None:
    whole = (llama / "model.safetensors").read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header, rest = whole[8 : 8 + size], whole[8 + size :]
    if data.draw(st.booleans()):
        header = json.dumps(data.draw(damaged(json.loads(header)))).encode()
    else:
        header = data.draw(cut(header))
    length = data.draw(st.sampled_from([len(header)] * 8 + [0, max(0, len(header) - 1), 2**63]))
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + rest)
    try:
        for tensor in read_header(path).values():
            assert tensor.code not in DTYPES or tensor.array.shape == tensor.shape
    except models.WeightsError as error:
        in_words(error, path)


@settings(fuzz, max_examples=200)
@given(data=st.data())
def test_tokenizer_config_json(tmp_path: Path, data: Any) -> None:
    vocab.small_chatml(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    base = json.loads(path.read_text())
    number = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"][1]["id"]
    decoder = {str(number): {"content": "<|im_start|>", "special": True, "lstrip": False}}
    base |= {"bos_token": "<|im_start|>", "added_tokens_decoder": decoder, "additional_special_tokens": ["<|im_end|>"]}
    changed = json.dumps(data.draw(damaged(base))).encode()
    path.write_bytes(changed if data.draw(st.integers(0, 4)) else data.draw(cut(changed)))
    try:
        chat = Chat.load(tmp_path)
        chat.check()
        assert chat.eos_ids is not None
    except UserError as error:
        in_words(error, tmp_path, path.name)


@settings(fuzz, max_examples=100)
@given(data=st.data())
def test_tokenizer_json(tmp_path: Path, data: Any) -> None:
    vocab.small_chatml(tmp_path)
    path = tmp_path / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec |= data.draw(damaged({key: value for key, value in spec.items() if key != "model"}))
    if data.draw(st.booleans()):
        spec["model"] = data.draw(VALUES | st.just(spec["model"] | {"merges": data.draw(VALUES)}))
    path.write_bytes(json.dumps(spec).encode())
    try:
        Chat.load(tmp_path).check()
    except UserError as error:
        in_words(error, tmp_path, path.name)


def read_gguf(path: Path) -> None:
    try:
        file = GGUFFile(path)
        hf_config(file, "float32")
        hf_names(file)
        build_tokenizer(file)
    except UserError as error:
        in_words(error, path)


@fuzz
@given(data=st.data())
def test_bytes_of_gguf(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "tiny.gguf"
    whole = tiny_gguf.write(path, tiny_gguf.METADATA, TENSORS).read_bytes()
    header = whole.index(b"output_norm.weight") + 1000
    path.write_bytes(data.draw(cut(whole[:header])) + whole[header:])
    read_gguf(path)


@fuzz
@given(data=st.data())
def test_metadata_of_gguf(tmp_path: Path, data: Any) -> None:
    values = st.sampled_from([None, True, 0, 7, 2**31, 2**40, 0.5, float("nan"), "", "yarn", ["a"], [1, 2], [0.5]])
    more = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0, "llama.attention.key_length": 8}
    more |= {"split.no": 0, "split.count": 1, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_bos_token": True}
    base = tiny_gguf.METADATA | more
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(base)), values, max_size=3))
    path = tmp_path / "tiny.gguf"
    read_gguf(tiny_gguf.write(path, base | changes, TENSORS))
