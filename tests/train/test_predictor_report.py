"""The numbers of a report, recomputed by plain loops, and the page that shows them."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from tessy_jax.predictors.scores import (
    FAR,
    THRESHOLDS,
    Tokens,
    best_threshold,
    boundaries,
    by_response,
    calibration,
    draw,
    evaluate,
    f1,
    phrases,
    rates,
    sweep,
    with_intervals,
)
from tessy_jax.train.predictor_report import write_report


@pytest.fixture(scope="module")
def judged() -> tuple[Tokens, np.ndarray]:
    """Tokens of one to three letters; words of one or two tokens; 30 segments of 10 responses."""
    rng = np.random.default_rng(1)
    rows, texts = [], []
    for segment in range(30):
        text, style = "", False
        for word in range(rng.integers(15, 40)):
            if rng.random() < 0.2:
                style = not style
            if text:
                text += " "
            for _ in range(rng.integers(1, 3)):
                piece = "abc"[: rng.integers(1, 4)]
                rows.append((style, segment, segment // 3, word, len(text), len(text) + len(piece)))
                text += piece
        texts.append(text)
    columns = np.array(rows).T
    tokens = Tokens(columns[0].astype(bool), *columns[1:], texts=texts)
    p = np.clip(0.5 + 0.3 * np.where(tokens.style, 1, -1) + rng.normal(0, 0.3, len(tokens)), 0.001, 0.999)
    return tokens, p


def test_rates_are_counted(judged: tuple[Tokens, np.ndarray]) -> None:
    tokens, p = judged
    said = p >= 0.4
    tp = fp = fn = tn = 0
    for wanted, found in zip(tokens.style, said, strict=True):
        tp, fp = tp + (wanted and found), fp + (not wanted and found)
        fn, tn = fn + (wanted and not found), tn + (not wanted and not found)
    counts = by_response(tokens, said)
    assert counts.shape == (10, 4)
    found = rates(counts.sum(axis=0))
    assert found["style"]["precision"] == pytest.approx(tp / (tp + fp))
    assert found["style"]["recall"] == pytest.approx(tp / (tp + fn))
    assert found["style"]["f1"] == pytest.approx(f1(tokens.style, said)) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["capability"]["precision"] == pytest.approx(tn / (tn + fn))
    assert found["capability"]["recall"] == pytest.approx(tn / (tn + fp))
    assert found["accuracy"] == pytest.approx((tp + tn) / len(tokens))
    assert rates(np.zeros(4))["style"] == {"precision": 0, "recall": 0, "f1": 0}


def test_intervals_draw_responses(judged: tuple[Tokens, np.ndarray]) -> None:
    tokens, p = judged
    counts = by_response(tokens, p >= 0.5)
    draws = draw(10)
    assert (draws.sum(axis=1) == 10).all()
    by_hand = []
    for times in draws:
        picked = np.repeat(np.arange(10), times)
        tp, fp, fn, _ = counts[picked].sum(axis=0)
        by_hand.append(2 * tp / (2 * tp + fp + fn))
    found = with_intervals(counts, draws)["style"]["f1"]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])))
    assert found["low"] < found["value"] < found["high"]
    same = with_intervals(np.tile(counts[:1], (10, 1)), draws)["style"]["f1"]
    assert same["low"] == pytest.approx(same["high"])


def test_sweep_counts_switches_and_stretches_of_words(judged: tuple[Tokens, np.ndarray]) -> None:
    """A word is style if all its tokens are; switches and stretches do not cross segments."""
    tokens, p = judged
    for threshold in (0.3, 0.6):
        words: dict[tuple[int, int], bool] = {}
        for segment, word, value in zip(tokens.segment, tokens.word, p, strict=True):
            words[segment, word] = words.get((segment, word), True) and value >= threshold
        switches, runs = 0, {True: [], False: []}
        last = None
        for (segment, _), kind in words.items():
            if last is not None and last[0] == segment:
                switches += last[1] != kind
            if last == (segment, kind):
                runs[kind][-1] += 1
            else:
                runs[kind].append(1)
            last = segment, kind
        found = sweep(tokens, p, threshold)
        assert found["switches_per_1k_tokens"] == pytest.approx(1000 * switches / len(tokens))
        assert found["style_span_words"] == pytest.approx(np.mean(runs[True]))
        assert found["capability_span_words"] == pytest.approx(np.mean(runs[False]))
        assert found["style_f1"] == pytest.approx(f1(tokens.style, p >= threshold))


def test_boundaries_have_distances(judged: tuple[Tokens, np.ndarray]) -> None:
    style = np.array([0, 0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0], bool)
    said = np.array([0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1], bool)
    segment = np.array([0] * 9 + [1] * 5)
    # Up: 2 -> 3 (late by 1), 7 -> 3 (early by 4). Down: 4 -> 4, 8 -> 4 (early by 4), 11 -> 12. Up at 13 is invented;
    # at 9 a segment begins, so nothing changes there.
    found = boundaries(style, said, segment)
    assert found["true"] == 5
    assert {int(d): n for d, n in found["offsets"].items() if n} == {-4: 2, 0: 1, 1: 2}
    assert (found["missed"], found["invented"]) == (0, 1)
    assert found["exact"] == pytest.approx(0.2)
    assert found["mean_distance"] == pytest.approx(2.0)
    nothing = boundaries(style, np.zeros(14, bool), segment)
    assert (nothing["missed"], nothing["mean_distance"]) == (5, None)

    tokens, p = judged
    said = p >= 0.5
    distances, missed = [], 0
    for up in (True, False):
        for i in range(1, len(tokens)):
            if tokens.segment[i] == tokens.segment[i - 1] and tokens.style[i] == up != tokens.style[i - 1]:
                near = [
                    j - i
                    for j in range(1, len(tokens))
                    if tokens.segment[j] == tokens.segment[j - 1] == tokens.segment[i] and said[j] == up != said[j - 1]
                ]
                missed += not near
                distances += [min(map(abs, near))] if near else []
    found = boundaries(tokens.style, said, tokens.segment)
    assert found["missed"] == missed
    assert found["mean_distance"] == pytest.approx(np.mean(distances))
    assert sum(found["offsets"].values()) == len(distances)
    assert found["offsets"][str(FAR)] + found["offsets"][str(-FAR)] == sum(d >= FAR for d in distances)


def test_calibration_error_and_wrong_phrases_are_counted(judged: tuple[Tokens, np.ndarray]) -> None:
    tokens, p = judged
    error = 0.0
    for low in np.arange(10) / 10:
        there = (p >= low) & (p < low + 0.1)
        if there.any():
            error += there.mean() * abs(p[there].mean() - tokens.style[there].mean())
    assert calibration(tokens.style, p)["ece"] == pytest.approx(error)
    assert calibration(tokens.style, tokens.style.astype(float))["ece"] == 0
    few = Tokens(
        style=np.zeros(6, bool), segment=np.array([0, 0, 0, 0, 1, 1]), response=np.zeros(6, int),
        word=np.array([0, 1, 2, 3, 0, 1]), starts=np.array([0, 2, 5, 8, 0, 2]), ends=np.array([2, 5, 8, 11, 2, 5]),
        texts=["So it is so", "SO it"],
    )  # fmt: skip
    # A part of a word shows the word; white space alone shows nothing.
    part = Tokens(
        style=np.zeros(3, bool), segment=np.zeros(3, int), response=np.zeros(3, int), word=np.array([0, 0, -1]),
        starts=np.array([0, 4, 8]), ends=np.array([4, 8, 9]), texts=["Solution "],
    )  # fmt: skip
    assert phrases(part, np.array([0, 1, 0], bool)) == [{"phrase": "solution", "count": 1}]
    assert phrases(part, np.array([0, 0, 1], bool)) == []
    assert phrases(few, np.array([1, 1, 0, 1, 1, 1], bool)) == [
        {"phrase": "so it", "count": 2},
        {"phrase": "so", "count": 1},
    ]


def test_report_compares_and_stands_alone(judged: tuple[Tokens, np.ndarray], tmp_path: Path) -> None:
    tokens, p = judged
    worse = np.random.default_rng(0).random(len(p))
    numbers = evaluate(tokens, p, 0.5, worse)
    best = best_threshold(tokens.style, worse)
    assert f1(tokens.style, worse >= best) == max(f1(tokens.style, worse >= t) for t in THRESHOLDS)
    gain = numbers["baseline"]["f1_gain"]
    assert gain["value"] == pytest.approx(f1(tokens.style, p >= 0.5) - f1(tokens.style, worse >= best))
    assert 0 < gain["low"] < gain["value"] < gain["high"]
    even = evaluate(tokens, p, best_threshold(tokens.style, p), p)["baseline"]["f1_gain"]
    assert (even["low"], even["value"], even["high"]) == (0, 0, 0)

    about = {
        "kind": "probe",
        "command": "a < b & c",
        "layers": [{"layer": n, "f1": 0.5, "threshold": 0.5} for n in (0, 1)],
    }
    write_report(tmp_path, "A <predictor>", about, numbers)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["scores"] == numbers["scores"]
    page = (tmp_path / "report.html").read_text()
    assert "A &lt;predictor&gt;" in page
    assert "a &lt; b &amp; c" in page
    assert page.count("<svg") == 4
    for link in ("src=", "<script", "<link", "url(http"):
        assert link not in page
    start = 0
    for _ in range(4):
        start = page.index("<svg", start)
        end = page.index("</svg>", start) + len("</svg>")
        ElementTree.fromstring(page[start:end])
        start = end
    write_report(tmp_path, "A <predictor>", about, numbers)
    assert (tmp_path / "report.html").read_text() == page
