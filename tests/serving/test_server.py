"""The server, as the official client of OpenAI sees it, and as those see it who send what no client would."""

import asyncio
import json
import socket
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from tessy_jax.cooperate.sampling import Sampling
from tests.kit.browser import Page
from tests.kit.oracle import Author, Oracle
from tests.kit.serving import LONG, NAME, PROMPT, ROOM, K, Server, tiny

CHAT = [{"role": "user", "content": "What is 2 + 3?"}]


def complete(client: openai.OpenAI, prompt: Any, **options: Any) -> Any:
    return client.completions.create(model=NAME, prompt=prompt, **options)


def author(sampling: Sampling) -> Author:
    return Author(tiny().torch_model, tiny().served.model.chat, sampling)


# -- the texts ---------------------------------------------------------------------------------------------------------


class Allowed(LogitsProcessor):
    """In an answer the model writes whole characters, and of control tokens only the end of the turn."""

    def __init__(self, prompt: int):
        self.author, self.prompt = author(Sampling(0.0)), prompt

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        text = b"".join(self.author.bytes_of[i] for i in ids[0, self.prompt :].tolist())
        half = text[len(text.decode(errors="ignore").encode()) :]
        return torch.where(torch.tensor(self.author.allowed(half, thinking=False)), scores, -torch.inf)


def generated(prompt: str | list[int], tokens: int) -> tuple[list[int], list[int]]:
    """The prompt's token ids, and those that transformers writes behind it, greedily, up to the end of the turn."""
    chat = tiny().served.model.chat
    ids = chat.reference(prompt)["input_ids"] if isinstance(prompt, str) else prompt
    theirs = (
        tiny()
        .torch_model.generate(
            torch.tensor([ids]),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=sorted(chat.eos_ids),
            pad_token_id=0,
            logits_processor=LogitsProcessorList([Allowed(len(ids))]),
        )[0, len(ids) :]
        .tolist()
    )
    return ids, [i for i in theirs if i not in chat.eos_ids]


def spelled(tokens: list[int]) -> str:
    return b"".join(author(Sampling(0.0)).bytes_of[i] for i in tokens).decode(errors="ignore")


@pytest.mark.parametrize("prompt", ["The sum of", "Wait, I should", [5, 9, 40, 41, 200], "def f(x):\n    return"])
def test_greedy_text_is_that_of_transformers(client: openai.OpenAI, prompt: str | list[int]) -> None:
    ids, theirs = generated(prompt, 40)
    ours = complete(client, prompt, max_tokens=40, temperature=0)
    assert ours.choices[0].text == spelled(theirs)
    assert ours.choices[0].finish_reason == ("stop" if len(theirs) < 40 else "length")
    assert (ours.usage.prompt_tokens, ours.usage.completion_tokens) == (len(ids), len(theirs))


@pytest.mark.parametrize(
    "how", [Sampling(0.0), Sampling(0.9), Sampling(1.2, 12, 0.9, 0.02)], ids=["greedy", "plain", "filtered"]
)
def test_chat_texts_are_the_oracles(client: openai.OpenAI, how: Sampling) -> None:
    """Thinking and answer, by plain Python and torch, each sample with random numbers of its own."""
    alone = author(how)
    encode = alone.chat.tokenizer.encode
    oracle = Oracle(
        authors=(alone, alone), encode_for_judge=(encode, encode), style=(lambda ids: np.ones(len(ids)),) * 2,
        thresholds=(0.5, 0.5), max_think_tokens=10**6, max_answer_tokens=10**6, loops=None, seed=7,
    )  # fmt: skip
    options = {"temperature": how.temperature, "top_p": how.top_p}
    more = {"top_k": how.top_k, "min_p": how.min_p}
    reply = client.chat.completions.create(
        model=NAME, messages=CHAT, n=4, seed=7, max_tokens=100, extra_body=more, **options
    )
    done = [choice for choice in reply.choices if choice.finish_reason == "stop"]
    assert done
    for choice in done[:2]:
        trace = oracle.trace(CHAT, "", choice.index)
        close = len(alone.chat.close_text)
        assert choice.message.reasoning_content == trace.text[: trace.think_end].decode()
        assert choice.message.content == trace.text[trace.think_end + close :].decode()
    texts = {choice.message.reasoning_content + choice.message.content for choice in reply.choices}
    assert len(texts) == (1 if how.temperature == 0 else 4)
    details = reply.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens <= reply.usage.completion_tokens <= 400


