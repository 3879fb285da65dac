"""Reading problems: every accepted shape, and the exact words for every bad row."""

import datetime
import gzip
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessy_jax.config.sections import Columns
from tessy_jax.data.inputs import InputError, Reject, read
from tessy_jax.data.records import Problem

ASK = [{"role": "user", "content": "2+2?"}]


def write(path, *lines, end=b"\n"):
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(line + end for line in encoded))
    return path


def one(tmp_path, row, columns=None):
    (found,) = read(write(tmp_path / "in.jsonl", row), columns)
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"messages": ASK},
        {"prompt": "2+2?"},
        {"prompt": ASK},
        {"question": "2+2?"},
        {"dialogs": ASK},
        {"conversations": [{"from": "human", "value": "2+2?"}]},
        {"messages": None, "question": "2+2?"},
    ],
)
def test_shapes(tmp_path, row):
    found = one(tmp_path, {"id": "a", "answer": 4} | row)
    assert isinstance(found, Problem)
    assert (found.id, found.messages, found.extra["answer"], found.line) == ("a", ASK, 4, 1)
    assert "id" not in found.extra
    assert "question" not in found.extra


def test_answers_at_the_end_are_left_out_and_counted(tmp_path, caplog):
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "1+1?"},
        {"from": "gpt", "value": "2"},
        {"from": "human", "value": "2+2?", "weight": 1},
        {"from": "gpt", "value": "4"},
    ]
    found = one(tmp_path, {"conversations": turns})
    assert [message["role"] for message in found.messages] == ["system", "user", "assistant", "user"]
    assert found.messages[-1] == {"role": "user", "content": "2+2?", "weight": 1}
    assert found.extra == {"dropped_turns": 1}
    assert "1 rows ended with answers" in caplog.text


def test_ids(tmp_path):
    path = write(
        tmp_path / "in.jsonl",
        {"id": 7, "id_ddm": "d", "prompt": "a"},
        {"id_ddm": "e", "prompt": "b"},
        {"prompt": "c"},
        {"uid": "u", "id": "x", "prompt": "d"},
    )
    found = list(read(path))
    assert [one.id for one in found[:2]] == ["7", "e"]
    assert found[2].id == "37dd20c4377d20d6"
    assert found[1].extra == {"id_ddm": "e"}
    mapped = one_of(write(tmp_path / "in.jsonl", {"uid": "u", "id": "x", "q": "d", "prompt": "p"}))
    assert (mapped.id, mapped.messages[0]["content"]) == ("u", "d")
    assert mapped.extra == {"uid": "u", "id": "x", "prompt": "p"}


def one_of(path):
    (found,) = read(path, Columns(prompt="q", id="uid"))
    return found


