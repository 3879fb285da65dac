"""Tokens and bytes: a checkpoint's tokenizer for *content*, and the tables that sampling needs.

Content is what people and models write. A control string inside it (`<|im_end|>`, `<think>`) is text and never
becomes a control token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tessy_jax.errors import UserError
from tessy_jax.text.files import read_json, without_collection


class TextError(UserError, ValueError):
    """A tokenizer, template or marker that cannot be used; the message says what to do."""


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}


BYTE_OF = _byte_alphabet()


def parts_of(spec: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder as a flat list (`Sequence` opened; `None` is no step)."""
    if spec is None:
        return []
    if spec["type"] == "Sequence":
        return [part for child in spec[inner] for part in parts_of(child, inner)]
    return [spec]


class ContentTokenizer:
    """Encodes content with the vocabulary of one checkpoint, and knows the bytes of every token.

    It is the checkpoint's `tokenizer.json` without BOS, truncation, padding and control tokens. Which added tokens
    are control: in a byte-level vocabulary all of them (`<think>` and `<tool_call>` are declared "not special" there,
    yet act as control tokens); in a SentencePiece-style one (Gemma) those declared special and those named in
    `structural`: the others, such as runs of newlines, are how ordinary text is written.
    """

    def __init__(self, spec: Mapping[str, Any], structural: tuple[str, ...] = (), source: str = "tokenizer.json"):
        """`spec` is the parsed tokenizer.json; `source` names it in errors. Raises `TextError` for a tokenizer that
        is not supported.
        """
        model = spec["model"]
        if model.get("type", "BPE") != "BPE":
            raise TextError(f"{source}: the model type is {model['type']}; only BPE tokenizers are supported.")
        _refuse_position_dependence(spec, source)
        self.source = source
        pre_tokenizers = parts_of(spec.get("pre_tokenizer"), "pretokenizers")
        decoders = parts_of(spec.get("decoder"), "decoders")
        self.byte_level = any(part["type"] == "ByteLevel" for part in pre_tokenizers + decoders)
        if not self.byte_level and not model.get("byte_fallback"):
            raise TextError(
                f"{source}: the vocabulary is not byte-level and has no byte fallback, so some text has no tokens."
                " Use another model."
            )

        added = spec.get("added_tokens", [])
        control = [t for t in added if self.byte_level or t["special"] or t["content"] in structural]
        kept = [t for t in added if t not in control]
        self.control: dict[str, int] = {t["content"]: t["id"] for t in control}
        """Control tokens by their string."""
        self._spec = {**spec, "added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
        if model.get("ignore_merges"):
            # There a whole word that is in the vocabulary is one token, made by merges or not.
            merged = {left + right for left, right in map(halves, model["merges"])}
            vocab = {t: i for t, i in model["vocab"].items() if t not in self.control or t in merged}
            self._spec["model"] = {**model, "vocab": vocab}
        self._tokenizer = Tokenizer.from_str(json.dumps(self._spec))
        self._ids = {**model["vocab"], **{t["content"]: t["id"] for t in added}}
        self.vocab_size = max(self._ids.values()) + 1
        """1 + the highest id. A model's embedding may have more rows (padding)."""
        self._special = {t["content"] for t in added if t["special"]}

    @classmethod
    def load(cls, folder: str | Path, structural: tuple[str, ...] = ()) -> ContentTokenizer:
        """Reads `folder/tokenizer.json`. Raises `TextError` when it is missing or not supported."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise TextError(f"{path} is missing: give a checkpoint folder with a fast tokenizer (tokenizer.json).")
        try:
            with without_collection():
                return cls(read_spec(path), structural, str(path))
        except UserError:
            raise
        except Exception as error:  # a key that is missing, or what `tokenizers` raises, which is no more than this
            raise TextError(
                f"{path}: is no tokenizer that can be read ({type(error).__name__}: {error!s:.200}). Download it again."
            ) from None

    def check_fits(self, rows: int, written: str = "") -> None:
        """Raises `TextError` where a model's embedding, which has so many rows, has none for a token that may be read.

        A special token beyond them is none of these where nothing writes it (`<image_soft_token>` of Gemma 3 for text).

        Args:
            rows: config.json's vocab_size.
            written: what prompts are written with besides content: the chat template and markers.
        """
        beyond = sorted((i, token) for token, i in self._ids.items() if i >= rows)
        read = [(i, token) for i, token in beyond if token not in self._special or token in written]
        if read:
            raise TextError(
                f"{self.source}: has {self.vocab_size} tokens, but config.json beside it has vocab_size {rows}: the"
                f" model has no embedding for {read[0][1]!r} (id {read[0][0]}). Resize the embeddings"
                " (model.resize_token_embeddings) and save the model again, or take its own tokenizer.json."
            )

    @property
    def spec(self) -> Mapping[str, Any]:
        """The tokenizer.json that is in force, without what `__init__` removed."""
        return self._spec

    @property
    def ids(self) -> dict[str, int]:
        """The id of every token, control tokens included."""
        return self._ids

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer that encodes."""
        return self._tokenizer

    def encode(self, data: bytes) -> tuple[list[int], list[int]]:
        """Token ids of valid UTF-8 `data`, and the byte offset in `data` where each token ends (never decreasing).

        A token that ends inside a character gets the end of that character. Where the tokenizer normalises (Qwen:
        NFC), offsets are those of `data`, while `token_bytes` are those of the normalised text.
        """
        text = data.decode()
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ends = [end for _, end in encoding.offsets]
        if len(text) != len(data):
            code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
            width = 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)
            byte_end = np.concatenate([[0], np.cumsum(width)])
            ends = np.maximum.accumulate(byte_end[ends]).tolist() if ends else []
        return encoding.ids, ends

    def token_bytes(self) -> list[bytes]:
        """For each id below `vocab_size`, the bytes it stands for when generated; `b""` for control tokens and unused
        ids.
        """
        table = [b""] * self.vocab_size
        for token, i in self._ids.items():
            if token not in self.control:
                table[i] = self._bytes_of(token)
        return table

    def _bytes_of(self, token: str) -> bytes:
        if self.byte_level:
            return bytes(BYTE_OF[c] for c in token) if all(c in BYTE_OF for c in token) else b""
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode()

    def id_of(self, special: str) -> int | None:
        """The id of a control token, looked up by its string; `None` if the vocabulary has no such control token."""
        return self.control.get(special)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides tokenisation: equal for two checkpoints that encode content alike and whose
        tokens have the same bytes, whatever control tokens they have.
        """
        model = {k: v for k, v in self._spec["model"].items() if k != "vocab"}
        steps = [self._spec.get(k) for k in ("normalizer", "pre_tokenizer", "added_tokens")]
        table = {i: b.hex() for i, b in enumerate(self.token_bytes()) if b}
        return hashlib.sha256(json.dumps([steps, model, table], sort_keys=True).encode()).hexdigest()


def read_spec(path: Path) -> Mapping[str, Any]:
    """A parsed tokenizer.json. The last one is kept while its file stays as it is: Gemma's takes a second.

    Raises `TextError` where there is none that can be read.
    """
    try:
        state = path.stat()
    except OSError as reason:
        raise TextError(f"{path}: cannot be read ({reason.strerror}).") from None
    with without_collection():
        return _parse(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _parse(path: Path, changed: int, size: int) -> Mapping[str, Any]:
    return read_json(path, TextError)


def halves(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge as its two halves; older files write it as one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _refuse_position_dependence(spec: Mapping[str, Any], source: str) -> None:
    """Content is encoded in pieces, so what a text becomes must not depend on standing at the start."""
    for part in parts_of(spec.get("normalizer"), "normalizers"):
        nfc = part["type"] == "NFC"
        spaces = part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == "▁"
        if part["type"] == "Prepend":
            raise TextError(
                f"{source}: the tokenizer puts {part['prepend']!r} before every text,"
                " so text cannot be encoded in pieces."
            )
        if not nfc and not spaces:
            raise TextError(
                f"{source}: normalizer {part['type']} is not supported (known: NFC, and Replace of spaces by ▁)."
            )
    for part in parts_of(spec.get("pre_tokenizer"), "pretokenizers"):
        metaspace = part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never"
        if metaspace or part.get("add_prefix_space"):
            raise TextError(
                f"{source}: the tokenizer puts a space before every text, so text cannot be encoded in pieces."
            )
