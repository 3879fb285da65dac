"""Requests that differ in everything, many at once."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.serving import NAME, Server, serving
from tests.serving.test_server import complete

MANY = 32


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Four slots; the others wait."""
    with serving(queue=MANY) as running:
        yield running


def test_a_text_does_not_depend_on_who_else_is_served(server: Server) -> None:
    """Thirty-two requests, one after the other, then all at once in four slots; every third asks about its tokens."""
    kinds = [
        {"temperature": 0},
        {"temperature": 1.1, "seed": 1},
        {"temperature": 0.8, "top_p": 0.9, "seed": 2},
        {"temperature": 1.0, "seed": 3, "extra_body": {"top_k": 5}},
        {"temperature": 1.5, "seed": 4, "extra_body": {"min_p": 0.1}},
        {"temperature": 0.9, "seed": 5, "stop": ["e", "the"]},
    ]
    prompts = ["The sum of", "Wait, " * 20, [1, 2, 3], "Okay, so the problem says"]
    requests: list[dict[str, Any]] = [
        {"prompt": prompts[i % 4], "max_tokens": 4 + i, **kinds[i % 6]} | ({"logprobs": 1} if i % 3 == 0 else {})
        for i in range(MANY)
    ]
    alone = [complete(server.client(), **request).choices[0] for request in requests]

    async def together() -> list[Any]:
        async with server.asynchronous() as many:
            asked = [many.completions.create(model=NAME, **request) for request in requests]
            return await asyncio.gather(*asked)

    at_once = [reply.choices[0] for reply in asyncio.run(together())]
    assert [choice.text for choice in at_once] == [choice.text for choice in alone]
    assert [choice.finish_reason for choice in at_once] == [choice.finish_reason for choice in alone]
    for one, other in zip(at_once, alone, strict=True):
        assert (one.logprobs is None) == (other.logprobs is None)
        if one.logprobs is not None:
            assert one.logprobs.tokens == other.logprobs.tokens
            assert one.logprobs.token_logprobs == pytest.approx(other.logprobs.token_logprobs, abs=1e-4)
    assert len({choice.text for choice in alone}) > 12
