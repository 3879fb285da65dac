"""`import tessy_jax as tessy`: a handful of names, each imported when it is used."""

import ast
import subprocess
import sys

import pytest

import tessy_jax as tessy
from tests.kit import ROOT


def test_every_name_is_there_and_listed():
    for name in tessy.__all__:
        assert getattr(tessy, name).__module__.startswith("tessy_jax.")
    assert set(tessy.__all__) <= set(dir(tessy))


def test_type_checkers_see_the_names_that_there_are():
    """Those under `TYPE_CHECKING`, from the module that gives them at run time."""
    [block] = (
        node for node in ast.parse((ROOT / "tessy_jax/__init__.py").read_text()).body if isinstance(node, ast.If)
    )
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == tessy._HOMES
    assert sorted(seen) == sorted(tessy.__all__)


def test_another_name_is_an_error():
    with pytest.raises(AttributeError, match="module 'tessy_jax' has no attribute 'pair'"):
        _ = tessy.pair


def test_problems_and_configuration_by_name_or_path(tmp_path):
    config = tessy.load_config(str(ROOT / "configs/demo.yaml"), ["engine.batch=3"])
    assert config == tessy.load_config(ROOT / "configs/demo.yaml", ["engine.batch=3"])
    problems = list(tessy.read_problems(config.input))
    assert all(isinstance(problem, tessy.Problem) for problem in problems)
    assert len(problems) == len(list(tessy.read_problems(ROOT / "configs/problems.jsonl"))) > 0


def test_a_row_that_cannot_be_used_ends_the_reading(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text('{"id": "a", "question": "?"}\n{"id": "b"}\n')
    problems = tessy.read_problems(str(file))
    assert next(problems).id == "a"
    with pytest.raises(tessy.UserError, match=r"problems.jsonl:2: no prompt: expected a field messages, prompt"):
        next(problems)


def test_the_package_itself_imports_nothing_large():
    large = "{'jax', 'flax', 'numpy', 'pydantic', 'transformers'}"
    code = f"import sys, tessy_jax; sys.exit(', '.join({large} & sys.modules.keys()) or None)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (process.returncode, process.stderr) == (0, "")
