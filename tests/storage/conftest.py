"""The server of S3's protocol that the tests of a file share."""

from collections.abc import Iterator

import pytest

from tests.kit.stores import served


@pytest.fixture(scope="module")
def server() -> Iterator[object]:
    with served() as server:
        yield server
