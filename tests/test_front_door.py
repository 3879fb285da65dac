"""`import tessy_jax as tessy`: a handful of names, each imported when it is used."""

import ast
import subprocess
import sys

import pytest

import tessy_jax as tessy
from tessy_jax import __main__ as front
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


def test_every_command_is_listed(capsys):
    files = {file.stem for file in (ROOT / "tessy_jax").glob("*.py")} - {"__init__", "__main__", "errors"}
    assert set(front.COMMANDS) == files
    for arguments in ([], ["--help"]):
        assert front.main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[2:]] == list(front.COMMANDS)
        assert all(line.endswith(".") for line in lines[2:])


def test_a_command_is_run_by_its_name(capsys):
    assert front.main(["synthesize", "no.yaml"]) == 2
    assert "no.yaml" in capsys.readouterr().err


def test_an_unknown_command_gets_the_near_one(capsys):
    assert front.main(["synthesise"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'synthesise'; did you mean 'synthesize'?\n"
    assert front.main(["xyz"]) == 2
    assert "the commands: synthesize, sample" in capsys.readouterr().err


def test_nobody_is_told_that_there_is_no_pytorch(tmp_path):
    code = """
import importlib.util as util
find = util.find_spec
util.find_spec = lambda name, *more: None if name == "torch" else find(name, *more)
from tessy_jax.text.reference import open_reference
from tessy_jax.text.tokenizer import TextError
import sys
try:
    open_reference(sys.argv[1])
except TextError:
    from transformers import is_torch_available
    sys.exit(int(is_torch_available()))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (process.returncode, process.stderr) == (0, "")
