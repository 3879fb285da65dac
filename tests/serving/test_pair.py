"""A pair behind the API: its answers are the records of a run, text and authors, whole and in a stream."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tessy_jax.data.inputs import read_problems
from tessy_jax.data.records import Record
from tests.kit.run_synthesize import QUESTIONS, whole, write_problems
from tests.kit.serving import Server, serving, tiny_pair

SEED = 5
"""Of the run."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    whole()  # the run takes the engine first
    with serving(served=tiny_pair()) as running:
        yield running


def asked(problem: int, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTIONS[problem]}]
    more = {"problem_id": f"p{problem}"}
    return {"model": "both", "messages": messages, "seed": SEED, "extra_body": more} | options


def expected(record: Record) -> dict[str, Any]:
    """The message that is this record: spans count from where the thinking and the answer begin."""
    thought = sum(span.phase == "think" for span in record.spans)
    begin = [record.spans[0].start if thought else 0, record.spans[thought].start if len(record.spans) > thought else 0]
    spans = [
        {"by": s.by, "phase": s.phase, "start": s.start - at, "end": s.end - at, "n_tokens": s.n_tokens}
        for s, at in ((s, begin[s.phase == "answer"]) for s in record.spans)
    ]
    return {"reasoning_content": record.thinking, "content": record.answer, "spans": spans}


def found(choice: Any) -> dict[str, Any]:
    message = choice.message
    return {
        "reasoning_content": message.reasoning_content, "content": message.content, "spans": message.tessy["spans"],
    }  # fmt: skip


def records() -> list[list[Record]]:
    """By problem and sample."""
    read = [Record.from_row(row) for row in whole()]
    return [read[i : i + 2] for i in range(0, len(read), 2)]


def test_an_answer_is_the_record_of_a_run(server: Server, client: openai.OpenAI) -> None:
    """One after the other, and all at once in three slots; what else is told of it is the record's as well."""
    alone = [client.chat.completions.create(**asked(problem, n=2)) for problem in (0, 3, 5)]
    for reply, both in zip(alone, (records()[problem] for problem in (0, 3, 5)), strict=True):
        for choice, record in zip(reply.choices, both, strict=True):
            assert found(choice) == expected(record)
            about = choice.message.tessy
            assert about["finish"] == {"think": record.finish.think, "answer": record.finish.answer}
            assert about["problem_id"] == record.problem.id
            assert (about["seed"], about["sample_index"]) == (SEED, record.sample_index)
            assert choice.finish_reason == record.finish.answer
        counts = [record.n_tokens for record in both]
        thought = sum(each.student + each.teacher for each in counts)
        assert reply.usage.completion_tokens_details.reasoning_tokens == thought
        assert reply.usage.completion_tokens == thought + sum(each.answer for each in counts)

    async def together() -> list[Any]:
        async with server.asynchronous() as many:
            problems = range(len(QUESTIONS))
            return await asyncio.gather(*(many.chat.completions.create(**asked(problem)) for problem in problems))

    replies = asyncio.run(together())
    assert [found(reply.choices[0]) for reply in replies] == [expected(both[0]) for both in records()]
    assert sum(len(both[0].spans) > 4 for both in records()) > 3, "they write by turns"


def test_streams_only_tell_what_stays(client: openai.OpenAI) -> None:
    """Each piece is by the author whom the record names, and together they are its text."""
    for problem in (1, 2, 7):
        said = {"reasoning_content": "", "content": ""}
        authors: list[str] = []
        about, pieces = None, 0
        for chunk in client.chat.completions.create(**asked(problem, stream=True)):
            delta = chunk.choices[0].delta
            for name in said:
                if text := getattr(delta, name, None):
                    said[name] += text
                    authors += [delta.tessy["by"]] * len(text)
                    pieces += 1
            if chunk.choices[0].finish_reason:
                about = delta.tessy
        want = expected(records()[problem][0])
        assert about is not None
        assert said | {"spans": about["spans"]} == want
        assert authors == [span["by"] for span in want["spans"] for _ in range(span["start"], span["end"])]
        assert pieces > len(want["spans"]), "it comes as it is written"


