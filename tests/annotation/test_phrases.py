"""From replies and texts to spans: phrases, segments, lists, the released format."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy_jax.annotation.align import AlignError, locate, occurrences
from tessy_jax.annotation.annotator import Refused, judge_reply
from tessy_jax.annotation.lexicon import Lexicon
from tessy_jax.annotation.reply import Reply, ReplyError, read_reply
from tessy_jax.annotation.segments import Thoughts, draw
from tessy_jax.annotation.thoughts import read_thoughts
from tessy_jax.config.annotate import ThoughtsConfig
from tessy_jax.data.inputs import BadRow, Reject
from tessy_jax.data.released import from_released, to_released
from tessy_jax.data.segments import Annotated, Segment, StyleSpan, merge
from tessy_jax.text.boundaries import is_boundary

# -- phrases in a text -------------------------------------------------------------------------------------------------


def texts(text: str, spans: list[StyleSpan]) -> list[str]:
    return [text[span.start : span.end] for span in spans]


def test_so_is_not_found_inside_solution():
    text = "The solution is 5, so done."
    assert locate(text, ["so"]) == [StyleSpan(19, 21)]
    with pytest.raises(AlignError, match=r"^'so' stands only inside a longer word: 'solution'$"):
        locate("The solution is 5.", ["so"])


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("It's so-called, so", "so", [16]),
        ("It's it's", "it", []),
        ("It's it", "It's", [0]),
        ("let’s let", "let", [6]),
        ("'so' -so- (so)", "so", [1, 6, 11]),
        ("so_far so2 so.", "so", [11]),
        ("Wait, wait", "wait", [6]),
        ("Okay, now. Okay,", "Okay,", [0, 11]),
        ("let \n\tme  see", " let me see ", [0]),
        ("let mesee", "let me see", []),
        ("ha ha ha", "ha ha", [0, 3]),
        ("好的，所以答案是5", "所以", [3]),
        ("x = [1]. (a|b)", "(a|b)", [9]),
    ],
)
def test_a_phrase_occurs_between_word_boundaries(text, phrase, found):
    assert [span.start for span in occurrences(text, phrase)] == found


def test_phrases_are_found_in_order():
    text = "So, wait. So it is 3. Wait, so maybe not."
    assert texts(text, locate(text, ["So", "wait", "So", "Wait, so", "maybe"])) == [
        "So",
        "wait",
        "So",
        "Wait, so",
        "maybe",
    ]
    assert [span.start for span in locate(text, ["wait", "So"])] == [4, 10]
    assert locate(text, []) == []


def test_overlapping_phrases_are_found_and_merged():
    text = "Okay, let me see. Then the sum."
    spans = locate(text, ["Okay, let me", "let me see", "Then"])
    assert texts(text, spans) == ["Okay, let me", "let me see", "Then"]
    assert texts(text, merge(spans)) == ["Okay, let me see", "Then"]
    # Overlap is the last resort: where the list fits without it, it is read so.
    assert [s.start for s in locate("wait, wait, wait", ["wait, wait", "wait"])] == [0, 12]
    assert merge([StyleSpan(3, 5), StyleSpan(0, 3), StyleSpan(4, 4)]) == [StyleSpan(0, 3), StyleSpan(3, 5)]


@pytest.mark.parametrize(
    ("phrases", "reason"),
    [
        (["Hmm"], "'Hmm' is not in the text"),
        (["okay"], "'okay' is not in the text"),
        (["Okay", " \n"], "an empty phrase"),
        (["Okay", "Okay"], "'Okay' is listed 2 times and stands in the text 1 times"),
        (["so", "Okay"], "'Okay' is out of order: it stands before the phrase listed before it"),
    ],
)
def test_phrases_that_have_no_place_are_refused(phrases, reason):
    with pytest.raises(AlignError) as error:
        locate("Okay, so it is 5.", phrases)
    assert str(error.value) == reason


WORDS = st.sampled_from(
    ["so", "solution", "wait", "Wait,", "it's", "let", "me", "see.", "x²", "so-so", "-", "é", "所以"]
)
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", "  ", "\n\n", "\t"])), min_size=1, max_size=20).map(
    lambda parts: "".join(word + space for word, space in parts)
)


@given(TEXTS, st.data())
def test_whatever_is_cut_out_at_boundaries_is_found_again(text, data):
    """Any list of disjoint pieces in order has a place; the places are such pieces, never later than the true ones."""
    edges = [at for at in range(len(text) + 1) if is_boundary(text, at)]
    cuts = sorted(data.draw(st.lists(st.sampled_from(edges), max_size=8, unique=True)))
    pieces = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if text[a:b].strip()]
    found = locate(text, [" ".join(text[a:b].split()) for a, b in pieces])
    assert len(found) == len(pieces)
    for (a, b), span in zip(pieces, found, strict=True):
        assert text[span.start : span.end].split() == text[a:b].split()
        assert is_boundary(text, span.start)
        assert is_boundary(text, span.end)
        assert span.start <= a + len(text[a:b]) - len(text[a:b].lstrip())
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)).map(lambda s: StyleSpan(s[0], s[0] + s[1]))))
def test_merged_spans_cover_the_same_characters(spans):
    merged = merge(spans)
    assert {i for s in merged for i in range(s.start, s.end)} == {i for s in spans for i in range(s.start, s.end)}
    assert all(a.end <= b.start for a, b in itertools.pairwise(merged))


# -- replies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "phrases"),
    [
        ('["Okay", "so"]', ["Okay", "so"]),
        ("[]", []),
        ('[\n  "Okay",\n  "so",\n]', ["Okay", "so"]),
        ('Here they are [in order]:\n["so"]\nThat is all [1].', ["so"]),
        ('I see 2 [1, 2]. ["so"]', ["so"]),
        ('<think>["no"] or ["x"</think>\n["so"]', ["so"]),
        ('{"phrases": ["so"]}', ["so"]),
        ('["say \\"so\\"", "a\\u00e9", "[x]"]', ['say "so"', "aé", "[x]"]),
        ('["two\nlines"]', ["two\nlines"]),
    ],
)
def test_the_list_is_found_in_a_reply(reply, phrases):
    assert read_reply(reply) == Reply(phrases)


@pytest.mark.parametrize(
    "fence", ["```json\n{}\n```", "```\n{}```", "Sure!\n````json\n{}\n````\nDone.", "~~~\n{}\n~~~"]
)
def test_code_fences_around_the_list_are_ignored(fence):
    assert read_reply(fence.replace("{}", '["Okay", "so"]')) == Reply(["Okay", "so"])


@pytest.mark.parametrize(
    ("reply", "phrases"),
    [
        ('["Okay", "let me', ["Okay"]),
        ('["Okay", "let me\\', ["Okay"]),
        ('["Okay", ', ["Okay"]),
        ('["Okay"', ["Okay"]),
        ('```json\n["Okay", "so"\n```', ["Okay", "so"]),
        ('["Okay", "a [1] b', ["Okay"]),
    ],
)
def test_a_truncated_list_gives_its_whole_items(reply, phrases):
    assert read_reply(reply) == Reply(phrases, truncated=True)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (" \n", "the reply is empty"),
        ("There are none.", "no JSON array in the reply: 'There are none.'"),
        ('["Okay", 3]', "item 2 of the list is a number, not a string"),
        ('[{"span": "Okay"}]', "item 1 of the list is an object, not a string"),
        ('[["Okay"]]', "item 1 of the list is a list, not a string"),
        ("[null]", "item 1 of the list is null, not a string"),
        ('["Okay" "so"]', 'malformed JSON in the reply: \'["Okay" "so"]\''),
        ("['Okay']", "malformed JSON in the reply: \"['Okay']\""),
        ('["Oka', "the reply was cut off before the end of its first item"),
        ("[" * 100_000, "the reply's JSON is nested too deeply"),
    ],
)
def test_a_useless_reply_says_why(reply, reason):
    with pytest.raises(ReplyError) as error:
        read_reply(reply)
    assert str(error.value) == reason


@given(st.lists(st.text()), st.integers(0, 400))
def test_a_list_that_is_cut_off_gives_its_beginning(phrases, cut):
    whole = json.dumps(phrases)
    assert read_reply(whole) == Reply(phrases)
    try:
        found = read_reply(whole[:cut]) if cut < len(whole) else Reply(phrases)
    except ReplyError:
        return
    assert found.phrases == phrases[: len(found.phrases)]


SEGMENT = Segment("r", 1, 4, 17, "Okay, so the solution is 5.")


def test_a_reply_becomes_spans_or_a_refusal():
    assert judge_reply(SEGMENT, '["Okay, so"]') == Annotated(SEGMENT, [StyleSpan(0, 8)])
    assert judge_reply(SEGMENT, "[]").to_row("me") == {
        "id": "r", "sample_index": 1, "segment": 4, "offset": 17, "text": SEGMENT.text, "spans": [], "annotator": "me",
    }  # fmt: skip
    cut_off = judge_reply(SEGMENT, '["Okay", "so t')
    assert cut_off == Annotated(SEGMENT, [StyleSpan(0, 4)], truncated=True)
    assert cut_off.to_row("me")["truncated"] is True
    refused = judge_reply(SEGMENT, '["so", "Okay"]')
    assert isinstance(refused, Refused)
    assert refused.to_row("me") == {
        "id": "r", "sample_index": 1, "segment": 4, "text": SEGMENT.text, "annotator": "me",
        "reason": "'Okay' is out of order: it stands before the phrase listed before it", "reply": '["so", "Okay"]',
    }  # fmt: skip


# -- segments ----------------------------------------------------------------------------------------------------------


@given(TEXTS, st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_segments_are_disjoint_windows_of_whole_words(text, words, per_response, seed):
    thoughts = Thoughts("r", 0, text)
    drawn = draw(thoughts, words, per_response, seed)
    total = len(text.split())
    assert len(drawn) == min(per_response, max(1, total // words))
    end = 0
    for segment in drawn:
        assert segment.text == text[segment.start : segment.start + len(segment.text)]
        assert len(segment.text.split()) == min(words, total)
        assert segment.text == segment.text.strip()
        assert segment.start >= end
        end = segment.start + len(segment.text)
        assert {text[segment.start - 1 : segment.start], text[end : end + 1]} <= {"", " ", "\n", "\t"}
    assert draw(thoughts, words, per_response, seed) == drawn
    assert set(drawn) <= set(draw(thoughts, words, per_response + 1, seed))
    assert len({segment.key for segment in drawn}) == len(drawn)


def test_segments_differ_by_id_sample_and_seed():
    text = " ".join(map(str, range(1000)))
    places = [
        tuple(s.start for s in draw(Thoughts(name, sample, text), 7, 3, seed))
        for name, sample, seed in (("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1))
    ]
    assert len(set(places)) == 4
    assert draw(Thoughts("a", 0, " \n"), 7, 3, 0) == []


def test_windows_begin_anywhere():
    """Where a text has a few words more than its windows, these do not always begin with its first word."""
    text = " ".join(map(str, range(13)))
    starts = {draw(Thoughts(f"r{i}", 0, text), 7, 1, 0)[0].start for i in range(60)}
    assert starts == {2 * word for word in range(7)}


# -- the phrase list ---------------------------------------------------------------------------------------------------


def test_the_lexicon_finds_its_longest_phrases():
    lexicon = Lexicon(["so", "so far", "let's see", "okay"])
    text = "Okay, so far: the solution. Let’s  see... So farther, so-called (so)."
    assert texts(text, lexicon.spans(text)) == ["Okay,", "so far:", "Let’s  see...", "So", "so"]
    assert list(lexicon.annotate(iter([SEGMENT]))) == [[Annotated(SEGMENT, [StyleSpan(0, 5), StyleSpan(6, 8)])]]


def test_the_shipped_list_finds_common_phrases(request):
    lexicon = Lexicon.load(request.config.rootpath / "configs/style_phrases.json")
    text = "Hmm, wait. Let me double-check: 7 * 8 = 56, on the other hand x > 3."
    assert texts(text, lexicon.spans(text)) == ["Hmm,", "wait.", "Let me double-check:", "on the other hand"]


@given(TEXTS)
def test_lexicon_spans_are_occurrences(text):
    phrases = ["so", "wait", "let me see", "it's"]
    for span in Lexicon(phrases).spans(text):
        phrase = text[span.start : span.end].rstrip(",.").lower()
        assert span.start in [found.start for p in phrases for found in occurrences(text.lower(), p)], phrase


# -- the released format -----------------------------------------------------------------------------------------------


def test_released_format_there_and_back():
    row = Annotated(SEGMENT, [StyleSpan(0, 8)]).to_row("me")
    released = to_released(row)
    assert released == {
        "id_ddm": "r", "think_text": SEGMENT.text, "pred_result": [{"span": "Okay, so", "start": 0, "end": 8}],
    }  # fmt: skip
    assert from_released(released) == (SEGMENT.text, [StyleSpan(0, 8)])


@pytest.mark.parametrize(
    ("span", "reason"),
    [
        ({"span": "so", "start": 13, "end": 15}, "pred_result[0]: 'so' stands inside a longer word"),
        ({"span": "so", "start": 0, "end": 2}, "pred_result[0]: at 0..2 stands 'Ok', not 'so'"),
        ({"span": "so", "start": 26, "end": 28}, "pred_result[0]: 26..28 leaves the text of 27 characters"),
        ({"span": "so", "start": "6", "end": 8}, "pred_result[0].start must be an integer, not a string"),
        ("so", "pred_result[0] must be an object with span, start and end, not a string"),
    ],
)
def test_a_wrong_released_row_says_why(span, reason):
    with pytest.raises(BadRow) as error:
        from_released({"think_text": SEGMENT.text, "pred_result": [span]})
    assert str(error.value) == reason


def test_thinking_is_read_from_rows_of_all_kinds(tmp_path):
    content = "<think>\nOkay, so 5.\n</think>\n\nFive."
    span = {"by": "student", "phase": "think", "start": 8, "end": 19, "n_tokens": 4, "dropped_tokens": 0}
    answer = {"role": "assistant", "content": content}
    ours = {
        "id": "a", "sample_index": 1, "messages": [{"role": "user", "content": "?"}, answer],
        "spans": [span], "n_tokens": {}, "switches": 0, "finish": {"think": "end", "answer": "stop"}, "seed": 0,
    }  # fmt: skip
    rows = [
        ours,
        {"id": "b", "dialogs": [{"role": "user", "content": "?"}, answer]},
        {"id": "b", "dialogs": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Wait.</think>x"}]},
        {"id": 7, "conversations": [{"from": "gpt", "value": content}]},
        {"prompt": "?", "response": content},
        {"id": "c", "messages": [{**answer, "reasoning_content": "Hmm, 6."}]},
        {"id": "d", "think_text": "So 7."},
        {"id_ddm": "e", "think_text": "so so", "pred_result": [{"span": "so", "start": 0, "end": 2}]},
        {"id_ddm": "e", "think_text": "six", "pred_result": []},
        {"id": "f", "content": "analysis We think. assistantfinal 5"},
        {"id": "g", "prompt": "?"},
        {"id": "h", "content": "<think> \n</think>x"},
        ours,
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(read_thoughts(file, ThoughtsConfig()))
    rejected = {row.line: row.reason for row in found if isinstance(row, Reject)}
    good = [row for row in found if not isinstance(row, Reject)]
    hashed = good[4].id
    assert good == [
        Thoughts("a", 1, "Okay, so 5."),
        Thoughts("b", 0, "Okay, so 5."),
        Thoughts("b", 1, "Wait."),
        Thoughts("7", 0, "Okay, so 5."),
        Thoughts(hashed, 0, "Okay, so 5."),
        Thoughts("c", 0, "Hmm, 6."),
        Thoughts("d", 0, "So 7."),
        Annotated(Segment("e", 0, 0, None, "so so"), [StyleSpan(0, 2)]),
        Annotated(Segment("e", 0, 1, None, "six"), []),
    ]
    assert len(hashed) == 16
    assert rejected == {
        10: "no </think> in the assistant's message: what is thinking and what is answer cannot be told",
        11: "no thinking: expected think_text, reasoning_content, reasoning, thinking or an assistant's message; "
        "the row has id, prompt",
        12: "its thinking is empty",
        13: "duplicate: sample 1 of id 'a' came before",
    }
