"""The loop's programs are compiled without most optimisations here: of 15 seconds of a core that one takes, 10 remain.

What they compute is the same, and compared with the oracle as it is. The invariants (test_oracle.py), and the loop in
the tests of predictors, baselines, commands and the server, are compiled as they are for users.
"""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", request.path.name != "test_oracle.py")
    yield
    jax.config.update("jax_disable_most_optimizations", False)
