"""Comparators: the official rules with their quirks, and the sounder ones beside them."""

from typing import Any

import pytest

from tessy_jax.evals.compare import compare

SAME, OTHER = True, False


@pytest.mark.parametrize(
    ("name", "expected", "actual", "same"),
    [
        # LiveCodeBench
        ("lines", "1 2\n3\n", "1 2\n3", SAME),
        ("lines", "1 2\n3", "\n  1 2  \n 3\n\n", SAME),
        ("lines", "a b", "a  b", OTHER),
        ("lines", "1 2", "1  2", SAME),
        ("lines", "1\n2", "1 2", OTHER),
        ("lines", "1\n\n2", "1\n2", OTHER),
        ("lines", "1", "1.0", SAME),
        ("lines", "1000", "1e3", SAME),
        ("lines", "0.1", "0.10000000000000001", OTHER),
        ("lines", "1000", "1_000", SAME),
        ("lines", "12", "١٢", SAME),
        ("lines", "inf", "Infinity", SAME),
        ("lines", "nan", "NaN", OTHER),
        ("lines", "1", "sNaN", OTHER),
        ("lines", "Yes", "yes", OTHER),
        ("lines", "", "", SAME),
        ("lines", "", "\n\n", SAME),
        ("lines", "0", "", OTHER),
        ("numbers", "1", "1.0", SAME),
        ("numbers", "1000", "1e3", SAME),
        ("numbers", "1000", "1_000", OTHER),
        ("numbers", "12", "١٢", OTHER),
        ("numbers", "inf", "Infinity", OTHER),
        ("numbers", "inf", "inf", SAME),
        # DMOJ
        ("standard", "1 2\n3\n", "1  2 \n\n3", SAME),
        ("standard", "a\nb", "a b", OTHER),
        ("standard", "a\n\nb", "a\nb", SAME),
        ("standard", "a\nb", "a\r\nb\r\n", SAME),
        ("standard", "1", "1.0", OTHER),
        ("easy", "ab c\n", "C B A", SAME),
        ("easy", "aab", "abb", OTHER),
        ("identical", "1\n", "1\n", SAME),
        ("identical", "1\n", "1", OTHER),
        ("linecount", "1\n2\n", "1\n2", SAME),
        ("linecount", "1\n2\n", "1\n3", OTHER),
        ("sorted", "1 2\n3 4", "3 4\n1  2", SAME),
        ("sorted", "1 2\n3 4", "1 3\n2 4", OTHER),
        ("floats", "0.5 a", "0.5000001 a", SAME),
        ("floats", "0.5", "0.50001", OTHER),
        ("floats", "1e9", "1000000500", SAME),
        ("floats", "1\n2", "1 2", OTHER),
        ("floats", "a", "b", OTHER),
        ("floats", "1", "nan", OTHER),
        ("floats", "nan", "1", OTHER),
        ("floats", "inf", "1e400", OTHER),
        ("floats", "1", "inf", OTHER),
        # What functions return
        ("json", "[1, 2.0]", "[1.0,2]", SAME),
        ("json", '{"a": [1], "b": null}', '{"b": null, "a": [1]}', SAME),
        ("json", "1", "true", OTHER),
        ("json", "false", "0", OTHER),
        ("json", "[0]", "[false]", OTHER),
        ("json", "null", "0", OTHER),
        ("json", "1", '"1"', OTHER),
        ("json", "[]", "{}", OTHER),
        ("json", "1", "1 2", OTHER),
        ("json", "1", "", OTHER),
        ("json", "1", "[" * 99999, OTHER),
        ("json", "1", "9" * 99999, OTHER),
        ("json", "NaN", "NaN", OTHER),
        ("json", "9007199254740993", "9007199254740992.0", OTHER),
        ("python", "1", "true", SAME),
        ("python", "[1]", "[1.0]", SAME),
        ("python", "[1]", "[2]", OTHER),
    ],
)
def test_comparators(name: str, expected: str, actual: str, same: bool):
    assert compare(name, expected.encode(), actual.encode(), {}) is same


@pytest.mark.parametrize(
    ("name", "args", "expected", "actual", "same"),
    [
        ("floats", {"precision": 2}, "1.00", "1.005", SAME),
        ("floats", {"precision": 2, "error_mode": "absolute"}, "1000", "1001", OTHER),
        ("floats", {"precision": 2, "error_mode": "relative"}, "1000", "1001", SAME),
        ("floats", {"precision": 2, "error_mode": "relative"}, "0", "0.001", OTHER),
        ("sorted", {"split_on": "whitespace"}, "1 2\n3", "3 2 1", SAME),
        ("identical", {"pe_allowed": False}, "1", "1 ", OTHER),
    ],
)
def test_arguments_of_comparators(name: str, args: dict[str, Any], expected: str, actual: str, same: bool):
    assert compare(name, expected.encode(), actual.encode(), args) is same


def test_any_bytes_can_be_compared():
    for name in ("lines", "numbers", "standard", "easy", "floats", "sorted", "json"):
        assert compare(name, b"1", b"\xff\xfe\0", {}) is OTHER


def test_an_answer_that_cannot_be_read_is_nobody_s_wrong_answer():
    with pytest.raises(ValueError, match="Expecting"):
        compare("json", b"[1,", b"1", {})