def test_the_budget_is_for_thinking_and_answer_together(client: openai.OpenAI) -> None:
    """A smaller one gives the beginning of the same text, wherever it ends."""

    def written(tokens: int) -> tuple[str, Any]:
        reply = client.chat.completions.create(
            model=NAME, messages=CHAT, seed=3, temperature=1.0, max_completion_tokens=tokens
        )
        [choice], message = reply.choices, reply.choices[0].message
        return f"{message.reasoning_content}|{message.content}", (choice.finish_reason, reply.usage.completion_tokens)

    whole, (_, tokens) = written(100)
    for fewer in range(1, min(tokens, 24), 2 * K - 3):
        text, end = written(fewer)
        assert end == ("length", fewer)
        assert whole.startswith(text.rstrip("|").rstrip()), fewer


def test_a_text_ends_before_a_stop_string_or_id(client: openai.OpenAI) -> None:
    whole = complete(client, "The sum of", max_tokens=30, temperature=0)
    text = whole.choices[0].text
    stop = text[10:13]
    ended = complete(client, "The sum of", max_tokens=30, temperature=0, stop=["never there", stop])
    assert ended.choices[0].text == text[: text.index(stop)]
    assert ended.choices[0].finish_reason == "stop"
    assert 0 < ended.usage.completion_tokens < whole.usage.completion_tokens

    theirs = generated("The sum of", 30)[1]
    last = max(theirs, key=theirs.index)  # the token that comes first as late as any does
    ended = complete(client, "The sum of", max_tokens=30, temperature=0, extra_body={"stop_token_ids": [last]})
    assert ended.choices[0].text == spelled(theirs[: theirs.index(last)]) != text
    assert ended.choices[0].finish_reason == "stop"
    assert ended.usage.completion_tokens == theirs.index(last)


def test_streams_have_the_same_text(server: Server, client: openai.OpenAI) -> None:
    asked = {"model": NAME, "messages": CHAT, "n": 2, "seed": 9, "temperature": 1.0, "max_tokens": 60}
    whole = client.chat.completions.create(**asked)
    said = [{"reasoning_content": "", "content": ""} for _ in range(2)]
    ends: dict[int, str] = {}
    usage, roles = None, []
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            roles.append(choice.delta.role)
            for name in said[0]:
                said[choice.index][name] += getattr(choice.delta, name, None) or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert said == [
        {"reasoning_content": c.message.reasoning_content, "content": c.message.content} for c in whole.choices
    ]
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage
    assert [role for role in roles if role] == ["assistant"] * 2

    async def stream() -> list[str]:
        async with server.asynchronous() as many:
            chunks = await many.completions.create(
                model=NAME, prompt="First, we need to", max_tokens=40, temperature=0, stream=True
            )
            return [chunk.choices[0].text async for chunk in chunks]

    texts = asyncio.run(stream())
    assert "".join(texts) == complete(client, "First, we need to", max_tokens=40, temperature=0).choices[0].text
    assert len(texts) > 4, "it comes as it is written"


def test_several_prompts_and_choices(client: openai.OpenAI) -> None:
    """Choices are in the order of the prompts; without a seed every request draws anew."""
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 6}
    each = [complete(client, prompt, n=2, **options) for prompt in ("The", "Wait")]
    both = complete(client, ["The", "Wait"], n=2, **options)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in both.choices] == [c.text for reply in each for c in reply.choices]
    assert both.usage.prompt_tokens == sum(reply.usage.prompt_tokens for reply in each)
    fresh = {complete(client, "The", max_tokens=12).choices[0].text for _ in range(3)}
    assert len(fresh) == 3


def test_messages_may_be_in_parts_and_come_back_from_clients(client: openai.OpenAI) -> None:
    options = {"model": NAME, "max_tokens": 20, "temperature": 0}
    first = client.chat.completions.create(messages=CHAT, **options)
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 3?"}]}]
    assert client.chat.completions.create(messages=parts, **options).choices == first.choices
    more = [*CHAT, first.choices[0].message.model_dump(), {"role": "user", "content": "And 3 + 4?"}]
    assert client.chat.completions.create(messages=more, **options).usage.prompt_tokens > first.usage.prompt_tokens


