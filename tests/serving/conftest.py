"""The tiny model behind a server, for the tests of a file."""

from collections.abc import Iterator

import openai
import pytest

from tests.kit.serving import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.client()
