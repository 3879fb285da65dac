"""Conversations in the shapes that they have elsewhere: JSON in strings, parts of text, system messages apart."""

import json

import pytest

from tessy_jax.data.inputs import read
from tessy_jax.data.messages import BadRow, read_message, read_turns, with_system_field

SYSTEM, ASK, REPLY = (
    {"role": r, "content": c} for r, c in (("system", "Be brief."), ("user", "2+2?"), ("assistant", "4"))
)
SHAREGPT = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]


@pytest.mark.parametrize(
    ("field", "text", "messages"),
    [
        ("messages", json.dumps([SYSTEM, ASK, REPLY]), [SYSTEM, ASK, REPLY]),
        ("conversations", json.dumps(SHAREGPT, indent=1), [ASK, REPLY]),
        ("prompt", json.dumps([ASK]), [ASK]),
        ("dialogs", ' [ {"content": "2+2?", "role": "user"} ]', [ASK]),
        # texts, which are not to be decoded
        ("prompt", "[1, 2] sorted?", None),
        ("prompt", '[{"value": 3}, {"value": 4}]', None),
        ("question", 'What does [{"role": "user"}] mean?', None),
        ("question", '[{"role": "user"}] is what?', None),
        ("prompt", '{"role": "user"}', None),
        ("messages", "2+2?", None),
    ],
)
def test_json_in_strings(field, text, messages):
    assert read_turns(text, field, "user") == (messages or [{"role": "user", "content": text}])


@pytest.mark.parametrize(
    ("field", "text", "why"),
    [
        ("messages", "[{'role': 'user', 'content': 'x'}]", "looks like messages in a string that is not JSON"),
        ("prompt", "[{'from': 'human', 'value': 'x'}]", "looks like messages in a string that is not JSON"),
        ("conversations", '[{"from": "human", "value": "x"', "looks like messages in a string that is not JSON"),
        ("messages", '{"messages": []}', "holds an object in a string"),
    ],
)
def test_strings_that_only_look_like_messages(field, text, why):
    with pytest.raises(BadRow, match=f"field '{field}' {why}.*store a list"):
        read_turns(text, field, "user")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}], "2+2?"),
        ([{"type": "input_text", "text": "2+2?", "image_url": None}], "2+2?"),
        (["2+", {"text": "2?"}], "2+2?"),
    ],
)
def test_parts_of_text_are_joined(parts, text):
    assert read_message({"role": "user", "content": parts}, "messages[0]") == ASK | {"content": text}
    assert read_message({"from": "human", "value": parts}, "messages[0]") == ASK | {"content": text}


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "a part of type 'image_url'"),
        ({"type": "thinking", "thinking": "Hm."}, "a part of type 'thinking'"),
        ({"type": "text"}, "a part of type 'text'"),
        (3, "a number"),
    ],
)
def test_other_parts_are_refused(part, what):
    with pytest.raises(BadRow) as caught:
        read_message({"role": "user", "content": [{"type": "text", "text": "a"}, part]}, "messages[0]")
    assert str(caught.value) == (
        f"messages[0].content[1] is {what}: only parts of text are read; remove it, or leave the row out"
    )


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_a_system_message_of_its_own(tmp_path, name):
    rows = [
        {"id": "a", name: "Be brief.", "conversations": SHAREGPT},
        {"id": "b", name: "Be brief.", "prompt": "2+2?"},
        {"id": "c", name: " Be brief.", "messages": [SYSTEM, ASK]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for found in read(tmp_path / "in.jsonl"):
        assert found.messages == [SYSTEM, ASK]
        assert name not in found.extra


@pytest.mark.parametrize(
    ("row", "messages", "why"),
    [
        ({"system": "Be long."}, [SYSTEM, ASK], "it has several system messages (system, messages[0]): keep one"),
        ({"system": "a", "system_prompt": "b"}, [ASK], "it has several system messages (system, system_prompt)"),
        ({"system": ["a"]}, [ASK], "field 'system' must be a string, the system message, not a list"),
        ({"system": "\ud800"}, [ASK], "'system' is not text: lone surrogate"),
    ],
)
def test_system_messages_that_cannot_be_used(row, messages, why):
    with pytest.raises(BadRow) as caught:
        with_system_field(row, messages, "messages")
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            {"messages": [], "prompt": "Hi"},
            ": remove the field, or give columns.prompt=prompt to read 'prompt' instead",
        ),
        ({"messages": [], "question": "Hi"}, ": remove the field, or give columns.prompt=question to read"),
        ({"prompt": " ", "conversations": SHAREGPT}, ": remove the field, or give columns.prompt=conversations"),
    ],
)
def test_an_empty_field_beside_a_filled_one(tmp_path, row, why):
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    (found,) = read(tmp_path / "in.jsonl")
    assert found.reason.startswith(f"empty prompt in '{next(iter(row))}'{why}")


def test_ids_of_data_frames_and_of_several_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"id": 0, "prompt": "x"}\n{"id": 1.0, "prompt": "y"}\n')
    _, pandas, again, _ = read(tmp_path)
    fraction = "write 1.0 without its fraction (pandas: astype('Int64'))"
    assert pandas.reason == f"field 'id' must be a string or an integer, not a number: {fraction}"
    assert again.reason == (
        "duplicate id '0': first at line 1 of a.jsonl; where ids count anew in each file, "
        "name a field that is unique as columns.id"
    )
