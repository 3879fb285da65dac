"""Rebuild a Hugging Face tokenizer from a GGUF file's metadata.

Built from parts of package `tokenizers`, so that the result does not depend on the version of transformers, whose own
GGUF import it equals token for token (`tests/commands/test_convert.py`). That includes pre-tokenizer "smollm", which
transformers reads as GPT-2's: llama.cpp and the original SmolLM2 split digits off first, so that whitespace runs
before a digit ("\\n\\n1") are one token there and one per character here.
"""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from tessy_jax.models.gguf.reader import GGUFError, GGUFFile

_CONTROL, _USER_DEFINED = 3, 4
"""Values of tokenizer.ggml.token_type (llama.cpp, llama_token_type)."""

_GPT2_PRE_TOKENIZERS = ("default", "gpt-2", "smollm")


def build_tokenizer(file: GGUFFile) -> tuple[Tokenizer, dict[str, Any]]:
    """The file's tokenizer and its tokenizer_config.json (special tokens, chat template).

    Control tokens become special added tokens and user-defined ones ordinary added tokens, so both stay whole.

    Raises:
        GGUFError: a kind of tokenizer that is not supported, or missing metadata.
    """
    kind, pre = file.text("tokenizer.ggml.model"), file.text("tokenizer.ggml.pre", "default")
    tokens = file.several("tokenizer.ggml.tokens", str)
    special = _special(file, tokens)
    if kind == "gpt2" and pre in _GPT2_PRE_TOKENIZERS:
        tokenizer = _byte_level(file, tokens)
    elif kind == "llama" and file["general.architecture"] == "gemma3":
        # GGUF spells a run of spaces with real spaces, the vocabulary with "▁".
        tokens = ["▁" * len(token) if token.isspace() and " " in token else token for token in tokens]
        if "unk_token" not in special:
            raise GGUFError(f"{file.path}: the metadata has no 'tokenizer.ggml.unknown_token_id', which texts need")
        tokenizer = _gemma(tokens, special["unk_token"])
    else:
        raise GGUFError(
            f"{file.path}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported for architecture"
            f" {file['general.architecture']!r}; use the model's own Hugging Face folder instead"
        )
    types = file.several("tokenizer.ggml.token_type", int)
    if len(types) != len(tokens):
        raise GGUFError(f"{file.path}: tokenizer.ggml.token_type: has {len(types)} entries for {len(tokens)} tokens")
    for wanted, is_special in ((_CONTROL, True), (_USER_DEFINED, False)):
        tokenizer.add_tokens(
            [
                AddedToken(token, normalized=False, special=is_special)
                for token, token_type in zip(tokens, types, strict=True)
                if token_type == wanted
            ]
        )
    _add_ends(tokenizer, file, special)
    config = {
        # The generic class takes tokenizer.json as it stands; a model's own class may rebuild parts of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": file.count(f"{file['general.architecture']}.context_length"),
        "clean_up_tokenization_spaces": False,
        **special,
    }
    if template := file.text("tokenizer.chat_template", ""):
        config["chat_template"] = template
    return tokenizer, config


def _special(file: GGUFFile, tokens: list[str]) -> dict[str, str]:
    """The special tokens that the file names."""
    keys = {
        "bos_token": "bos_token_id",
        "eos_token": "eos_token_id",
        "unk_token": "unknown_token_id",
        "pad_token": "padding_token_id",
    }
    special: dict[str, str] = {}
    for name, key in keys.items():
        if f"tokenizer.ggml.{key}" in file.keys:
            token = file.count(f"tokenizer.ggml.{key}", least=0)
            if token >= len(tokens):
                raise GGUFError(f"{file.path}: tokenizer.ggml.{key}: is {token}, but there are {len(tokens)} tokens")
            special[name] = tokens[token]
    return special


def _byte_level(file: GGUFFile, tokens: list[str]) -> Tokenizer:
    known, pairs = set(tokens), []
    for number, merge in enumerate(file.several("tokenizer.ggml.merges", str)):
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= known:
            raise GGUFError(f"{file.path}: tokenizer.ggml.merges: entry {number} is {merge!r}, which makes no token")
        pairs.append((left, right))
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gemma(tokens: list[str], unknown: str) -> Tokenizer:
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=_implied_merges(vocab), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _implied_merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, in the order of the vocabulary: the file lists no merges."""
    return [
        (token[:i], token[i:])
        for token in vocab
        for i in range(len(token) - 1, 0, -1)
        if token[:i] in vocab and token[i:] in vocab
    ]


def _add_ends(tokenizer: Tokenizer, file: GGUFFile, special: dict[str, str]) -> None:
    # llama.cpp adds the beginning token to a SentencePiece vocabulary that does not say otherwise.
    add_bos = file.get("tokenizer.ggml.add_bos_token", file["tokenizer.ggml.model"] == "llama")
    add_eos = file.get("tokenizer.ggml.add_eos_token", False)
    for adds, name in ((add_bos, "bos_token"), (add_eos, "eos_token")):
        if adds and name not in special:
            raise GGUFError(f"{file.path}: the metadata has no 'tokenizer.ggml.{name}_id', which texts need")
    first = [special["bos_token"]] if add_bos else []
    last = [special["eos_token"]] if add_eos else []
    if not first and not last:
        return
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *(f"{token}:1" for token in first), "$B:1", *(f"{token}:1" for token in last)],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in first + last],
    )
