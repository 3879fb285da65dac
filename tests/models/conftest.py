"""What several test files of the models share."""

import json
from typing import Any

import pytest

from tests.kit import tiny


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """config.json of each tiny checkpoint, as this transformers writes it (5.x keys)."""
    out = {}
    for family in tiny.FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        getattr(tiny, family)(folder)
        out[family] = json.loads((folder / "config.json").read_text())
    return out
