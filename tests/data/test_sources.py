"""Files of rows: whatever is in them, a place that cannot be read is one row with a problem, and the others go on."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessy_jax.data.inputs import InputError, Reject, read
from tessy_jax.data.records import Problem, dump_line
from tessy_jax.data.sources import rows
from tessy_jax.text.chat import Chat
from tessy_jax.train.data.examples import examples
from tests.kit import vocab

FUZZ = settings(
    max_examples=200,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SPREAD = "a JSON value over lines {} to {}: write each row as an object on one line"
ROW = '{"prompt": "a"}'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (json.dumps([{"prompt": "x", "n": [1, {"b": []}]}] * 3, indent=1), [SPREAD.format(1, 29)]),
        (f'{ROW}\n[\n  {{\n    "prompt": "x?"\n  }}\n]\n{ROW[:-2]}b"}}\n', ["a", SPREAD.format(2, 6), "ab"]),
        (f"[\n{ROW},\n{ROW}\n]\n", [SPREAD.format(1, 4)]),
        ('{\n  "prompt": "a"\n}\n{\n  "prompt": "b"\n}\n' + ROW, [SPREAD.format(1, 3), SPREAD.format(4, 6), "a"]),
        ('[{\n  "prompt": "a"\n},{\n  "prompt": "b"\n}]\n' + ROW, [SPREAD.format(1, 5), "a"]),
        (f"[\n{ROW}\n", ["malformed JSON at column 2: Expecting value", "a"]),  # a line that went astray
        (f"[{ROW}]\n", ["not a JSON object but a list of objects: write each as a row on a line of its own"]),
    ],
)
def test_arrays_and_objects_over_several_lines(tmp_path, text, found):
    (tmp_path / "in.jsonl").write_text(text)
    read_ = [
        one.reason if isinstance(one, Reject) else one.messages[0]["content"] for one in read(tmp_path / "in.jsonl")
    ]
    assert read_ == found


def test_a_file_that_cannot_be_read_does_not_end_the_others(tmp_path):
    for name, data in (
        ("a", gzip.compress(f"{ROW}\n".encode())),
        ("b", b"no gzip"),
        ("c", gzip.compress(b'{"prompt": "c"}\n' + bytes(range(256)) * 99)[:-9]),
        ("d", gzip.compress(b'{"prompt": "d"}\n')),
    ):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(data)
    found = list(read(tmp_path))
    assert [one.messages[0]["content"] for one in found if isinstance(one, Problem)] == ["a", "c", "d"]
    broken = {(one.file, one.line): one.reason for one in found if isinstance(one, Reject)}
    assert broken["b.jsonl.gz", 1] == "the file cannot be read: Not a gzipped file (b'no')"
    assert any("the rest of the file cannot be read: " in reason for reason in broken.values())


def test_cells_that_are_no_text_or_date(tmp_path):
    text = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc"))
    when = pa.array([0, 0, 2**55], pa.timestamp("ms"))
    pq.write_table(pa.table({"prompt": text, "when": when}), tmp_path / "in.parquet")
    first, second, third = rows(tmp_path / "in.parquet")
    assert first.value["prompt"] == "a"
    assert second.problem.startswith("cannot be read: 'utf-8' codec can't decode byte 0xff")
    assert third.problem.startswith("cannot be read: ")
    assert [row.line for row in (first, second, third)] == [1, 2, 3]


# -- whatever is in them -----------------------------------------------------------------------------------------------

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=5))
NAMES = st.sampled_from(
    ["id", "messages", "prompt", "conversations", "system", "role", "content", "from", "value", "type", "text", "tools"]
)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["user", "human", "assistant", '[{"role": "user"}]', "[{'role'", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
LINES = st.one_of(
    st.binary(max_size=30),
    st.dictionaries(NAMES, VALUES, max_size=5).map(lambda row: json.dumps(row).encode()),
    st.dictionaries(NAMES, VALUES, max_size=3).map(lambda row: json.dumps(row, indent=1).encode()),
    st.sampled_from([b"[", b"]", b"{", b"},", b"", b"\xef\xbb\xbf{}", ROW.encode(), ROW.encode()[:-4], b"[" * 5000]),
)


def check(path) -> None:
    """Every row is a problem, or a reject that names its place in one line."""
    try:
        found = list(read(path))
    except InputError as error:
        if path.name not in str(error):
            raise
        return
    for one in found:
        assert one.line > 0
        assert one.file == path.name
        if isinstance(one, Reject):
            assert one.reason
            assert "\n" not in one.reason
            dump_line(one.to_row()).encode()
        else:
            assert one.messages[-1]["role"] == "user"
            assert all(isinstance(message["content"], str) for message in one.messages)


@FUZZ
@given(lines=st.lists(LINES, max_size=6))
def test_any_lines(tmp_path, lines):
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    check(tmp_path / "in.jsonl")


@FUZZ
@given(
    columns=st.dictionaries(
        NAMES, st.sampled_from(["scalar", "messages", "json", "binary", "parts"]), min_size=1, max_size=4
    ),
    data=st.data(),
    damage=st.none() | st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)),
)
def test_any_table(tmp_path, columns, data, damage):
    text = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
    parts = st.lists(st.fixed_dictionaries({"type": st.just("text") | text, "text": text}), max_size=2)
    turn = st.none() | st.fixed_dictionaries({"role": text | st.just("user"), "content": text})
    of = {
        "scalar": st.none() | st.integers(-9, 9),
        "messages": st.none() | st.lists(turn, max_size=2),
        "json": st.none() | st.lists(turn, max_size=2).map(json.dumps),
        "binary": st.none() | st.binary(max_size=4),
        "parts": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": parts}), max_size=1),
    }
    table = {name: [data.draw(of[form]) for _ in range(2)] for name, form in columns.items()}
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table(table), path)
    if damage is not None:
        whole = bytearray(path.read_bytes())
        at = damage[0] % len(whole)
        whole[at : at + len(damage[1])] = damage[1]
        path.write_bytes(bytes(whole))
    check(path)


# -- to be trained on --------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["<think>\n", "a</think>b", "Yes."]
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "assistant"]), "content": TEXT},
    optional={"loss": VALUES, "weight": st.sampled_from([0, 1, 2, None]), "tool_calls": VALUES},
)
CONVERSATIONS = st.one_of(
    st.fixed_dictionaries({"prompt": TEXT, "response": TEXT}, optional={"id": VALUES, "system": TEXT}),
    st.lists(TURNS, max_size=3).map(lambda turns: {"messages": [{"role": "user", "content": "Hi"}, *turns]}),
    st.fixed_dictionaries(
        {}, optional={"prompt": TEXT, "response": VALUES, "messages": st.lists(TURNS, max_size=3), "spans": VALUES}
    ),
).map(lambda row: json.dumps(row).encode())


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return Chat.load(vocab.small_chatml(tmp_path_factory.mktemp("small")))


@settings(FUZZ, max_examples=100)
@given(
    lines=st.lists(st.booleans().flatmap((LINES, CONVERSATIONS).__getitem__), min_size=1, max_size=6),
    turns=st.sampled_from(["last", "all"]),
)
def test_any_lines_to_train_on(tmp_path, chat, lines, turns):
    """Every row gives examples, or a reject that names its place in one line."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        read_ = list(rows(path))
    except InputError as error:
        if path.name not in str(error):
            raise
        return
    for row in read_:
        for one in examples(row, chat, turns=turns):
            if isinstance(one, Reject):
                assert (one.file, one.line) == (path.name, row.line)
                assert one.reason
                assert "\n" not in one.reason
                dump_line(one.to_row()).encode()
            else:
                assert len(one.tokens) == len(one.parts) > 0
