"""What all commands share: how a configuration is chosen, how errors end, and that help and wrong usage are quick."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from tessy_jax.console.app import Command, choose_config, option
from tessy_jax.errors import ConfigError, UserError
from tests.kit import ROOT

COMMANDS = sorted(file.stem for file in (ROOT / "tessy_jax").glob("[a-z]*.py") if file.stem != "errors")


@pytest.mark.parametrize(
    ("config", "overrides", "named", "file", "expected"),
    [
        ("x.yaml", ["a=1"], {}, "x.yaml", ["a=1"]),
        ("a=1", ["b=2"], {}, "default.yaml", ["a=1", "b=2"]),
        ("x.yaml", ["limit=1"], {"limit": 3, "input": 'a "b"'}, "x.yaml", ["limit=1", 'input="a \\"b\\""', "limit=3"]),
    ],
)
def test_the_configuration_that_is_chosen(config, overrides, named, file, expected):
    options = Namespace(config=Path(config), overrides=overrides, **named)
    assert choose_config(options, "default.yaml") == (Path(file), expected)


def test_a_file_whose_name_looks_like_an_override(tmp_path):
    (tmp_path / "a=1.yaml").touch()
    options = Namespace(config=tmp_path / "a=1.yaml", overrides=[])
    assert choose_config(options, "default.yaml") == (tmp_path / "a=1.yaml", [])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("mend [this]"), 1, "error: mend [this]\n"),
        (ConfigError("wrong key"), 2, "error: wrong key\n"),
        (OSError(2, "No such file", "x"), 1, "error: [Errno 2] No such file: 'x'\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_how_errors_end(error, code, message, capsys):
    def run(*_):
        raise error

    assert Command(name="x", description="", options=(), run=run)([]) == code
    assert capsys.readouterr().err == message


def test_other_errors_are_bugs():
    def run(*_):
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        Command(name="x", description="", options=(), run=run)([])


def test_the_command_line_is_kept():
    seen = []
    command = Command(
        name="x",
        description="",
        options=(option("--flag", "", action="store_true"), option("words", "", nargs="*")),
        run=lambda options, _: seen.append(options) or 3,
    )
    assert command(["--flag", "a b"]) == 3
    assert seen[0].command == "python -m tessy_jax.x --flag 'a b'"
    assert (seen[0].flag, seen[0].words) == (True, ["a b"])


@pytest.mark.parametrize(
    "arguments",
    [
        *([command, "--help"] for command in COMMANDS),
        ["synthesize", "engine.bach=1"],
        ["synthesize", "--input", "/nowhere.jsonl"],
        ["annotate", "--input", "/nowhere.jsonl"],
        ["plan", "/nowhere.yaml", "--topology", "cpu"],
    ],
    ids=" ".join,
)
def test_help_and_wrong_usage_import_nothing_large(arguments):
    command, *rest = arguments
    large = "{'jax', 'flax', 'torch', 'transformers', 'orbax', 'grain', 'matplotlib'}"
    code = f"import sys; from tessy_jax.{command} import main\ntry: main({rest})\nexcept SystemExit: pass\n"
    code += f"sys.exit(', '.join({large} & sys.modules.keys()) or None)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
