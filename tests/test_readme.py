"""README.md, docs and deploy/: the Python example runs, and the package knows every command that they show."""

import argparse
import functools
import importlib
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tessy_jax.config.plan import load_either
from tessy_jax.config.schema import load_as
from tessy_jax.config.serve import load_serve
from tessy_jax.errors import ConfigError
from tests.kit import ROOT
from tests.kit.deploy import DEPLOY, workers
from tests.kit.run_synthesize import write_pair


class Shown(NamedTuple):
    """`python -m tessy_jax.<name> <words>`, or `python <name> <words>` of a script, and where it is shown."""

    name: str
    words: list[str]
    where: str


def commands(page: Path) -> list[Shown]:
    r"""The commands of a page, each up to a comment, a closing backtick or the end of a line without `\`.

    Example: "`python -m tessy_jax.convert model.gguf out/`." -> name "tessy_jax.convert", words ["model.gguf", "out/"]
    """
    text = page.read_text()
    found = re.finditer(r"python (?:-m )?(tessy_jax\.\w+|\w+/\w+\.py)((?:\\\n|[^`#\n])*)", text)
    return [
        Shown(m[1], shlex.split(m[2].replace("\\\n", " ")), f"{page.name}:{text.count(chr(10), 0, m.start()) + 1}")
        for m in found
    ]


def block(language: str) -> str:
    """README.md's code block in this language."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return code


def started() -> list[Shown]:
    """The commands of the manifests in deploy/, which the scheduler gives the number of the shard."""
    return [
        Shown(words[2], [re.sub(r"^\$\(\w+\)/", "0/", word) for word in words[3:]], group.file.name)
        for group in workers()
        for words in [group.container["args"]]
    ]


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((DEPLOY / "slurm").iterdir()))
COMMANDS = [command for page in PAGES for command in commands(page)] + started()


class Parsed(Exception):
    """The command line was understood; the command does not go on."""


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command ends where it has parsed its arguments."""
    for name in ("parse_args", "parse_intermixed_args"):
        real = getattr(argparse.ArgumentParser, name)

        def stop(parser: argparse.ArgumentParser, *args: Any, real: Any = real) -> None:
            real(parser, *args)
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)


@pytest.mark.usefixtures("only_parse")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.where} {command.name}")
def test_a_command_is_understood(
    command: Shown, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """Its options are the command's, its files are there, and its overrides are keys of them with values that fit."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [command.name, *command.words])
    load = load_either
    try:
        if command.name.endswith(".py"):
            monkeypatch.syspath_prepend(Path(command.name).parent)  # as Python does
            runpy.run_path(command.name, run_name="__main__")
        else:
            main = importlib.import_module(command.name).main
            if command.name == "tessy_jax.serve":
                load = load_serve  # a model's file, or a pair's
            elif main.config is not None:
                load = functools.partial(load_as, main.config.schema)
            main()
    except Parsed:
        pass
    except SystemExit as end:
        if end.code != 0:  # 0: --help
            pytest.fail(f"{command.where}: {capsys.readouterr().err}")
    else:
        pytest.fail(f"{command.where}: it did not parse its arguments")

    (tmp_path / "pair.yaml").write_text(block("yaml"))  # README's name for the reader's own
    files = [tmp_path / word if word == "pair.yaml" else Path(word) for word in command.words if word.endswith(".yaml")]
    changes = [word for word in command.words if "=" in word and not word.startswith("-")]
    assert files or not changes, f"{command.where}: overrides of no file"
    for file in files:
        try:
            load(file, changes)
        except ConfigError as error:
            pytest.fail(f"{command.where}: {error}")


def test_commands_are_found() -> None:
    """In code blocks, in text, and over two lines."""
    names = {command.name for command in COMMANDS}
    assert {"tessy_jax.plan", "tessy_jax.convert", "tessy_jax.train_predictor", "benchmarks/visits.py"} <= names
    assert len(COMMANDS) > 20
    assert any("engine.context=384" in command.words for command in COMMANDS)


def test_the_python_example_writes_records(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """As it stands in README.md, with a tiny pair, two problems and bad rows in the files that it names."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    problems = tmp_path / "configs/problems.jsonl"
    rows = problems.read_text().splitlines(keepends=True)[:2]
    problems.write_text("{bad\n".join(rows) + '{"id": "no prompt"}\n' + rows[0] + '["no", "object"]\n')
    config = yaml.safe_load(write_pair(tmp_path / "pair").read_text())
    config["cooperation"] |= {"max_think_tokens": 12, "max_answer_tokens": 8}
    config["engine"] |= {"context": 512, "prompt_buckets": [256]}
    config["input"] = "configs/problems.jsonl"
    (tmp_path / "configs/demo.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)

    exec(compile(block("python"), "README.md", "exec"), {"__name__": "__main__"})

    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = [json.loads(row)["id"] for row in rows]
    assert sorted(record["id"] for record in written) == sorted(wanted)
    assert "problems.jsonl:2: malformed JSON at column 2: Expecting property name" in caplog.text
    for line in (4, 5, 6):  # without a prompt, with an id that was there before, no object
        assert f"problems.jsonl:{line}: " in caplog.text
    for record in written:
        assert {"id", "messages", "spans", "n_tokens", "switches", "finish", "seed"} <= record.keys()
        assert "<think>" in record["messages"][-1]["content"]