def test_a_stop_string_ends_the_answer(client: openai.OpenAI) -> None:
    record = next(both[0] for both in records() if len(both[0].answer) > 12)
    problem, stop = int(record.problem.id[1:]), record.answer[5:7]
    [choice] = client.chat.completions.create(**asked(problem, stop=stop)).choices
    assert choice.message.reasoning_content == record.thinking
    assert choice.message.content == record.answer[: record.answer.index(stop)]
    last = choice.message.tessy["spans"][-1]
    assert (last["phase"], last["end"]) == ("answer", len(choice.message.content))
    assert last["n_tokens"] < record.spans[-1].n_tokens


def test_without_an_id_it_is_that_of_a_row_without_one(client: openai.OpenAI, tmp_path: Path) -> None:
    """And without a seed every request draws anew."""
    [problem] = read_problems(write_problems(tmp_path / "rows.jsonl", [{"question": QUESTIONS[4]}]))
    one, other = (client.chat.completions.create(**asked(4, seed=None, extra_body={})) for _ in range(2))
    about = one.choices[0].message.tessy
    assert about["problem_id"] == other.choices[0].message.tessy["problem_id"] == problem.id
    assert one.choices[0].message.reasoning_content != other.choices[0].message.reasoning_content
    again = client.chat.completions.create(**asked(4, seed=about["seed"], extra_body={}))
    assert found(again.choices[0]) == found(one.choices[0])
    back = [*asked(4)["messages"], again.choices[0].message.model_dump(), {"role": "user", "content": "Sure?"}]
    more = client.chat.completions.create(model="both", messages=back)
    assert more.usage.prompt_tokens > again.usage.prompt_tokens


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"temperature": 0.1}, "temperature", "0.8 for the student, 0.8 for the teacher"),
        ({"top_p": 0.5}, "top_p", "leave it out"),
        ({"max_tokens": 50}, "max_tokens", "80 tokens of thinking and 24 of answer"),
        ({"max_completion_tokens": 103}, "max_completion_tokens", "at least 104"),
        ({"stop_token_ids": [1]}, "stop_token_ids", "'stop'"),
        ({"logprobs": True}, "logprobs", "not supported for a pair"),
        ({"n": 99}, "n", "at most 64"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages", "must be the user's"),
        ({"messages": [{"role": "user", "content": "long " * 999}]}, "messages", "engine.context 384 leaves room for"),
        ({"problem": "p1"}, "problem", "did you mean 'problem_id'?"),
    ],
)
def test_what_a_pair_cannot_do_is_refused_by_name(
    server: Server, changes: dict[str, Any], param: str, words: str
) -> None:
    body = {"model": "both", "messages": [{"role": "user", "content": "Hi"}]} | changes
    status, answer, _ = server.post("/v1/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert words in answer["error"]["message"]


def test_what_says_the_same_is_taken_and_other_texts_are_not(server: Server, client: openai.OpenAI) -> None:
    same = {"temperature": 0.8, "max_tokens": 104, "top_p": 1}
    assert found(client.chat.completions.create(**asked(0, **same)).choices[0]) == expected(records()[0][0])
    status, answer, _ = server.post("/v1/completions", {"model": "both", "prompt": "a"})
    assert status == 400
    assert "chats only" in answer["error"]["message"]


def test_a_client_that_leaves_frees_its_slot(server: Server, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**asked(6, n=8, stream=True))
    next(iter(stream))
    stream.close()
    server.wait("tessy_slots_taken", 0)
    server.wait("tessy_texts_waiting", 0)
    assert found(client.chat.completions.create(**asked(6)).choices[0]) == expected(records()[6][0])