def test_the_page_for_one_model(server: Server, client: openai.OpenAI, tmp_path: Path) -> None:
    """Two turns; the second one has the first before it."""
    options = {"model": NAME, "temperature": 0, "max_tokens": 40}
    with Page(tmp_path / "profile") as page:
        page.visit(f"{server.url}/")
        page.wait("state.model")
        assert page.value("document.getElementById('legend').hidden")
        page.fill("temperature", "0")
        page.fill("max_tokens", "40")
        messages = [*CHAT]
        for turn in (1, 2):
            page.fill("message", messages[-1]["content"])
            page.value("document.getElementById('send').click()")
            page.wait(f"document.querySelectorAll('.facts').length === {turn} && !state.running")
            message = client.chat.completions.create(messages=messages, **options).choices[0].message
            shown = "[...document.querySelectorAll('article:last-child .text')].map(e => e.textContent)"
            assert page.value(shown) == [message.reasoning_content, message.content]
            messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": "And 3 + 4?"}]
        assert not page.complaints


# -- what is refused ---------------------------------------------------------------------------------------------------

WRONG = {
    "malformed": (b'{"model": ', 400, None, "not JSON"),
    "not UTF-8": (b'{"model": "\xff"}', 400, None, "not UTF-8"),
    "half a surrogate": (b'{"model": "\\ud800"}', 400, None, "surrogate"),
    "NaN": (b'{"model": NaN}', 400, None, "NaN"),
    "too deep": (b"[" * 15_000, 400, None, "cannot be read"),
    "no object": (b"[]", 400, None, "must be a JSON object"),
    "too large": (b" " * 30_000, 413, None, "more than 20000 bytes"),
    "far too large": (b" " * 10_000_000, 413, None, "more than 20000 bytes"),
    "no model": ({"prompt": "a"}, 400, "model", "'model' is missing"),
    "another model": (PROMPT | {"model": "other"}, 404, "model", "ask for 'tiny'"),
    "no prompt": ({"model": NAME}, 400, "prompt", "'prompt' is missing"),
    "empty prompt": (PROMPT | {"prompt": ""}, 400, "prompt", "at least one token"),
    "empty list": (PROMPT | {"prompt": []}, 400, "prompt", "empty list"),
    "mixed list": (PROMPT | {"prompt": [1, "a"]}, 400, "prompt", "list of token ids"),
    "unknown token": (PROMPT | {"prompt": [10**6]}, 400, "prompt", "token ids are 0 to"),
    "too long": (PROMPT | {"prompt": [1] * 300}, 400, "prompt", f"a slot holds {ROOM}"),
    "too long with its text": (PROMPT | {"max_tokens": ROOM}, 400, "max_tokens", f"a slot holds {ROOM}"),
    "wrong type": (PROMPT | {"temperature": "hot"}, 400, "temperature", "valid number"),
    "a boolean": (PROMPT | {"max_tokens": True}, 400, "max_tokens", "valid integer"),
    "negative tokens": (PROMPT | {"max_tokens": -1}, 400, "max_tokens", "greater than or equal to 0"),
    "negative temperature": (PROMPT | {"temperature": -0.1}, 400, "temperature", "greater than or equal to 0"),
    "top_p of nothing": (PROMPT | {"top_p": 0}, 400, "top_p", "greater than 0"),
    "no text": (PROMPT | {"n": 0}, 400, "n", "greater than or equal to 1"),
    "too many texts": (PROMPT | {"n": 9}, 400, "n", "at most 8"),
    "an empty stop": (PROMPT | {"stop": ""}, 400, "stop", "empty string"),
    "a control token": (PROMPT | {"stop_token_ids": [10**6]}, 400, "stop_token_ids", "never writes"),
    "unknown field": (PROMPT | {"temprature": 1}, 400, "temprature", "did you mean 'temperature'"),
    "would change the text": (PROMPT | {"logit_bias": {"5": 1}}, 400, "logit_bias", "not supported"),
}
"""Body of a request, status, field to blame, and what the message says."""


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_and_the_server_goes_on(server: Server, client: openai.OpenAI, case: str) -> None:
    body, status, param, words = WRONG[case]
    found, answer, _ = server.post("/v1/completions", body)
    assert (found, answer["error"]["param"]) == (status, param)
    assert words in answer["error"]["message"]
    assert answer["error"].keys() == {"message", "type", "param", "code"}
    assert client.models.list().data[0].id == NAME


