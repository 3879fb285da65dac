"""A text that grows: whatever comes at a time, clients get the same text, and nothing of a stop string."""

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tessy_jax.cooperate.state import Finish
from tessy_jax.data.records import Span
from tessy_jax.engine.request import PairRequest, RequestOutput
from tessy_jax.serving.pair import PairText
from tessy_jax.serving.text import Piece, RowText

CLOSE = b"\n</think>\n\n"
IDS = np.zeros(0, np.int32)


def pieces(text: RowText, data: bytes, cuts: list[int], think_end: int = -1) -> list[Piece]:
    """The row in steps of so many bytes, a token for each byte of the answer; up to where the text has ended."""
    told: list[Piece] = []
    begin = max(0, think_end + len(CLOSE)) if think_end >= 0 else 0
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    for now in ends:
        if think_end >= 0 and think_end < now < begin:
            continue  # the end of the thinking comes as a whole
        closed = think_end if 0 <= think_end < now else -1
        written = list(range(begin + 1, now + 1)) if closed >= 0 or think_end < 0 else []
        finish = Finish.STOP if now == len(data) else Finish.NONE
        told.append(text.read(RequestOutput(("a", 0), data[:now], closed, 3 + len(written), written, finish, IDS, 0)))
        if told[-1].finish:
            break
    return told


@given(
    st.text("ab 🙂ü", max_size=12),
    st.lists(st.text("ab 🙂", min_size=1, max_size=3), max_size=2),
    st.lists(st.integers(0, 40)),
)
@example("aab", ["ab"], [1, 2])
@example(" aa", ["a", " aa"], [2])
def test_an_answer_ends_before_the_first_stop_string(content: str, stops: list[str], cuts: list[int]) -> None:
    """The first is the one that is complete first, the longer one of two: whatever comes at a time, and as in vLLM,
    which asks after each token.
    """
    told = pieces(RowText(False, 0, stops), content.encode(), cuts)
    complete = (content[:end] for end in range(len(content) + 1) if content[:end].endswith(tuple(stops)))
    ended = next(complete, None) if stops else None
    expected = content if ended is None else min((ended.removesuffix(stop) for stop in stops), key=len)
    assert "".join(piece.content for piece in told) == expected
    assert told[-1].finish == "stop"
    assert not any(piece.finish for piece in told[:-1])
    assert not any(piece.reasoning for piece in told)


@given(st.text("ab ü\n", max_size=8), st.text("ab 🙂", max_size=8), st.lists(st.integers(0, 40)))
def test_thinking_is_told_apart(thought: str, answer: str, cuts: list[int]) -> None:
    """White space at its end is only told where the thinking goes on, and a stop string means nothing in it."""
    thought = thought.rstrip()
    data = thought.encode() + CLOSE + answer.encode()
    told = pieces(RowText(True, len(CLOSE), ["b"]), data, cuts, len(thought.encode()))
    assert "".join(piece.reasoning for piece in told) == thought
    assert "".join(piece.content for piece in told) == answer.partition("b")[0]


def test_tokens_are_counted_up_to_the_stop_string() -> None:
    """Three tokens of thinking; of the answer those without which the stop string would not be there."""
    told = pieces(RowText(True, len(CLOSE), ["cd"]), b"hm" + CLOSE + b"abcdefg", [], 2)
    assert told == [Piece("hm", "ab", tokens=3 + 4, reasoning_tokens=3, finish="stop", told=2)]


def test_thinking_that_is_cut_off_is_all_there_is() -> None:
    row = RowText(True, len(CLOSE), [])
    going_on = RequestOutput(("a", 0), b"so \xc3", -1, 2, [], Finish.NONE, IDS, 0)
    assert row.read(going_on) == Piece("so", "", 2, 2)
    assert row.read(going_on._replace(tokens=3, finish=Finish.LENGTH)) == Piece(" ", "", 3, 3, "length")


def test_a_row_without_room_is_as_long_as_it_can_be() -> None:
    row = RequestOutput(("a", 0), b"ab", -1, 2, [1, 2], Finish.OVERFLOW, IDS, 0)
    assert RowText(False, 0, []).read(row) == Piece("", "ab", 2, 0, "length", told=2)
    assert RowText(False, 0, []).read(row._replace(finish=Finish.FAILED)).finish == "error"


@given(
    st.lists(st.tuples(st.sampled_from(["student", "teacher"]), st.text("ab ü🙂", max_size=5)), max_size=6),
    st.text("ab 🙂", max_size=8),
    st.lists(st.integers(0, 60)),
)
def test_each_character_of_a_pair_has_its_author(written: list[tuple[str, str]], answer: str, cuts: list[int]) -> None:
    """In the pieces as they come, whatever comes at a time, and in the spans at the end."""
    written = [*written, ("teacher", "ü")]  # no white space at the end, which would go
    thought = "".join(text for _, text in written).encode()
    data = thought + CLOSE + answer.encode()
    ends = list(itertools.accumulate(len(text.encode()) for _, text in written))
    begin = len(thought) + len(CLOSE)
    spans = [
        Span(by, "think", start, end, 1, 0) for (by, _), start, end in zip(written, [0, *ends], ends, strict=False)
    ]
    spans.append(Span("student", "answer", begin, len(data), len(answer), 0))

    text, told = PairText(PairRequest((), 7, "p"), 0, len(CLOSE), ["b"]), []
    for now in sorted({min(cut, len(data)) for cut in cuts if not len(thought) < cut < begin} | {len(data)}):
        so_far = tuple(replace(span, end=min(span.end, now)) for span in spans if span.start < now)
        closed = len(thought) if now >= begin else -1
        finish = Finish.STOP if now == len(data) else Finish.NONE
        answered = list(range(begin + 1, now + 1))
        told.append(
            text.read(RequestOutput(("a", 0), data[:now], closed, 9, answered, finish, IDS, 0, Finish.END, so_far))
        )
        if told[-1].finish:
            break
    said = answer.partition("b")[0]
    pieces = [(by, character) for piece in told for by, part in piece.authors for character in part]
    assert pieces == [(by, character) for by, part in written for character in part]
    about = told[-1].about
    assert about is not None
    placed = [
        (span["by"], (thought.decode() if span["phase"] == "think" else said)[span["start"] : span["end"]])
        for span in about["spans"]
    ]
    assert placed == [(by, part) for by, part in [*written, ("student", said)] if part]
    assert "".join(piece.content for piece in told) == said
    assert about["finish"] == {"think": "end", "answer": "stop"}


def test_a_trace_that_a_run_would_reject_ends_without_an_answer() -> None:
    text = PairText(PairRequest((), 7, "p"), 0, len(CLOSE), [])
    spans = (Span("student", "think", 0, 4, 2, 5),)
    piece = text.read(RequestOutput(("a", 0), b"ab a", -1, 2, [], Finish.LOOP, IDS, 0, Finish.LOOP, spans))
    assert (piece.reasoning, piece.content, piece.finish) == ("ab a", "", "length")
    assert piece.about is not None
    assert piece.about["finish"] == {"think": "loop", "answer": None}
    assert piece.about["n_tokens"] == {"student": 2, "teacher": 0, "answer": 0, "rolled_back": 5}
