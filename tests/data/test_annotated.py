"""Annotated segments in files: what `annotate` wrote comes back, what it did not is named."""

import json

import pytest

from tessy_jax.data.annotated import read_annotated, read_annotation
from tessy_jax.data.inputs import Reject
from tessy_jax.data.segments import Annotated, Segment, StyleSpan
from tessy_jax.data.sources import InputError

ROWS = [
    Annotated(Segment("a", 0, 0, 0, "so it is"), [StyleSpan(0, 2)]),
    Annotated(Segment("a", 1, 0, None, "wait, no"), [], truncated=True),
]


def run_of(folder, *lines: str):
    (folder / "data").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "data/part-00000-of-00001.jsonl").write_text("".join(lines))
    return folder


def line(annotated: Annotated) -> str:
    return json.dumps(annotated.to_row("lexicon")) + "\n"


def test_rows_come_back(tmp_path):
    run = run_of(tmp_path / "run", *map(line, ROWS))
    assert list(read_annotated([run])) == ROWS
    assert read_annotation(run) == {("a", 0, 0): ROWS[0], ("a", 1, 0): ROWS[1]}


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    run = run_of(tmp_path / "run", line(ROWS[0]), line(ROWS[1])[:-9])
    assert list(read_annotation(run).values()) == ROWS[:1]


@pytest.mark.parametrize("wrong", ["{", '{"id": "a"}', "[1]", line(ROWS[0]).replace('"end": 2', '"end": 9').strip()])
def test_other_lines_are_named(tmp_path, wrong):
    run = run_of(tmp_path / "run", line(ROWS[0]), wrong + "\n")
    file = run / "data/part-00000-of-00001.jsonl"
    with pytest.raises(InputError) as error:
        read_annotation(run)
    assert str(error.value) == (
        f"line 2 of {file} is no annotated segment: give the directories of two `annotate` runs"
    )
    first, second = read_annotated([run])
    assert first == ROWS[0]
    assert isinstance(second, Reject)
    assert second.line == 2


def test_released_rows_are_numbered_in_their_response(tmp_path):
    rows = [{"id_ddm": name, "think_text": f"so {i}", "pred_result": []} for i, name in enumerate("aba")]
    rows += [{"think_text": "so it is", "pred_result": []}] * 2
    file = tmp_path / "released.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [one.segment for one in read_annotated([file])]
    assert [(one.id, one.index, one.text) for one in found[:3]] == [
        ("a", 0, "so 0"),
        ("b", 0, "so 1"),
        ("a", 1, "so 2"),
    ]
    assert found[3].id == found[4].id
    assert (found[3].index, found[4].index) == (0, 1)
