"""One judge for all tests. Where programs cannot be run safely, they fail, and say what to install."""

import shutil
from collections.abc import Iterator

import pytest

from tessy_jax.evals.judges.code import CodeJudge


@pytest.fixture(scope="session")
def judge() -> Iterator[CodeJudge]:
    substitutes = {} if shutil.which("pypy3") else {"pypy3": "python3"}
    with CodeJudge.open(["python3", "pypy3", "cpp17"], workers=2, substitutes=substitutes) as opened:
        yield opened
