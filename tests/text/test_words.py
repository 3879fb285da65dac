"""Words are the same whether text is seen byte by byte or at once; the end of thinking in text; loops."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessy_jax.text.repetition import Repetition
from tessy_jax.text.words import CompleteWords, is_blank, next_cut, words

PIECES = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "a",
    "word",
    "9",
    ".",
    "é",
    "中",
    "👍",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u2028",
    "</think>",
    "</",
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=40).map(
    lambda parts: "".join(parts).encode(errors="ignore")
)


def token_ends(text: bytes, seed: int) -> list[int]:
    """Ends of made-up tokens of 1 to 9 bytes; they may end inside a character."""
    rng, at, ends = random.Random(seed), 0, []
    while at < len(text):
        at = min(len(text), at + rng.randint(1, 9))
        ends.append(at)
    return ends


def cuts(text: bytes, ends: list[int], known: int, last: int = 0) -> list[int]:
    found = []
    while (cut := next_cut(text, last, ends, known)) is not None:
        found.append(cut)
        last = cut
    return found


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.integers(0, 9))
def test_cuts_do_not_depend_on_how_the_text_arrives(text, seed):
    ends = token_ends(text, seed)
    streamed: list[int] = []
    for known in range(len(text) + 1):
        # Neither the later bytes nor the ends of later tokens may matter.
        seen = [e for e in ends if e <= known]
        streamed += cuts(text[:known], seen, known, streamed[-1] if streamed else 0)
    assert streamed == cuts(text, ends, len(text))


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.integers(0, 9))
def test_cuts_follow_the_three_rules_and_keep_characters_whole(text, seed):
    ends = token_ends(text, seed)
    last = 0
    for cut in cuts(text, ends, len(text)):
        before, after = text[:cut].decode(), text[cut:].decode()
        space = after[0] == " " and before[-1] not in WHITE and after[1:] and after[1] not in WHITE
        newline = before[-1] in "\r\n" and after[0] not in "\r\n"
        assert space or newline or (cut in ends and cut - last >= 48)
        last = cut


WHITE = {
    chr(c)
    for c in [*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
}


def test_white_space_is_unicode_white_space():
    for code in [*range(0xD800), *range(0xE000, 0x3100), 0x1F600]:
        assert is_blank(chr(code).encode()) == (chr(code) in WHITE)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"one two three.", [3, 7]),
        (b"one  two", []),
        (b"a\n\nb\r\nc\n", [3, 6]),
        (b"a\n    b c", [2, 7]),
        ("a\u00a0 b \u3000c d".encode(), [10]),
        (b" a b", [2]),
        (b"a ", []),
        (b"a\n", []),
        ("a \u202f".encode()[:-1], []),  # not yet known to be white space
        ("a \u2019".encode()[:-1], []),  # not yet known not to be
        ("a \u4e2d".encode()[:-2], [1]),  # no white space begins so
    ],
)
def test_examples_of_cuts(text, found):
    assert cuts(text, [], len(text)) == found


def test_a_long_word_ends_with_a_token():
    text = b"x" * 200
    assert cuts(text, [10, 47, 48, 60, 95, 97, 150, 200], 200) == [48, 97, 150]
    assert cuts(text, [48], 48) == []  # the byte after is not known
    chars = "中".encode() * 40
    assert cuts(chars, [50, 52, 54, 80, 120], 120) == [54]


def test_closed_text_ends_in_a_final_word():
    assert next_cut(b"one two", 3, [], 7) is None
    assert next_cut(b"one two", 3, [], 7, closed=True) == 7
    assert next_cut(b"one two", 7, [], 7, closed=True) is None
    assert next_cut(b"one ", 0, [], 4, closed=True) == 4


def test_words_and_events():
    text = b"So x = 1.\n\n Done now"
    ends = [2, 4, 6, 11, 16]
    assert words(text, 0, [], len(text), None, False, 32) == CompleteWords(ends, [False] * 5, None, False)
    assert words(text, 0, [], len(text), None, True, 32) == CompleteWords([*ends, 20], [False] * 6, 20, False)
    assert words(text, 0, [], len(text), None, True, 5) == CompleteWords(ends, [False] * 5, None, True)
    assert words(text, 16, [], len(text), None, True, 5) == CompleteWords([20], [False], 20, False)
    assert words(text, 20, [], len(text), None, True, 5) == CompleteWords([], [], 20, False)
    assert words(b"a\n\n\t\n\nb", 0, [], 7, None, False, 9) == CompleteWords([3, 6], [False, True], None, False)


def test_a_textual_marker_ends_the_text():
    text = b"It is 4.\n</think>\n\nThe answer"
    found = words(text, 0, [], len(text), b"</think>", False, 32)
    assert found == CompleteWords([2, 5, 9], [False] * 3, 9, False)
    # Until its last byte it is not there.
    assert words(text[:16], 0, [], 16, b"</think>", False, 32) == CompleteWords([2, 5, 9], [False] * 3, None, False)
    assert words(text, 0, [], len(text), b"</think>", False, 2) == CompleteWords([2, 5], [False] * 2, None, True)
    assert words(b"ab</think>", 0, [], 10, b"</think>", True, 9) == CompleteWords([2], [False], 2, False)


def test_a_cut_inside_the_marker_hides_it():
    text = b"x" * 46 + b"</think> and more"
    assert words(text, 0, [48, 54, 60], len(text), b"</think>", False, 9).event_at is None
    assert words(text, 0, [46, 54, 60], len(text), b"</think>", False, 9).event_at == 46
    # A cut that the marker's last byte would confirm comes too late.
    assert words(text, 0, [53, 60], len(text), b"</think>", False, 9).event_at == 46


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(0, 9), st.sampled_from([None, b"</think>", b"</"]), st.integers(1, 5))
def test_words_do_not_depend_on_how_the_text_arrives(text, seed, marker, limit):
    ends = token_ends(text, seed)
    whole = words(text, 0, ends, len(text), marker, False, 10_000)
    streamed, event_at = [], None
    for known in range(len(text) + 1):
        more = True
        while more and event_at is None:
            start = streamed[-1] if streamed else 0
            step = words(text[:known], start, [e for e in ends if e <= known], known, marker, False, limit)
            streamed += step.ends
            event_at, more = step.event_at, step.more
    assert (streamed, event_at) == (whole.ends, whole.event_at)


PROSE = b"Let me check the last step of the proof again, since the bound looks too weak. "


@pytest.mark.parametrize(
    "text",
    [
        b"Wait, let me check that again. " * 8,
        b"so " * 22,
        b"ha" * 32,
        PROSE * 8,  # longer than 125 characters in total, one sentence
        (PROSE + b"Then we compare both sides, and see that the inequality holds for all n above the first one. ") * 8,
        "我们再检查一遍。".encode() * 8,
        b"Hmm, no.\n\n" * 9 + b"Hmm, n",  # stopped inside a copy
        b"Something else first. " + b"foo(bar); " * 10,
    ],
)
def test_loops(text):
    assert Repetition().loops(text, len(text))


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"0, " * 24,
        b"0 0 0 0 0\n" * 5,
        b"0, 0, 0, 0\n" * 50,
        b"- " * 60,
        b"---" * 60,
        b"| --- | --- |\n" * 12,
        b"1 2 3 4 5 6 7 8 9\n" * 10,
        b"|  |  |\n+--+--+\n" * 20,
        b"x" * 500,
        b" " * 500,
        b"\n" * 500,
        PROSE * 7,
        b"so " * 20,
        b"".join(b"Step %d: add %d to the sum. " % (i, i * i) for i in range(40)),
        b"",
        b"a",
    ],
)
def test_no_loops(text):
    assert not Repetition().loops(text, len(text))


def test_loops_are_judged_at_the_end_given():
    text = b"so " * 30 + b"that is the end of it."
    assert Repetition().loops(text, 90)
    assert not Repetition().loops(text, len(text))
    assert Repetition(repeats=3, min_bytes=9).loops(b"ab ab ab ", 9)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab1 ", min_size=1, max_size=8), st.text(alphabet="ab1 ", max_size=20), st.integers(1, 14))
def test_loops_agree_with_the_definition(unit, prefix, copies):
    text = (prefix + unit * copies).encode()
    rule = Repetition(repeats=4, min_bytes=12, max_unit=16)
    tail = text.decode()
    periods = [
        d
        for d in range(1, 17)
        if (n := max(4 * d, 12)) <= len(tail) and all(tail[-i] == tail[-i - d] for i in range(1, n - d + 1))
    ]
    visible = [c for c in tail[-2 * periods[0] :] if c != " "] if periods else []
    expected = bool(periods) and len({*visible} - {"1"}) == 2 and sum(c != "1" for c in visible) * 2 >= len(visible)
    assert rule.loops(text, len(text)) == expected
