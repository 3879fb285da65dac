"""Incremental tokens equal those of the whole text: real vocabularies, every kind of text, any cut."""

import itertools
import json
import logging
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tessy_jax.text.retokenize import Retokenizer, TokenEdit
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.text.words import next_cut
from tests.kit import vocab

REAL = ["qwen3", "o200k"]
NAMES = [*REAL, "r1", "small_chatml", "small_plain", "sentencepiece"]

WORDS = {
    "english": [
        "It's",
        "the",
        "sum,",
        "isn't",
        "it?",
        "They'll",
        "say:",
        "“we",
        "don't",
        "know”",
        "—",
        "(see",
        "below).",
        "Well...\n\n",
        "But,",
        "no;",
        "I'd",
        "check\n*",
        "the\n#",
        "end.\n",
    ],
    "maths": [
        "x‑y",
        "a\u202f≤\u202fb",
        "→",
        "f(x)=x^2,",
        "\\frac{1}{2}",
        "$n$",
        "3.14159",
        "12345678",
        "∑_{i=1}^n",
        "≈",
        "10\u202f000",
        "\\]\n\n",
        "Hence\n1.",
        "√2",
        "÷",
    ],
    "code": [
        "def",
        "f(x):\n",
        "",
        "",
        "",
        "return",
        "x",
        "",
        "#",
        "no\n\n\nclass",
        "A:\n\tpass\n",
        "if",
        "a==b:",
        "a[0]+=1",
        '"s"',
        "//",
        "c\n{};",
        "/*",
        "*/\n\n",
        "/path\n",
        "",
        "->",
        "",
        "x|y",
    ],
    "chinese": [
        "我们",
        "需要",
        "证明。",
        "首先，",
        "设",
        "x",
        "为",
        "整数",
        "\n\n",
        "则",
        "有",
        "：「",
        "三",
        "」",
        "的",
        "12",
        "倍",
        "。",
        "因此",
        "答案",
        "是",
        "こんにちは",
        "한국어",
    ],
    "emoji": ["👍", "👩\u200d🔬", "🇩🇪", "ok", "👍🏽", "✅", "done\n", "🎉🎉", "é", "ña", "é", "☺️"],
    "base64": ["".join(random.Random(i).choices("ABCDEFabcdef0123456789+/", k=40)) for i in range(8)]
    + ["=\n", "data:"],
    "digits": [
        "0",
        "12",
        "123",
        "1234",
        "12345678901234567890",
        "1,000,000",
        "3.14",
        "1e-9",
        "007",
        "2024-01-01\n",
        "١٢٣",
        "½",
        "x2",
        "2x",
    ],
    "lines": [
        "a\r\nb",
        "\r\n",
        "\r\n\r\nend.\r\n",
        "\n",
        "\n\n",
        "\t\tx",
        "",
        "",
        "",
        "y\n",
        "",
        "",
        "",
        "z",
        "",
        "",
        "",
        "",
        "\n",
        "",
        "1)\n",
        "-\n\xa0",
        "\u3000",
        "\u2028",
        "\x1c",
    ],
}
JOINED = {"chinese": "", "base64": ""}


def texts(kind: str, seed: int, size: int = 500) -> bytes:
    rng, parts = random.Random(f"{kind}{seed}"), []
    while sum(map(len, parts)) < size:
        parts.append(rng.choice(WORDS[kind]))
        parts.append(JOINED.get(kind) if kind in JOINED and rng.random() < 0.9 else rng.choice([" "] * 12 + ["", "  "]))
    return "".join(parts).encode()


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {name: ContentTokenizer.load(getattr(vocab, name)(root / name)) for name in NAMES}


@pytest.fixture(scope="module")
def retokenizers(tokenizers):
    return {name: Retokenizer(tokenizer) for name, tokenizer in tokenizers.items()}


