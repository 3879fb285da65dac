"""The plain case of one vocabulary: what the device reads is what the host reads, and tokens it calls canonical are."""

import itertools
import json
import random
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE

from tessy_jax.cooperate.state import Finish, Role, State, Stream
from tessy_jax.cooperate.words_device import DeviceReading, DeviceWords
from tessy_jax.cooperate.words_host import AGAIN, MAX_WORDS
from tessy_jax.text.repetition import Repetition
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.text.words import is_blank, words
from tessy_jax.text_jax.canonical import Canonical
from tessy_jax.text_jax.characters import CharClass, class_table
from tessy_jax.text_jax.merges import Merges
from tessy_jax.text_jax.words import NONE, look_back, may_loop
from tests.kit import vocab
from tests.text.test_retokenize import ODD, WORDS, texts

NAMES = ["qwen3", "small_plain"]  # Qwen's expression with NFC, and GPT-2's
LOOP = Repetition(repeats=4, min_bytes=24, max_unit=64)
MARKER, BUDGET, LENGTH, PROMPT = b"</x>", 150, 2048, 3
PROBLEMS = [json.loads(line)["prompt"] for line in Path("configs/problems.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ContentTokenizer, Canonical]]:
    def load(name: str) -> tuple[ContentTokenizer, Canonical]:
        tokenizer = ContentTokenizer.load(getattr(vocab, name)(tmp_path_factory.mktemp(name)))
        canonical = Canonical.of(tokenizer)
        assert canonical is not None
        return tokenizer, canonical

    return {name: load(name) for name in NAMES}


def test_classes_are_those_of_the_tokenizer_that_is_asked(vocabularies) -> None:
    """One table serves all that split alike: not one that leaves numbers with letters, nor one without NFC."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.Punctuation()
    at_punctuation = SimpleNamespace(backend=backend, spec=json.loads(backend.to_str()))
    qwen, _ = vocabularies["qwen3"]
    five, acute = ord("5"), 0x301
    for _ in range(2):
        assert class_table(qwen, nfc=True)[five] == CharClass.NUMBER
        assert class_table(at_punctuation, nfc=True)[five] == CharClass.LETTER
        assert class_table(qwen, nfc=True)[acute] == CharClass.UNKNOWN
        assert class_table(qwen, nfc=False)[acute] != CharClass.UNKNOWN


def test_neighbours_are_joined_as_their_bytes_are(vocabularies) -> None:
    """Random tokens side by side, and the two sides of random places in the bytes of two tokens."""
    for name, (tokenizer, canonical) in vocabularies.items():
        merges, ids = canonical.merges, tokenizer.spec["model"]["vocab"]
        of = {i: chars for chars, i in ids.items()}

        def encode(chars: str, model=tokenizer.backend.model) -> list[int]:
            return [t.id for t in model.tokenize(chars)]

        rng = random.Random(0)
        alone = [i for i in of if merges.alone[i]]
        assert len(alone) > 0.97 * len(of)
        assert all(encode(of[i]) == [i] for i in rng.choices(alone, k=3000))
        pairs = [tuple(rng.choices(alone, k=2)) for _ in range(2000)]
        for a, b in [tuple(rng.choices(alone, k=2)) for _ in range(4000)]:
            place = rng.randrange(1, len(of[a] + of[b]))
            left, right = (of[a] + of[b])[:place], (of[a] + of[b])[place:]
            pairs.append((encode(left)[-1], encode(right)[0]))
        pairs = [pair for pair in pairs if merges.alone[list(pair)].all()]
        left, right = np.array(pairs, np.int32).T
        joined = jax.jit(Merges.joined)(merges, left, right)
        assert joined.tolist() == [encode(of[a] + of[b]) == [a, b] for a, b in pairs]
        assert 0.2 < np.mean(joined) < 0.9, name


@jax.jit
def pretokens_of(canonical: Canonical, text: jax.Array, known: jax.Array) -> tuple[jax.Array, ...]:
    pretokens = canonical.pretokens
    classes = pretokens.classes_of(text, jnp.arange(text.shape[1])[None] < known)
    sure = pretokens.sure_boundaries(classes)
    return classes, pretokens.boundaries(text, classes), sure, pretokens.stable_ends(text, classes)


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(NAMES), ODD)
@example("qwen3", "x.\n \n\n  'Re y'll\n\n")
@example("small_plain", "don't  \n\n a'll 'd\u00a0x12 3")
def test_pretokens_are_the_tokenizers(vocabularies, name: str, text: str) -> None:
    """Where matches begin, where one surely does, and where the text may end; up to the first unknown character."""
    tokenizer, canonical = vocabularies[name]
    data = text.encode()
    padded = np.zeros((1, 192), np.uint8)
    padded[0, : len(data)] = np.frombuffer(data, np.uint8)
    classes, *_ = (np.asarray(a)[0] for a in pretokens_of(canonical, padded, len(data)))
    known = int(np.argmax(np.append(classes[: len(data)] == CharClass.UNKNOWN, True)))
    _, begin, sure, stable = (np.asarray(a)[0, :known] for a in pretokens_of(canonical, padded, known))

    def begins(end: int) -> set[int]:
        part = data[:end].decode()
        offsets = list(itertools.accumulate((len(c.encode()) for c in part), initial=0))
        return {offsets[a] for _, (a, _) in tokenizer.backend.pre_tokenizer.pre_tokenize_str(part)}

    normalizer = tokenizer.backend.normalizer
    assert normalizer is None or normalizer.normalize_str(data[:known].decode()).encode() == data[:known]
    expected = begins(known)
    assert {0, *np.flatnonzero(begin).tolist()} == {0, *expected}
    assert set(np.flatnonzero(sure).tolist()) <= expected
    for end in np.flatnonzero(stable).tolist():
        assert begins(end) == {p for p in expected if p < end}


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="ab -0\n", min_size=1, max_size=12), st.integers(1, 30), st.text(alphabet="ab -", max_size=20))
def test_no_loop_is_overlooked(unit: str, copies: int, before: str) -> None:
    text = (before + unit * copies).encode()
    extra = look_back(LOOP)
    padded = np.zeros((1, extra + 512), np.uint8)
    padded[0, extra : extra + len(text)] = np.frombuffer(text, np.uint8)
    ends = np.full((1, 8), NONE, np.int32)
    places = range(len(text), max(0, len(text) - 7), -1)
    ends[0, : len(places)] = [extra + place for place in places]
    found = bool(jax.jit(may_loop, static_argnums=2)(padded, ends, LOOP)[0])
    row, probe = padded[0].tobytes(), LOOP.probe_bytes
    ends = [extra + place for place in places]
    repeated = itertools.product(ends, range(1, LOOP.max_unit + 1))
    assert found == any(row[end - probe : end] == row[end - unit - probe : end - unit] for end, unit in repeated)
    assert found or not any(LOOP.loops(text, place) for place in places)


class Case:
    """A span in a text: its tokens are canonical, or each of several parts of it is encoded alone."""

    def __init__(self, tokenizer: ContentTokenizer, text: bytes, rng: random.Random, tidy: bool):
        whole, ends = tokenizer.encode(text)
        places = [0, *(end for end in ends if end < len(text) and text[end] & 0xC0 != 0x80)]
        self.start = rng.choice(places[: len(places) // 2 + 1])
        self.base = tokenizer.encode(text[: self.start])
        count = len(self.base[0])
        limit = rng.randrange(5, 70)
        if tidy and whole[:count] == self.base[0]:
            self.span = (whole[count:][:limit], ends[count:][:limit])
        else:
            self.span = ([], [])
            at = self.start
            while at < len(text) and len(self.span[0]) < limit:
                to = next((p for p in places if p > at + rng.choice([1, 3, 9, 40])), len(text))
                ids, part = tokenizer.encode(text[at:to])
                self.span = (self.span[0] + ids, self.span[1] + [at + end for end in part])
                at = to
        while self.span[1] and text[self.span[1][-1] :][:1] and text[self.span[1][-1]] & 0xC0 == 0x80:
            self.span = (self.span[0][:-1], self.span[1][:-1])
        self.written = self.span[1][-1] if self.span[1] else self.start
        self.text = text
        found = words(text, self.start, self.span[1], self.written, None, False, 1000).ends
        self.kept = rng.choice([self.start, self.start, *found])
        used = sum(end <= self.kept for end in self.span[1])
        self.canonical = tokenizer.encode(text[: self.kept])[0] == self.base[0] + self.span[0][:used]
        self.event = rng.choice([Finish.NONE] * 30 + [Finish.END])
        self.think_tokens = rng.choice([0, 0, 0, BUDGET - 20])


def state_of(cases: list[Case]) -> State:
    """The rows of a batch, as far as they are read."""
    size = len(cases)
    tokens, ends = np.zeros((2, size, LENGTH), np.int32)
    text = np.zeros((size, LENGTH), np.uint8)
    for b, case in enumerate(cases):
        text[b, : len(case.text)] = np.frombuffer(case.text, np.uint8)
        for array, values in zip((tokens, ends), zip(case.base, case.span, strict=True), strict=True):
            row = [0] * PROMPT + values[0] + values[1]
            array[b, : len(row)] = row
    base = np.array([PROMPT + len(case.base[0]) for case in cases])
    n = base + [len(case.span[0]) for case in cases]
    columns = {
        name: np.array([getattr(case, name) for case in cases])
        for name in ("kept", "written", "event", "think_tokens", "canonical")
    }
    start = np.array([case.start for case in cases])
    stream = Stream(tokens, ends, n, base, start, n, n)
    others = dict.fromkeys(State.__dataclass_fields__) | columns
    return State(**others | {"text": text, "span_start": start, "streams": (stream, stream), "style": ()})


@jax.jit
def read(canonical: Canonical, state: State) -> DeviceReading:
    return DeviceWords(Role.STUDENT, MARKER, LOOP, BUDGET, True, MAX_WORDS, 90).read(canonical, state)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_sure_is_what_the_host_reads(vocabularies, name: str) -> None:
    """Texts of all kinds, in tokens that are canonical and in others; some with a marker or a loop inside."""
    tokenizer, canonical = vocabularies[name]
    rng, sure, read_words, proven = random.Random(3), 0, 0, 0
    for seed, kind in itertools.product(range(3), [*WORDS, "prose"]):
        cases = []
        for i in range(64):
            text = texts(kind, 64 * seed + i, 300) if kind in WORDS else rng.choice(PROBLEMS).encode()[:500]
            if rng.random() < 0.2:
                at = rng.choice([p for p in range(len(text)) if text[p] & 0xC0 != 0x80])
                text = text[:at] + rng.choice([MARKER, b"ab c " * 20, b"0 " * 30]) + text[at:]
            cases.append(Case(tokenizer, text, rng, tidy=i % 3 > 0))
        found = jax.tree.map(np.asarray, read(canonical, state_of(cases)))
        for b, case in enumerate(cases):
            used = [end for end in case.span[1] if end <= found.proven[b]]
            if found.proven[b] > case.kept:
                ids = tokenizer.encode(case.text[: found.proven[b]])[0]
                assert ids == case.base[0] + case.span[0][: len(used)]
                proven += 1
            if not found.sure[b]:
                continue
            sure += 1
            expected = words(case.text, case.kept, case.span[1], case.written, MARKER, case.event > 0, MAX_WORDS)
            ends = found.words.ends[b][found.words.ends[b] > 0].tolist()
            assert ends == expected.ends[: len(ends)]
            assert found.words.after[b] == AGAIN or len(ends) == len(expected.ends)
            assert expected.event_at is None
            begun = not is_blank(case.text[case.start : case.kept]) and case.kept > case.start
            for at, (start, end) in enumerate(itertools.pairwise([case.kept, *ends])):
                blank = is_blank(case.text[start:end])
                assert found.words.free[b, at] == (blank or not begun)
                begun |= not blank
                assert not LOOP.loops(case.text, end)
                used = [e for e in case.span[1] if e <= end]
                assert case.think_tokens + len(used) <= BUDGET
                assert tokenizer.encode(case.text[:end])[0] == case.base[0] + case.span[0][: len(used)]
            read_words += len(ends)
    print(f"{name}: sure of {sure} rows and {read_words} words, proven tokens in {proven}")
    assert sure > 600
    assert read_words > 2000


def test_prose_is_read_on_the_device(vocabularies) -> None:
    """With Qwen's vocabulary the host is hardly needed: canonical tokens of problem statements, from word to word."""
    tokenizer, canonical = vocabularies["qwen3"]
    rng = random.Random(4)
    cases = [Case(tokenizer, rng.choice(PROBLEMS).encode()[:500], rng, tidy=True) for _ in range(256)]
    for case in cases:
        case.event, case.think_tokens = Finish.NONE, 0
    cases = [case for case in cases if case.canonical]
    found = read(canonical, state_of(cases))
    print(f"sure of {np.mean(found.sure):.1%} of {len(cases)} rows")
    assert np.mean(found.sure) > 0.95
