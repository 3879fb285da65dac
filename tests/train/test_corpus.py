"""The corpus: built once, whole or not at all, its examples those of the rows, everything counted, problems apart."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessy_jax.data.inputs import InputError
from tessy_jax.data.run_folder import RunDirError
from tessy_jax.data.sources import rows
from tessy_jax.text.chat import Chat
from tessy_jax.train.data import corpus as corpus_module
from tessy_jax.train.data.corpus import Corpus, Options
from tessy_jax.train.data.examples import PARTS, examples
from tests.kit import vocab


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return Chat.load(vocab.small_chatml(tmp_path_factory.mktemp("small")))


def row(number, question="How many?", words=3):
    answer = "word " * words + str(number)
    return {"id": f"r{number}", "prompt": question, "response": f"<think>\nHm.\n</think>\n\n{answer}"}


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values))
    return path


def same(corpus, expected):
    assert len(corpus) == len(expected)
    assert corpus.names(range(len(corpus))) == [example.id for example in expected]
    assert corpus.lengths.tolist() == [len(example.tokens) for example in expected]
    for i, example in enumerate(expected):
        assert corpus.tokens(i).tolist() == example.tokens.tolist()
        assert corpus.parts(i).tolist() == example.parts.tolist()
        assert corpus.counts[i].tolist() == np.bincount(example.parts[1:], minlength=len(PARTS)).tolist()


def test_a_corpus_holds_the_examples_of_its_rows(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", [row(0), "{broken", row(1, words=9), {"prompt": "x"}, row(2)])
    corpus = Corpus.open(tmp_path / "corpus", [source], chat, Options(1000))
    same(corpus, [e for r in rows(source) for e in examples(r, chat) if hasattr(e, "tokens")])
    report = corpus.report
    assert (report.rows, report.examples, report.rejected) == (5, 3, 2)
    assert report.tokens["assistant"] == corpus.counts[:, PARTS.index("assistant")].sum()
    assert sum(report.tokens.values()) == corpus.lengths.sum()
    rejects = [json.loads(line) for line in (tmp_path / "corpus" / "rejects.jsonl").read_text().splitlines()]
    assert [(r["file"], r["line"]) for r in rejects] == [("in.jsonl", 2), ("in.jsonl", 4)]
    assert rejects[0]["reason"].startswith("malformed JSON at column 2")
    assert rejects[1]["raw"] == '{"prompt": "x"}'


def test_sources_of_all_kinds(tmp_path, chat):
    run = tmp_path / "run"
    for part, number in (("part-00000-of-00002", 0), ("part-00001-of-00002", 1)):
        write(run / f"data/{part}.jsonl", [row(number)])
    write(run / "manifest.json", ["{}"])
    write(run / "metrics.jsonl", [{"seconds": 1}])
    table = tmp_path / "more.parquet"
    pq.write_table(pa.Table.from_pylist([row(2)]), table)
    corpus = Corpus.open(tmp_path / "corpus", [run, table], chat, Options(1000))
    assert corpus.names(range(3)) == ["r0", "r1", "r2"]
    assert corpus.report.rejected == 0


def test_a_corpus_is_built_once(tmp_path, chat, monkeypatch):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(4)])
    first = Corpus.open(tmp_path / "corpus", [source], chat, Options(1000))
    monkeypatch.setattr(corpus_module, "examples", None)
    again = Corpus.open(tmp_path / "corpus", [source], chat, Options(1000))
    assert again.report == first.report
    assert [again.tokens(i).tolist() for i in range(4)] == [first.tokens(i).tolist() for i in range(4)]


def test_another_corpus_is_refused(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(4)])
    Corpus.open(tmp_path / "corpus", [source], chat, Options(1000))
    with pytest.raises(RunDirError) as caught:
        Corpus.open(tmp_path / "corpus", [source], chat, Options(999, system="Hi"))
    assert str(caught.value).splitlines()[1:] == [
        "  options.length: 1000 there, 999 now",
        '  options.system: null there, "Hi" now',
        "use --overwrite or another --output",
    ]
    write(source, [row(5)])
    with pytest.raises(RunDirError, match=r"sources\.0/in\.jsonl"):
        Corpus.open(tmp_path / "corpus", [source], chat, Options(1000))


def test_a_killed_builder_leaves_nothing_to_take_for_a_corpus(tmp_path, chat, monkeypatch):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(4)])

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus_module.os, "rename", killed)
    monkeypatch.setattr(corpus_module.shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        Corpus.open(tmp_path / "corpus", [source], chat, Options(1000))
    assert not (tmp_path / "corpus").exists()
    assert (tmp_path / ".corpus.tmp").exists()
    monkeypatch.undo()
    assert len(Corpus.open(tmp_path / "corpus", [source], chat, Options(1000))) == 4
    assert not (tmp_path / ".corpus.tmp").exists()


def test_long_examples(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", [row(0), row(1, words=60), row(2, question="How many? " * 40)])
    whole = Corpus.open(tmp_path / "whole", [source], chat, Options(2000))
    length = int(whole.lengths[0]) + 20
    cut = Corpus.open(tmp_path / "cut", [source], chat, Options(length))
    assert (cut.report.examples, cut.report.truncated, cut.report.cut, cut.report.dropped) == (2, 1, 1, 0)
    assert cut.names([0, 1]) == ["r0", "r1"]
    assert cut.tokens(1).tolist() == whole.tokens(1)[:length].tolist()
    kept = Corpus.open(tmp_path / "kept", [source], chat, Options(length, long="drop"))
    assert (kept.report.examples, kept.report.truncated, kept.report.cut, kept.report.dropped) == (1, 0, 0, 2)
    with pytest.raises(InputError) as caught:
        Corpus.open(tmp_path / "none", [source], chat, Options(8))
    assert str(caught.value) == (
        f"no example to train on in {source}: 3 do not fit into length = 8 tokens; "
        f"the shortest of them has {whole.lengths[0]}: raise length"
    )
    assert not (tmp_path / "none").exists()


def test_no_usable_row(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", [{"a": 1}, {"b": 2}])
    with pytest.raises(InputError, match=r"2 of 2 rows cannot be used, the first: in\.jsonl:1: no conversation"):
        Corpus.open(tmp_path / "corpus", [source], chat, Options(1000))


def test_a_problem_is_on_one_side(tmp_path, chat):
    values = [row(n, question=f"Question {n % 100}?") for n in range(300)]
    corpus = Corpus.open(tmp_path / "corpus", [write(tmp_path / "in.jsonl", values)], chat, Options(1000))
    train, held = corpus.split(0.2)
    sides = [{int(name[1:]) % 100 for name in side.names(range(len(side)))} for side in (train, held)]
    assert not sides[0] & sides[1]
    assert len(train) + len(held) == 300
    assert 10 <= len(sides[1]) <= 30
    i = held.names(range(len(held))).index(f"r{min(sides[1])}")
    assert held.tokens(i).tolist() == corpus.tokens(min(sides[1])).tolist()
    assert held.lengths[i] == corpus.lengths[min(sides[1])]
    fewer = Corpus.open(tmp_path / "fewer", [write(tmp_path / "few.jsonl", values[:50])], chat, Options(1000))
    assert {int(n[1:]) for n in fewer.split(0.2)[1].names(range(len(fewer.split(0.2)[1])))} == sides[1] & set(range(50))
    assert [len(side) for side in corpus.split(0)] == [300, 0]


def test_a_small_share_holds_out_one_problem(tmp_path, chat):
    values = [row(n, question=f"Question {n % 2}?") for n in range(4)]
    corpus = Corpus.open(tmp_path / "corpus", [write(tmp_path / "in.jsonl", values)], chat, Options(1000))
    assert [len(side) for side in corpus.split(1e-6)] == [2, 2]
    assert [len(side) for side in corpus.split(0.999999)] == [2, 2]
    with pytest.raises(InputError, match="one problem only"):
        corpus.split(0.5)[0].split(0.5)


def test_only_an_empty_folder_becomes_a_corpus(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", [row(0)])
    (tmp_path / "empty").mkdir()
    assert len(Corpus.open(tmp_path / "empty", [source], chat, Options(1000))) == 1
    write(tmp_path / "mine" / "thesis.txt", ["words"])
    with pytest.raises(RunDirError, match="Directory not empty"):
        Corpus.open(tmp_path / "mine", [source], chat, Options(1000))
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_fields_that_nothing_reads_are_counted(tmp_path, chat):
    rows_ = [row(0) | {"persona": "a poet", "level": 3}, row(1) | {"persona": "a nurse", "mood": "glad"}, row(2)]
    source = write(tmp_path / "in.jsonl", rows_)
    for _ in range(2):  # built, and read again
        assert Corpus.open(tmp_path / "corpus", [source], chat, Options(1000)).report.unread == {
            "persona": 2,
            "mood": 1,
        }


def test_a_seed_draws_examples_of_which_fewer_are_among_more(tmp_path, chat):
    source = write(tmp_path / "in.jsonl", [row(n) for n in range(20)])
    corpus = Corpus.open(tmp_path / "corpus", [source], chat, Options(1000))
    drawn = {count: corpus.draw(count, seed=3).names(range(count)) for count in (5, 12, 20)}
    assert drawn[20] == corpus.names(range(20))
    assert set(drawn[5]) < set(drawn[12])
    assert drawn[12] == [name for name in drawn[20] if name in drawn[12]]
    assert drawn[12] != corpus.draw(12, seed=4).names(range(12))
    with pytest.raises(InputError, match=r"data\.limit: the data has 20 examples to train on, not 21"):
        corpus.draw(21, seed=3)
