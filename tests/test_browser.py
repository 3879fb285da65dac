"""Where no browser is on the machine, its tests are skipped for all to see; where all checks are made, they fail."""

import os
import subprocess
import sys

import pytest

from tests.kit import ROOT

TEST = """
from tests.kit.browser import Page

def test_a_page(tmp_path):
    Page(tmp_path)
"""


@pytest.mark.parametrize(("ci", "said"), [("", "SKIPPED [1] tests/kit/browser.py"), ("1", "1 failed")])
def test_without_a_browser(tmp_path, ci, said):
    environment = os.environ | {"PATH": str(tmp_path), "TESSY_CI": ci}
    (tmp_path / "test_page.py").write_text(TEST)
    config = ("-c", ROOT / "pyproject.toml", "--noconftest", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *config, tmp_path / "test_page.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said in done.stdout
    assert "this test needs a browser: apt-get install chromium" in done.stdout
    assert done.returncode == (1 if ci else 0)
