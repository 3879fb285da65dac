"""The numbers of the figures, by hand on two traces; flags, near-duplicates and benchmarks in the data."""

import numpy as np
import pytest

from tessy_jax.analysis import counts, surprise
from tessy_jax.analysis.flags import flags
from tessy_jax.analysis.overlap import contamination, near_duplicates
from tessy_jax.analysis.verdict import MEASURED, verdict
from tessy_jax.text.thinking import Thinking
from tests.kit.traces import data_set, trace, write_lines

A = trace("a", [("student", "okay so"), ("teacher", "two plus two"), ("student", "okay done")], "it is four")
B = trace("b", [("student", "okay"), ("teacher", "nine")], "nine", nll=3.0, end="length")
DATA = data_set("tiny", A, B)


def test_numbers_of_the_figures():
    found = counts.summary(DATA, Thinking())
    assert found["lengths"]["mean"] == (10 + 3) / 2
    assert found["authors"] == {
        "tokens": {"student": 5, "teacher": 4, "answer": 4},
        "shares": {"student": 5 / 9, "teacher": 4 / 9},
    }
    assert found["spans"]["student"]["mean"] == 5 / 3
    assert found["spans"]["teacher"]["count"] == 2
    assert found["switches_per_1k_tokens"] == pytest.approx(1000 * 3 / 9)
    assert found["rolled_back_per_kept"] == 12 / 13
    assert found["finish"] == {"think": {"end": 2}, "answer": {"stop": 1, "length": 1}}
    assert found["words"]["student"] == [
        {"word": "okay", "count": 3, "per_1k": 600},
        {"word": "done", "count": 1, "per_1k": 200},
        {"word": "so", "count": 1, "per_1k": 200},
    ]
    assert found["words"]["teacher"][0] == {"word": "two", "count": 2, "per_1k": 500}
    assert counts.repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert found["correct"] == {"judged": 0, "share": None}


def test_surprise_by_author_phase_and_position():
    found = surprise.summary(DATA.traces)
    assert found["all"] == {"nats": (10 * 1 + 3 * 3) / 13, "tokens": 13}
    assert found["by_part"]["style"] == {"nats": (4 * 1 + 1 * 3) / 5, "tokens": 5}
    assert found["by_part"]["capability"] == {"nats": (3 * 1 + 1 * 3) / 4, "tokens": 4}
    assert found["by_phase"]["answer"] == {"nats": (3 * 1 + 1 * 3) / 4, "tokens": 4}
    assert found["step_0_loss"] == found["all"]["nats"]
    # The three tokens of B fall into tenths 0, 3 and 6, beside one of A each.
    assert [tenth["nats"] for tenth in found["by_position"]] == [2, 1, 1, 2, 1, 1, 2, 1, 1, 1]
    assert found["after_switch"]["teacher"][:3] == [2, 1, 1]
    [dearest, *_] = surprise.dearest_tokens(DATA.traces, str)
    assert (dearest.times, dearest.total) == (2, 6)  # nine, twice; okay is cheaper in A
    assert [word for word, _ in surprise.word_costs(B)] == ["<think>", "\nokay", " nine", " \n</think>", "\n\nnine"]
    assert sum(cost for _, cost in surprise.word_costs(B)) == 9


def test_a_verdict_names_the_nearest_measured_sets():
    assert verdict(0.9, None)["verdict"] == "unknown"
    for excess, kind in ((0.0, "suits"), (0.13, "suits"), (0.63, "doubtful"), (8.8, "foreign")):
        said = verdict(1 + excess, 1.0)
        assert said["verdict"] == kind
        assert said["excess"] == pytest.approx(excess)
    assert verdict(9.1, 0.21)["nearest"][0]["name"] == "Teacher-Only"
    assert [one.excess for one in MEASURED] == sorted(one.excess for one in MEASURED)
    far = [one.harm for one in MEASURED if one.excess >= 2]
    assert (far.count(True), len(far)) == (4, 5)  # as its words say


@pytest.mark.parametrize(
    ("expected", "spans", "answer", "end"),
    [
        (["truncated"], "so it is", "four", "length"),
        (["looping"], "round and round we go again and " * 9, "four", "stop"),
        (["no answer"], "so it is", "", "stop"),
        (["open code"], "so it is", "see\n```python\nprint(1)", "stop"),
        (["other language"], "so it is", "ответ четыре", "stop"),
        (["leaked markers"], "so <|im_end|> it is", "four", "stop"),
        (["empty thinking"], "", "four", "stop"),
        ([], "so λ = 4 it is", "四", "stop"),
    ],
)
def test_flags(expected, spans, answer, end):
    first = "okay" if spans else ""
    found = trace("a", [("student", first), ("teacher", spans)], answer, end=end)
    assert list(flags(found, Thinking())) == expected


def test_one_author_is_a_flag():
    assert flags(trace("a", [("teacher", "so it is")], "four"), Thinking()) == ("one author",)


def test_near_duplicates_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(30)]
    texts = [" ".join(rng.choice(words, 40)) for _ in range(300)]
    texts[7] = texts[299] = texts[3] + " more"
    pieces = [{tuple(t.split()[i : i + 5]) for i in range(len(t.split()) - 4)} for t in texts]
    every = [(a, b) for a in range(300) for b in range(a + 1, 300)]
    alike = {(a, b): len(pieces[a] & pieces[b]) / len(pieces[a] | pieces[b]) for a, b in every}
    assert (
        [pair[:2] for pair in near_duplicates(texts)]
        == [p for p, j in alike.items() if j >= 0.8]
        == [
            (3, 7),
            (3, 299),
            (7, 299),
        ]
    )
    assert near_duplicates(["short", "short"]) == []


def test_a_benchmark_in_the_data_is_found(tmp_path):
    problem = "A farmer has three boxes and each box holds four more apples than the one before it did"
    benchmark = write_lines(
        tmp_path / "benchmark.jsonl",
        [
            {"id": "boxes", "question": problem},
            {"id": "short", "question": "How many odd numbers divide ninety?"},
            {"id": "absent", "question": "Something else that nobody has ever asked in this data"},
            {"no": "prompt"},
        ],
    )
    told = trace("a", [("student", f"well {problem.upper()} ,"), ("teacher", "so")], "four")
    asked = trace("b", [("student", "how many odd numbers divide ninety")], "six")
    found = contamination(data_set("data", told, asked), benchmark)
    assert (found["problems"], found["unreadable"], found["problems_found"], found["traces_hit"]) == (3, 1, 2, 2)
    assert [(hit["problem"], hit["trace"]) for hit in found["examples"]] == [("boxes", "a#0"), ("short", "b#0")]