def test_wrong_messages(server: Server) -> None:
    for messages, param, words in (
        ([], "messages", "at least 1 item"),
        ([{"role": "tool", "content": "a"}], "messages[0].role", "'user'"),
        ([{"role": "user", "content": 5}], "messages[0].content", "valid string"),
        ([{"role": "user", "content": "a", "tool_calls": [1]}], "messages[0].tool_calls", "unknown field"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type", "'text'"),
    ):
        status, answer, _ = server.post("/v1/chat/completions", {"model": NAME, "messages": messages})
        assert (status, answer["error"]["param"]) == (400, param), answer
        assert words in answer["error"]["message"]


def test_fields_that_ask_for_nothing_are_taken(client: openai.OpenAI) -> None:
    plain = complete(client, "The", max_tokens=5, temperature=0)
    asked = complete(
        client, "The", max_tokens=5, temperature=0, logit_bias={}, presence_penalty=0, best_of=1, user="me", echo=False
    )
    assert asked.choices == plain.choices


def test_pages_that_are_not_there(server: Server) -> None:
    for method in (server.client().get, server.client().post):
        with pytest.raises(openai.APIStatusError) as raised:
            method("/nowhere", cast_to=object)
        assert raised.value.status_code == 404
        assert raised.value.body["code"] == "not_found"
    assert server.client().models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("other")


# -- clients that leave, and come too many -----------------------------------------------------------------------------


def test_a_client_that_leaves_frees_its_slots(
    server: Server, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.wait("tessy_slots_taken", 0)
    engine, before, emptied = tiny().engine, server.metric("tessy_texts_total"), list[int]()
    cancel = engine._cancel
    monkeypatch.setattr(engine, "_cancel", lambda: [slot for slot in cancel() if emptied.append(slot) is None])
    stream = client.completions.create(**LONG, n=8, stream=True)
    next(iter(stream))
    assert server.metric("tessy_slots_taken") > 0
    stream.close()
    for held in ("tessy_slots_taken", "tessy_texts_waiting", "tessy_cache_pages_taken"):
        server.wait(held, 0)

    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).completions.create(**LONG, n=8)
    server.wait("tessy_texts_total", before + 16)
    server.wait("tessy_texts_waiting", 0)
    assert complete(client, "The", max_tokens=5).choices[0].finish_reason in ("stop", "length")
    assert len(emptied) > 2, "the engine does not write on for nobody"
    for pages in engine.pages.caches:
        assert pages is None or int(np.sum(pages.table < pages.pool.pages)) <= 16, "those of one row at most"


def test_a_slow_reader_keeps_nobody_waiting(server: Server, client: openai.OpenAI) -> None:
    """It reads nothing until others were served and its texts are done, and gets all of them."""
    body = LONG | {"model": NAME, "n": 4, "seed": 3}
    whole = server.post("/v1/completions", body)[1]
    before, data = server.metric("tessy_texts_total"), json.dumps(body | {"stream": True}).encode()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect(("127.0.0.1", server.port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        slow.sendall(head.encode() + data)
        assert complete(client, "The", max_tokens=5).choices
        server.wait("tessy_texts_total", before + 5)
        answer = HTTPResponse(slow)
        answer.begin()
        lines = answer.read().decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    texts = [""] * 4
    for line in lines[:-2]:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert all(len(text) > 20 for text in texts)


def test_a_queue_that_is_full(server: Server, client: openai.OpenAI) -> None:
    """Four slots and eight that wait."""
    stream = client.completions.create(**LONG, n=8, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as raised:
        complete(client, "The", n=8)
    assert raised.value.response.headers["retry-after"] == "1"
    assert raised.value.body["code"] == "queue_full"
    assert complete(client, "The", max_tokens=2).choices, "there is room for one"
    stream.close()
