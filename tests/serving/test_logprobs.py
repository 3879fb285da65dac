"""What clients are told of tokens, beside the logarithms that transformers computes for the same tokens."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import openai
import pytest
import torch

from tessy_jax.config.sections import MeshConfig
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.serving.scorer import Question, Scorer
from tests.kit.serving import NAME, PROMPT, Server, tiny
from tests.serving.test_server import CHAT, complete, generated

TEXTS = ["The sum of", "Wait, I should check that again: " * 4, [5, 9, 40, 41, 200]]


def theirs(ids: Sequence[int]) -> np.ndarray:
    """Of each token but the first: log p of all tokens of the vocabulary in its place."""
    with torch.no_grad():
        logits = tiny().torch_model(torch.tensor([list(ids)])).logits[0]
    return torch.log_softmax(logits, -1)[:-1].numpy()


def read(prompt: str | list[int]) -> list[int]:
    return tiny().served.model.chat.reference(prompt)["input_ids"] if isinstance(prompt, str) else prompt


def id_of(name: str) -> int:
    """The token that is written so."""
    known = tiny().served.model.token_bytes
    control = tiny().served.model.chat.tokenizer.control
    if name in control:
        return control[name]
    data = name.encode()
    if name.startswith("bytes:"):
        data = bytes(int(part, 16) for part in name.removeprefix("bytes:").split("\\x")[1:])
    return known.index(data) if data in known else int(name.removeprefix("token_id:"))


def check_completion(choice: Any, prompt: list[int], top: int, echo: bool) -> list[int]:
    """Compares all that is told of a completion, and returns its tokens, without those of the prompt."""
    told = choice.logprobs
    tokens = [id_of(token) for token in told.tokens]
    written = tokens[len(prompt) :] if echo else tokens
    expected = theirs([*prompt, *written])
    if echo:
        assert tokens[: len(prompt)] == prompt
        assert (told.token_logprobs[0], told.top_logprobs[0]) == (None, None)
    else:
        expected = expected[len(prompt) - 1 :]
    skip = int(echo)
    assert len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == len(tokens)
    for place, token, value, many in zip(
        expected, tokens[skip:], told.token_logprobs[skip:], told.top_logprobs[skip:], strict=True
    ):
        assert value == pytest.approx(place[token], abs=1e-4)
        best = np.sort(place)[::-1][:top]
        assert sorted(many.values(), reverse=True)[:top] == pytest.approx(best, abs=1e-4)
        assert len(many) <= top + 1
        for name, each in many.items():
            assert each == pytest.approx(place[id_of(name)], abs=1e-4)
    for name, (start, end) in zip(told.tokens, itertools.pairwise([*told.text_offset, len(choice.text)]), strict=True):
        if not name.startswith("bytes:") and name not in tiny().served.model.chat.tokenizer.control:
            assert choice.text[start:end] == name
    return written


@pytest.mark.parametrize(("top", "echo"), [(5, True), (0, False), (20, False)])
def test_of_completions(client: openai.OpenAI, top: int, echo: bool) -> None:
    """Three prompts in one request, two texts each; drawn at a high temperature, but told of the model's own
    distribution.
    """
    prompts = [read(prompt) for prompt in TEXTS]
    asked = {"n": 2, "max_tokens": 24, "temperature": 1.5, "seed": 4, "extra_body": {"top_k": 50}}
    plain = complete(client, prompts, **asked)
    reply = complete(client, prompts, **asked, logprobs=top, echo=echo)
    assert reply.usage == plain.usage
    ended = 0
    for choice, without in zip(reply.choices, plain.choices, strict=True):
        written = check_completion(choice, prompts[choice.index // 2], top, echo)
        assert choice.text.endswith(without.text)
        assert choice.finish_reason == without.finish_reason
        ended += written[-1] in tiny().served.model.chat.eos_ids
    assert ended == sum(choice.finish_reason == "stop" for choice in reply.choices) > 0
    assert len({choice.text for choice in reply.choices}) == 6


def test_greedy_tokens_are_those_of_transformers(client: openai.OpenAI) -> None:
    """Those that the engine wrote, with the one that ended the turn; the text comes back as it was sent."""
    for prompt in ("Wait, I should", "é — ∑ naïve"):
        ids, expected = generated(prompt, 40)
        choice = complete(client, prompt, max_tokens=40, temperature=0, logprobs=1, echo=True).choices[0]
        written = check_completion(choice, ids, 1, echo=True)
        assert written[: len(expected)] == expected
        assert len(written) == len(expected) + (choice.finish_reason == "stop")
        assert choice.text.startswith(prompt)


def test_of_a_prompt_alone(client: openai.OpenAI) -> None:
    one, two = read(TEXTS[0]), read(TEXTS[1])
    reply = complete(client, [one, two], max_tokens=0, logprobs=2, echo=True)
    for choice, prompt, text in zip(reply.choices, (one, two), TEXTS, strict=False):
        assert check_completion(choice, prompt, 2, echo=True) == []
        assert (choice.text, choice.finish_reason) == (text, "length")
    assert reply.usage.completion_tokens == 0
    assert complete(client, TEXTS[0], max_tokens=0, echo=True).choices[0].text == TEXTS[0]


def test_a_stop_string_ends_what_is_told(client: openai.OpenAI) -> None:
    whole = complete(client, TEXTS[0], max_tokens=30, temperature=0, logprobs=0).choices[0]
    stop = whole.text[10:13]
    ended = complete(client, TEXTS[0], max_tokens=30, temperature=0, logprobs=0, stop=stop).choices[0]
    assert ended.finish_reason == "stop"
    assert ended.logprobs.tokens == whole.logprobs.tokens[: len(ended.logprobs.tokens)]
    assert ended.logprobs.text_offset[-1] < len(ended.text) <= len("".join(ended.logprobs.tokens))


@pytest.mark.parametrize("top", [None, 3])
def test_of_chats(client: openai.OpenAI, top: int | None) -> None:
    """Of the answer, which follows the prompt and the thinking; a stream tells the same at its end."""
    asked = {"model": NAME, "messages": CHAT, "n": 4, "seed": 7, "max_tokens": 100, "temperature": 0.9}
    asked |= {"logprobs": True} | ({} if top is None else {"top_logprobs": top})
    reply = client.chat.completions.create(**asked)
    chat = tiny().served.model.chat
    answered = 0
    for choice in reply.choices:
        told = choice.logprobs.content
        assert b"".join(bytes(each.bytes) for each in told).decode(errors="ignore") == choice.message.content
        if not told:
            continue
        answered += 1
        tokens = [id_of(each.token) for each in told]
        before = chat.prompt_ids(CHAT) + chat.closed_ids(choice.message.reasoning_content.encode())
        expected = theirs([*before, *tokens])[len(before) - 1 :]
        for place, token, each in zip(expected, tokens, told, strict=True):
            assert each.logprob == pytest.approx(place[token], abs=1e-4)
            best = np.sort(place)[::-1][: top or 0]
            assert [one.logprob for one in each.top_logprobs] == pytest.approx(best, abs=1e-4)
            assert [place[id_of(one.token)] for one in each.top_logprobs] == pytest.approx(best, abs=1e-4)
    assert answered

    streamed: dict[int, Any] = {}
    for chunk in client.chat.completions.create(**asked, stream=True):
        streamed |= {choice.index: choice.logprobs.content for choice in chunk.choices if choice.logprobs}
    for choice in reply.choices:  # rounded otherwise, where they shared their rows with others
        told = choice.logprobs.content
        assert [each.token for each in streamed[choice.index]] == [each.token for each in told]
        values = [each.logprob for each in streamed[choice.index]]
        assert values == pytest.approx([each.logprob for each in told], abs=1e-4)


def test_a_stream_begins_with_its_echo(client: openai.OpenAI) -> None:
    asked = {"max_tokens": 9, "temperature": 0, "echo": True, "logprobs": 1}
    whole = complete(client, TEXTS[0], **asked).choices[0]
    chunks = [chunk.choices[0] for chunk in complete(client, TEXTS[0], **asked, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[0].text.startswith(TEXTS[0])
    assert [chunk.logprobs for chunk in chunks if chunk.logprobs] == [whole.logprobs]


def test_many_texts_share_rows(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a row holds, at once: what is told of one is the same as if it were alone."""
    monkeypatch.setattr("tessy_jax.serving.scorer._ROW", 128)
    prompts = [[(7 * i + 3 * j) % 250 for j in range(30 + 20 * i)] for i in range(8)]
    model = tiny().served.model
    prompts[0] += [model.chat.tokenizer.control["<|im_end|>"], model.config.vocab_size - 1]  # no text, and no token
    together = complete(client, prompts, max_tokens=1, temperature=0, logprobs=1, echo=True)
    for choice, prompt in zip(together.choices, prompts, strict=True):
        check_completion(choice, prompt, 1, echo=True)
    assert "<|im_end|>token_id:" in together.choices[0].text