class Buffer:
    """A token buffer that is kept up to date by edits, and compared with the encoding of the whole text."""

    def __init__(self, retokenizer: Retokenizer):
        self.retokenizer, self.ids, self.ends, self.at = retokenizer, [], [], 0

    def move(self, text: bytes, to: int) -> TokenEdit:
        edit = self.retokenizer.edit(text, self.at, to)
        keep = len(self.ids) - edit.drop
        assert keep >= 0
        self.ids, self.ends, self.at = self.ids[:keep] + edit.ids, self.ends[:keep] + edit.ends, to
        whole = self.retokenizer.tokenizer.encode(text[:to])
        assert (self.ids, self.ends) == whole, (text[:to], edit)
        return edit


def word_cuts(text: bytes, ends: list[int]) -> list[int]:
    found = [0]
    while (cut := next_cut(text, found[-1], ends, len(text))) is not None:
        found.append(cut)
    return found[1:]


def characters(text: bytes) -> list[int]:
    return [i for i in range(1, len(text)) if text[i] & 0xC0 != 0x80] + [len(text)]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("kind", WORDS)
def test_hand_over_at_words_equals_the_whole_text(tokenizers, retokenizers, name, kind):
    """Text cut at the words of the other model, handed over in spans of a few words: 100,000 hand-overs in all."""
    other = tokenizers[REAL[1 - REAL.index(name)]]
    rng, seed, moves, dropped = random.Random(1), 0, 0, 0
    while moves < 6300:
        seed += 1
        text = texts(kind, seed)
        cuts = word_cuts(text, other.encode(text)[1])
        buffer, at = Buffer(retokenizers[name]), 0
        while at < len(cuts):
            dropped = max(dropped, buffer.move(text, cuts[at]).drop)
            moves += 1
            at += rng.choice([1, 1, 1, 2, 5])
    assert dropped <= 8  # a span that ends between words changes few earlier tokens


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", WORDS)
def test_any_cut_and_any_rollback(retokenizers, name, kind):
    rng = random.Random(2)
    for seed in range(6):
        text = texts(kind, seed, size=300)
        places, buffer = characters(text), Buffer(retokenizers[name])
        for _ in range(60):
            buffer.move(text, rng.choice(places))