BAD = [
    (b'{"prompt": "a" "b"}', "malformed JSON at column 16: Expecting ',' delimiter"),
    (b"[" * 100000, "malformed JSON: nested too deeply"),
    (b"[1]", "not a JSON object but a list"),
    (b"3", "not a JSON object but a number"),
    (b"null", "not a JSON object but null"),
    (b'{"prompt": "\xff"}', "invalid UTF-8 at byte 13 of the line"),
    (
        {"text": "a", "n": 1},
        "no prompt: expected a field messages, prompt, dialogs, question, conversations; the row has text, n",
    ),
    ({}, "no prompt: expected a field messages, prompt, dialogs, question, conversations; the row has no fields"),
    ({"prompt": " \n"}, "empty prompt in 'prompt'"),
    ({"messages": []}, "empty prompt in 'messages'"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "no user message at the end of 'messages'"),
    ({"messages": [{"role": "system", "content": "a"}]}, "no user message at the end of 'messages'"),
    ({"prompt": 3}, "field 'prompt' must be a string or a list of messages, not a number"),
    ({"messages": ["hi"]}, "messages[0] must be an object with role and content, not a string"),
    ({"messages": [{"role": "user"}]}, "messages[0].content must be a string, not null"),
    (
        {"messages": [*ASK, {"role": "tool", "content": "x"}]},
        "messages[1].role is 'tool', expected one of system, user, assistant, human, gpt",
    ),
    ({"conversations": [{"from": "human", "value": 1}]}, "conversations[0].value must be a string, not a number"),
    ({"prompt": "a\ud800"}, "'prompt' is not text: lone surrogate \\ud800 at character 2"),
    ({"id": [1], "prompt": "a"}, "field 'id' must be a string or an integer, not a list"),
    ({"id": True, "prompt": "a"}, "field 'id' must be a string or an integer, not a boolean"),
    ({"id": "", "prompt": "a"}, "field 'id' is empty"),
    ({"prompt": "a", "extra": json.loads("[" * 200 + "]" * 200)}, "nested more than 100 levels deep"),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_bad_rows(tmp_path, row, reason):
    path = write(tmp_path / "in.jsonl", {"prompt": "before"}, row, {"prompt": "after"})
    before, bad, after = read(path)
    assert isinstance(before, Problem)
    assert isinstance(after, Problem)
    assert isinstance(bad, Reject)
    assert (bad.reason, bad.line, bad.file) == (reason, 2, "in.jsonl")
    assert len(bad.raw) <= 2000


def test_mapped_columns_must_exist(tmp_path):
    columns = Columns(prompt="q", id="uid")
    assert one(tmp_path, {"uid": 1, "p": 2}, columns).reason == (
        "no prompt: expected a field 'q', which columns.prompt names; the row has uid, p"
    )
    assert one(tmp_path, {"q": "a"}, columns).reason == "no field 'uid', which columns.id names; the row has q"


def test_duplicates_name_the_first(tmp_path):
    rows = [{"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}, {"prompt": "c"}, {"prompt": "c"}]
    found = list(read(write(tmp_path / "in.jsonl", *rows)))
    assert found[1].reason == "duplicate id 'x': first at line 1"
    assert found[1].id == "x"
    assert found[3].reason == (
        "duplicate prompt (rows without an id): first at line 3; for several traces per prompt set samples"
    )


def test_duplicates_across_files(tmp_path):
    write(tmp_path / "a.jsonl", {"id": "x", "prompt": "a"})
    write(tmp_path / "b.jsonl", {"id": "x", "prompt": "b"})
    assert [getattr(one, "reason", None) for one in read(tmp_path)] == [
        None,
        "duplicate id 'x': first at line 1 of a.jsonl",
    ]


def test_line_ends_bom_and_blank_lines(tmp_path):
    path = write(tmp_path / "in.jsonl", b"\xef\xbb\xbf" + b'{"prompt": "a"}', b"", b"  ", {"prompt": "b"}, end=b"\r\n")
    assert [(one.messages[0]["content"], one.line) for one in read(path)] == [("a", 1), ("b", 4)]


def test_unicode_line_separators_do_not_end_a_line(tmp_path):
    path = write(tmp_path / "in.jsonl", '{"prompt": "a\u2028b\u0085c"}'.encode())
    assert next(read(path)).messages[0]["content"] == "a\u2028b\u0085c"


def test_gzip(tmp_path):
    path = tmp_path / "IN.JSONL.GZ"
    whole = gzip.compress(b"".join(b'{"prompt": "%d %s"}\n' % (n, b"x" * n) for n in range(3000)))
    path.write_bytes(whole)
    assert len(list(read(path))) == 3000
    path.write_bytes(whole[: len(whole) // 2])
    *good, last = read(path)
    assert len(good) > 100
    assert last.line == len(good) + 1
    assert last.reason.startswith("the rest of the file cannot be read: Compressed file ended")
    path.write_bytes(b"no gzip at all")
    with pytest.raises(InputError, match=r"cannot read .*Not a gzipped file"):
        read(path)


def test_parquet(tmp_path):
    table = pa.table(
        {
            "id": ["a", None],
            "messages": [[{"role": "user", "content": "hi", "name": None}], None],
            "score": [1.5, math.nan],
            "when": [datetime.date(2026, 1, 2), None],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    good, bad = read(tmp_path / "in.parquet")
    assert good.messages == [{"role": "user", "content": "hi"}]
    assert good.extra == {"score": 1.5, "when": datetime.date(2026, 1, 2)}
    assert (bad.line, bad.raw) == (2, '{"row": {"id": null, "messages": null, "score": null, "when": null}}')


@pytest.mark.parametrize("container", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_folder(tmp_path, container):
    for name, prompts in (("data-00000-of-00002", ["a", "b"]), ("data-00001-of-00002", ["c"]), ("cache-1", ["no"])):
        table = pa.table({"prompt": prompts})
        with pa.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as sink, container(sink, table.schema) as writer:
            writer.write_table(table)
    assert [one.messages[0]["content"] for one in read(tmp_path)] == ["a", "b", "c"]
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00001-of-00002.arrow"}]}))
    assert [one.messages[0]["content"] for one in read(tmp_path)] == ["c"]


def test_hub_folder_layout(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# card")
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "data/train-00000-of-00001.parquet")
    assert next(read(tmp_path)).messages[0]["content"] == "a"
    pq.write_table(pa.table({"prompt": ["b"]}), tmp_path / "data/test-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"has several splits \(test, train\): give one folder or file"):
        read(tmp_path)


def test_dataset_of_splits(tmp_path):
    (tmp_path / "train").mkdir()
    write(tmp_path / "train/rows.jsonl", {"prompt": "a"})
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert next(read(tmp_path)).messages[0]["content"] == "a"
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match="has several splits"):
        read(tmp_path)
    (tmp_path / "dataset_dict.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*dataset_dict.json"):
        read(tmp_path)


def test_unusable_inputs(tmp_path):
    with pytest.raises(InputError, match=r"no such file or folder: .*nothing.jsonl"):
        read(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match=r"holds no \.jsonl, \.jsonl\.gz, \.parquet, \.arrow files"):
        read(tmp_path)
    for content in (b"", b"\n \n"):
        (tmp_path / "in.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=r"in\.jsonl holds no rows"):
            read(tmp_path / "in.jsonl")
    (tmp_path / "in.json").write_text("[]")
    with pytest.raises(InputError, match=r"in\.json is of an unknown kind: expected \.jsonl, .* of these: .* jq -c"):
        read(tmp_path / "in.json")
    (tmp_path / "in.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "in.parquet")
    with pytest.raises(InputError, match="holds files of different kinds: give one file"):
        read(tmp_path)


def test_reading_streams(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"prompt": "first"}\n' + b'{"prompt": "x"}\n' * 200_000)
    assert next(read(path)).messages[0]["content"] == "first"