def test_on_a_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows at a time, each on its own devices, and the vocabulary split in two; the last one is by itself."""
    monkeypatch.setattr("tessy_jax.serving.scorer._ROW", 100)
    config = tiny().served.config
    mesh = make_mesh(MeshConfig(data=2, tensor=2), 2)
    model = ModelSource.open(config.role(True), "model").load(mesh, jnp.dtype("float32"))
    texts = [[(7 * i + 3 * j) % 250 for j in range(30 + 20 * i)] for i in range(4)]
    found = Scorer(model, mesh).score([Question(np.array(ids, np.int32), 1 + i) for i, ids in enumerate(texts)])
    for i, (ids, scores) in enumerate(zip(texts, found, strict=True)):
        expected = theirs(ids)[i:]
        chosen = expected[range(len(expected)), ids[1 + i :]]
        np.testing.assert_allclose(scores.chosen, chosen, atol=1e-4)
        np.testing.assert_allclose(scores.likeliest, -np.sort(-expected)[:, :20], atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(expected, scores.ids, 1), scores.likeliest, atol=1e-4)


def test_what_cannot_be_scored_is_an_error_and_the_server_goes_on(
    server: Server, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr("tessy_jax.serving.scorer._by_row", fail)
    status, answer, _ = server.post("/v1/completions", PROMPT | {"logprobs": 1})
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert complete(client, "The", max_tokens=2).choices


@pytest.mark.parametrize(
    ("path", "more", "param", "words"),
    [
        ("completions", {"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ("completions", {"logprobs": -1}, "logprobs", "greater than or equal to 0"),
        ("completions", {"logprobs": True}, "logprobs", "valid integer"),
        ("completions", {"max_tokens": 0}, "max_tokens", "without 'echo'"),
        ("completions", {"top_logprobs": 2}, "top_logprobs", "not supported"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs", "needs 'logprobs'"),
        ("chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ("chat/completions", {"logprobs": 1}, "logprobs", "valid boolean"),
        ("chat/completions", {"echo": True}, "echo", "not supported"),
    ],
)
def test_what_is_wrong_is_said(server: Server, path: str, more: dict[str, Any], param: str, words: str) -> None:
    body = {"model": NAME, "messages": CHAT} if path.startswith("chat") else PROMPT
    status, answer, _ = server.post(f"/v1/{path}", body | more)
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert words in answer["error"]["message"]
