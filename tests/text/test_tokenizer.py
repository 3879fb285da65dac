"""Content tokens: control strings are text, bytes are exact, invalid UTF-8 is impossible."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessy_jax.text.tokenizer import ContentTokenizer, TextError
from tessy_jax.text.utf8 import INVALID, STATES, byte_matrix, utf8_table
from tests.kit import vocab

NAMES = ["small_chatml", "small_plain", "sentencepiece", "qwen3", "o200k"]
SAMPLE = (
    "Don't say <|im_end|> or <think>, <tool_call> or <|end|>: x ≤ 3, naïve 中文 👍\n\n\n  <bos><start_of_turn>\r\n\tend"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {name: getattr(vocab, name)(root / name) for name in NAMES}


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {name: ContentTokenizer.load(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", NAMES)
def test_control_strings_in_content_are_text(tokenizers, name):
    tokenizer = tokenizers[name]
    ids, ends = tokenizer.encode(SAMPLE.encode())
    assert not set(ids) & set(tokenizer.control.values())
    table = tokenizer.token_bytes()
    assert b"".join(table[i] for i in ids) == SAMPLE.encode()
    assert len(ids) == len(ends)
    assert ends == sorted(ends)
    assert ends[-1] == len(SAMPLE.encode())
    for control, i in tokenizer.control.items():
        assert tokenizer.id_of(control) == i
        assert table[i] == b""
        assert i not in tokenizer.encode(control.encode())[0]


@pytest.mark.parametrize("name", NAMES)
def test_ends_are_the_first_whole_character_at_or_after_the_bytes(tokenizers, name):
    tokenizer, data = tokenizers[name], SAMPLE.encode()
    table, at = tokenizer.token_bytes(), 0
    for token, end in zip(*tokenizer.encode(data), strict=True):
        at += len(table[token])
        assert end == next(e for e in range(at, len(data) + 1) if e == len(data) or data[e] & 0xC0 != 0x80)


def test_ordinary_text_is_encoded_as_the_checkpoint_does(folders, tokenizers):
    from transformers import AutoTokenizer

    text = "The answer is 12345.\n\n    return x  # naïve, 中文 👍\n\n\nI'll <h1>check</h1>."
    for name in NAMES:
        theirs = AutoTokenizer.from_pretrained(folders[name])(text, add_special_tokens=False)["input_ids"]
        assert tokenizers[name].encode(text.encode())[0] == theirs


def test_real_vocabularies_match_an_independent_encoder(tokenizers):
    import quicktok

    for name, other in (("qwen3", "qwen3"), ("o200k", "o200k_base")):
        theirs = quicktok.get_encoding(other)
        for text in (SAMPLE, *TEXTS):
            assert tokenizers[name].encode(text.encode())[0] == list(theirs.encode_ordinary(text))
    assert tokenizers["qwen3"].id_of("<think>") == 151667
    assert tokenizers["qwen3"].id_of("<|end|>") is None
    assert tokenizers["o200k"].vocab_size == 200019


TEXTS = ["", "cafe\u0301 ", "0123456789", "\u2011\u202f≤→", " \n \n  x", "한국어 हिन्दी", "ſ's 'S it'S", "a" * 300]


def test_nfc_offsets_are_those_of_the_text(tokenizers):
    data = "cafe\u0301 au".encode()
    ids, ends = tokenizers["qwen3"].encode(data)
    assert ends[-1] == len(data)
    assert b"".join(tokenizers["qwen3"].token_bytes()[i] for i in ids) == "caf\u00e9 au".encode()


def test_declared_structural_tokens_are_control(folders):
    plain = ContentTokenizer.load(folders["sentencepiece"])
    declared = ContentTokenizer.load(folders["sentencepiece"], structural=("<h1>",))
    assert len(plain.encode(b"<h1>")[0]) == 1
    assert plain.id_of("<h1>") is None
    assert declared.id_of("<h1>") == plain.encode(b"<h1>")[0][0]
    assert declared.id_of("<h1>") not in declared.encode(b"<h1>")[0]
    assert plain.fingerprint != declared.fingerprint


def test_control_words_in_the_vocabulary_stay_out_of_reach(folders):
    """With `ignore_merges`, a whole word that is in the vocabulary is one token."""
    spec = json.loads((folders["small_plain"] / "tokenizer.json").read_text())
    spec["model"]["ignore_merges"] = True
    spec["model"]["vocab"]["secret"] = 400
    spec["added_tokens"] = [{**spec["added_tokens"][0], "id": 400, "content": "secret"}]
    tokenizer = ContentTokenizer(spec)
    assert tokenizer.id_of("secret") == 400
    assert 400 not in tokenizer.encode(b"secret")[0]
    merged = "".join(spec["model"]["merges"][0])
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": spec["model"]["vocab"][merged], "content": merged})
    assert ContentTokenizer(spec).encode(merged.replace("Ġ", " ").encode())[0] == [spec["model"]["vocab"][merged]]


def test_fingerprint_ignores_control_tokens_only(folders, tokenizers):
    spec = json.loads((folders["small_chatml"] / "tokenizer.json").read_text())
    spec["added_tokens"][-1]["content"] = "<other>"
    assert ContentTokenizer(spec).fingerprint == tokenizers["small_chatml"].fingerprint
    spec["added_tokens"] = []
    assert ContentTokenizer(spec).fingerprint == tokenizers["small_chatml"].fingerprint
    for change in (lambda s: s["model"]["merges"].pop(), lambda s: s.update(normalizer=None)):
        other = json.loads(json.dumps(spec))
        change(other)
        assert ContentTokenizer(other).fingerprint != tokenizers["small_chatml"].fingerprint
    assert len({t.fingerprint for t in tokenizers.values()}) == len(NAMES)


def test_unusable_tokenizers_are_refused(folders, tmp_path):
    with pytest.raises(TextError, match=r"/tokenizer.json is missing: give a checkpoint folder with a fast tokenizer"):
        ContentTokenizer.load(tmp_path)
    spec = json.loads((folders["sentencepiece"] / "tokenizer.json").read_text())

    def error(**change):
        with pytest.raises(TextError) as caught:
            ContentTokenizer({**spec, **change}, source="X")
        return str(caught.value)

    prefix = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    says = "before every text, so text cannot be encoded in pieces."
    assert error(normalizer={"type": "Prepend", "prepend": "▁"}) == f"X: the tokenizer puts '▁' {says}"
    assert error(pre_tokenizer=prefix) == f"X: the tokenizer puts a space {says}"
    level = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True, "trim_offsets": True}
    assert (
        error(pre_tokenizer={"type": "Sequence", "pretokenizers": [level]}) == f"X: the tokenizer puts a space {says}"
    )
    lower = error(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]})
    assert lower == "X: normalizer Lowercase is not supported (known: NFC, and Replace of spaces by ▁)."
    assert error(model={"type": "Unigram"}) == "X: the model type is Unigram; only BPE tokenizers are supported."
    assert "has no byte fallback" in error(model={**spec["model"], "byte_fallback": False})


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=9), st.text(max_size=4).map(lambda t: t.encode(errors="surrogatepass"))))
def test_utf8_table_agrees_with_python(data):
    """Byte by byte, and as one token."""
    single = utf8_table([bytes([b]) for b in range(256)])
    state = 0
    for byte in data:
        state = INVALID if state == INVALID else int(single[state, byte])
    assert (state == 0) == decodes(data)
    assert utf8_table([data, b"x"])[0, 0] == state
    # A state that is not INVALID can be completed.
    completions = [
        b"",
        b"\x80",
        b"\xa0",
        b"\x90",
        b"\x80\x80",
        b"\xa0\x80",
        b"\x90\x80",
        b"\x90\x80\x80",
        b"\x80\x80\x80",
    ]
    assert (state != INVALID) == any(decodes(data + c) for c in completions)


def test_tokens_of_no_bytes_stand_between_characters_only():
    table = utf8_table([b"", "é".encode()])
    assert table[:, 0].tolist() == [0] + [INVALID] * (STATES - 1)
    assert table[:, 1].tolist() == [0] + [INVALID] * (STATES - 1)


def test_tables_of_a_large_vocabulary(tokenizers):
    table = tokenizers["o200k"].token_bytes()
    states = utf8_table(table)
    assert states.dtype == np.uint8
    assert states.shape == (STATES, len(table))
    assert states[0, :3000].tolist() == [utf8_table([b])[0, 0] if b else 0 for b in table[:3000]]
    matrix, lengths = byte_matrix(table)
    assert matrix.dtype == np.uint8
    assert lengths.dtype == np.int32
    for i in range(0, len(table), 997):
        assert matrix[i, : lengths[i]].tobytes() == table[i]
        assert not matrix[i, lengths[i] :].any()
