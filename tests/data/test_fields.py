"""The table of input fields: each is used, passes through or is refused, and docs/inputs.md says the same."""

import json

import pytest

from tessy_jax.data.fields import MESSAGE_FIELDS, PASSES, ROW_FIELDS, USED, Field
from tessy_jax.data.inputs import Reject, read
from tests.kit import ROOT

ASK = [{"role": "user", "content": "Translate: good day"}]


@pytest.fixture
def read_rows(tmp_path):
    """read_rows(*rows) writes the rows into a file and gives what is read of it."""

    def of(*rows):
        file = tmp_path / "in.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return list(read(file))

    return of


def shown(field: Field) -> str:
    fates = [fate if fate in (USED, PASSES) else f"refused: {fate}" for fate in (field.prompts, field.training)]
    return f"| {', '.join(f'`{name}`' for name in field.names)} | {field.meaning} | {' | '.join(fates)} |"


@pytest.mark.parametrize("table", [ROW_FIELDS, MESSAGE_FIELDS], ids=["row", "message"])
def test_the_page_shows_the_table(table):
    page = (ROOT / "docs/inputs.md").read_text().splitlines()
    for field in table:
        assert shown(field) in page
    names = [name for field in table for name in field.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "add"}}]),
        ("functions", '[{"name": "add"}]'),
        ("images", ["a.png"]),
        ("history", [["Hi", "Hello"]]),
        ("instruction", "Answer in French."),
        ("input", "bonjour"),
        ("context", "A long passage."),
        ("options", {"A": "guten Tag", "B": "bonne journée"}),
        ("choices", [1, 2]),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("enable_thinking", False),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(read_rows, field, value):
    (found,) = read_rows({"messages": ASK, field: value})
    assert isinstance(found, Reject)
    assert found.reason.startswith(f"field '{field}' ")
    assert ": " in found.reason  # what to do


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "functions": "[]", "images": None, "history": [], "context": " ", "chat_template_kwargs": {}},
        {"input": "good day", "instruction": "Translate", "choices": ["good", "day"]},  # their text is in the prompt
        {"reasoning": "Hm.", "thinking": "Hm.", "answer": "4", "response": "4"},  # of an answer that is not read
        {"weight": 0.5, "loss": False, "train": "split 1"},
        {"system": "", "system_prompt": None},
    ],
)
def test_what_says_nothing_is_not_refused(read_rows, caplog, fields):
    (found,) = read_rows({"messages": ASK} | fields)
    assert found.messages == ASK
    assert caplog.text == ""


def test_unknown_fields_are_named_once_with_their_counts(read_rows, caplog):
    rows = [{"prompt": f"{n}?", "source": "x", "difficulty": 3, "problem_id": n} for n in range(4)]
    rows[1] |= {"starter_code": "def f():", "persona": None}
    rows[2] |= {"starter_code": "def g():", "persona": "a poet"}
    rows[3] = {"messages": [{"role": "user", "content": "3?", "mood": "glad", "name": "Bo", "timestamp": 3}]}
    assert len([row for row in read_rows(*rows) if not isinstance(row, Reject)]) == 4
    (message,) = caplog.messages
    assert message == (
        "fields that nothing here reads, and that pass through to the records: "
        "messages.mood (1 row), persona (1 row), starter_code (2 rows)"
    )


def test_fields_of_messages(read_rows):
    reasons = [
        row.reason
        for row in read_rows(
            {"messages": [ASK[0] | {"images": ["x"]}]},
            {"messages": [ASK[0] | {"function_call": {"name": "f"}}]},
            {"messages": [ASK[0] | {"audio": "x.wav"}]},
        )
    ]
    assert [reason.split(" is ")[0] for reason in reasons] == [
        f"messages[0]: field '{name}'" for name in ("images", "function_call", "audio")
    ]


def test_records_are_read_as_they_are(read_rows, caplog):
    """What passed through to a record was decided when it was written."""
    record = {"id": "a", "messages": ASK, "sample_index": 0, "spans": [], "finish": {}, "seed": 0}
    others = {"system": "Be brief.", "tools": [1], "mood": "glad", "input": {"messages": []}}
    (found,) = read_rows(record | others)
    assert found.messages == ASK
    assert found.extra.items() >= others.items()
    assert caplog.text == ""