ODD = st.text(
    alphabet=st.one_of(
        st.sampled_from(
            " \n\r\t'sStdD/.,!?aAbZ019éßſ\u0301\u0338\u0345\u3099中の한\u00a0\u2028\u3000\u200d▁<>=\x1c\x85👍"
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(NAMES), ODD, st.data())
@example("qwen3", "a \u0301b\nc\u0301", None)
@example("small_plain", "x\n\n\nab", None)
@example("o200k", "(x)\n/a\n/ b", None)
@example("sentencepiece", "a▁▁b  \n\n\n\nc\n <h1>▁", None)
def test_any_unicode_at_any_cut(retokenizers, name, text, data):
    text = text.encode()
    places = [0, *characters(text)] if text else [0]
    buffer = Buffer(retokenizers[name])
    for place in places if data is None else data.draw(st.lists(st.sampled_from(places), max_size=6)):
        buffer.move(text, place)


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(NAMES), ODD)
@example("small_plain", "x\n\n\nab")
@example("o200k", "a.\n\n b\r\nc")
def test_stable_prefixes_are_prefixes(retokenizers, name, text):
    text, retokenizer = text.encode(), retokenizers[name]
    for p in characters(text) if text else []:
        if retokenizer.prefix_stable(text, p):
            ids, _ = retokenizer.tokenizer.encode(text[:p])
            for q in characters(text):
                if q > p:
                    assert retokenizer.tokenizer.encode(text[:q])[0][: len(ids)] == ids


def test_word_ends_are_mostly_stable(retokenizers):
    text = texts("english", 1, 4000)
    for name in NAMES:
        cuts = word_cuts(text, [])
        stable = sum(retokenizers[name].prefix_stable(text, cut) for cut in cuts)
        assert stable > 0.6 * len(cuts), name  # the text is full of newlines and quotation marks
        assert not retokenizers[name].prefix_stable(text, len(text))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", WORDS)
def test_nested_words(retokenizers, name, kind):
    retokenizer, encode = retokenizers[name], retokenizers[name].tokenizer.encode
    text = texts(kind, 7, 400)
    cuts = word_cuts(text, encode(text)[1])
    for i in range(0, len(cuts) - 6, 3):
        ends = cuts[i + 1 : i + 6]
        edit, reached = retokenizer.edit_through(text, cuts[i], ends)
        assert edit == retokenizer.edit(text, cuts[i], ends[reached])
        words = [encode(text[:end])[0] for end in ends]
        nested = [b[: len(a)] == a for a, b in itertools.pairwise(words)]
        assert reached == (nested.index(False) if False in nested else len(nested))


def test_edits_are_small_and_exact(retokenizers):
    qwen = retokenizers["qwen3"]
    assert qwen.edit(b"a b", 2, 2) == TokenEdit(0, [], [])
    assert qwen.edit(b"one two three", 3, 7) == TokenEdit(0, qwen.tokenizer.encode(b" two")[0], [7])
    # Two newlines that meet are one token.
    assert qwen.edit(b"a b.\n\n", 5, 6) == TokenEdit(1, qwen.tokenizer.encode(b".\n\n")[0], [6])
    assert qwen.edit(b"one two three", 13, 7) == TokenEdit(1, [], [])


def test_little_text_is_encoded(tokenizers, monkeypatch):
    """The work of a hand-over does not grow with the text."""
    text = texts("english", 3, 20_000)
    for name in NAMES:
        retokenizer, seen = Retokenizer(tokenizers[name]), []
        encode = tokenizers[name].encode
        monkeypatch.setattr(
            tokenizers[name], "encode", lambda data, seen=seen, encode=encode: seen.append(len(data)) or encode(data)
        )
        cuts = word_cuts(text, [])
        for old, new in zip(cuts[-200:], cuts[-195:], strict=False):
            retokenizer.edit(text, old, new)
        assert max(seen) < 200


def test_unknown_pre_tokenizers_encode_the_whole_text(tokenizers, caplog):
    base = json.loads(json.dumps(tokenizers["small_chatml"].spec))
    split = base["pre_tokenizer"]["pretokenizers"][0]

    def rule(**change):
        spec = json.loads(json.dumps(base))
        spec["pre_tokenizer"]["pretokenizers"][0] = {**split, **change}
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            retokenizer = Retokenizer(ContentTokenizer(spec, source="X"))
        return retokenizer.sync_before(b"a b c d", 7), [r.getMessage()[: len(says[0])] for r in caplog.records]

    says = ["X: its pre-tokenizer is not known to tessy_jax, so each hand-"]
    known = split["pattern"]["Regex"]
    assert rule() == (5, [])
    assert rule(pattern={"Regex": known + "|a b"}) == (0, says)
    assert rule(pattern={"Regex": known.replace(r"|\s+(?!\S)|\s+", r"|\s+(?!\S)")}) == (0, says)
    assert rule(behavior="Removed", invert=True) == (0, says)
    assert rule(type="Punctuation") == (0, says)
    spec = json.loads(json.dumps(tokenizers["small_chatml"].spec))
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|a b"
    retokenizer = Retokenizer(ContentTokenizer(spec))
    text, buffer = b"a b a b\nc d a b", Buffer(retokenizer)
    for place in (3, 9, 15, 2):
        buffer.move(text, place)


R1_SPLITS = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@pytest.mark.parametrize("family", ["r1", "smollm2"])
def test_several_splits(tokenizers, family):
    """DeepSeek-R1's three expressions, and SmolLM2's digits before GPT-2's expression."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": family != "r1"}
    splits = [{"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False} for r in R1_SPLITS]
    steps = splits if family == "r1" else [{"type": "Digits", "individual_digits": True}]
    spec = {**tokenizers["small_chatml"].spec, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, level]}}
    retokenizer, rng = Retokenizer(ContentTokenizer(spec)), random.Random(3)
    assert retokenizer.sync_before(b"a b", 3) == 1
    for kind in WORDS:
        for seed in range(5):
            text = texts(kind, seed, 300)
            buffer, places = Buffer(retokenizer), characters(text)
            for _ in range(40):
                buffer.move(text, rng.choice(places))
            for p in filter(lambda p: retokenizer.prefix_stable(text, p), places):
                ids = retokenizer.tokenizer.encode(text[:p])[0]
                assert retokenizer.tokenizer.encode(text)[0][: len(ids)] == ids
