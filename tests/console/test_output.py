"""Whatever stdout and stderr are, a command says what it has to say, or ends quietly."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from tests.kit import ROOT
from tests.kit.run_sft import student

SAY = """
from rich.panel import Panel
from rich.table import Table
from tessy_jax.console.messages import say
print("Ü … 漢 \\udcff")
say(console, "→ Ü")
console.print(Panel("─ Ü", width=12))
raise __import__("tessy_jax.errors").errors.UserError("no file “漢”")
"""
PRINT = "print('x' * {size}, flush={flush})"
RICH = "from rich.console import Console\nConsole(soft_wrap=True).print('x ' * {size})"
STDERR = "console.print('x ' * {size}, soft_wrap=True)"


def command(body: str) -> list[str]:
    code = "import sys\nfrom tessy_jax.console.app import Command\n"
    code += f"run = lambda _, console: exec({body!r}, dict(console=console)) or 0\n"
    code += "sys.exit(Command(name='x', description='\\xdc \\u2026 \\u2192', options=(), run=run)())"
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("encoding", "printed", "said"),
    [
        ("ascii", "? ? ? ?", ["? ?", "+----------+", "error: no file ???"]),
        ("latin-1", "Ü ? ? ?", ["? Ü", "+----------+", "error: no file ???"]),
        ("cp1252:strict", "Ü … ? ?", ["? Ü", "+----------+", "error: no file “?”"]),
        ("utf-8", "Ü … 漢 ?", ["→ Ü", "╭──────────╮", "error: no file “漢”"]),
    ],
)
def test_characters_that_an_encoding_does_not_have(encoding, printed, said):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    process = subprocess.run(command(SAY), capture_output=True, env=environment, cwd=ROOT)
    assert process.returncode == 1
    assert process.stdout.decode(encoding.partition(":")[0]).splitlines() == [printed]
    lines = process.stderr.decode(encoding.partition(":")[0]).splitlines()
    assert [lines[0], lines[1], lines[-1]] == said


def test_batches_and_segments_in_ascii(tmp_path):
    """`sft --inspect` and `annotate --show` of text that stdout's encoding does not have."""
    source, text = tmp_path / "rows.jsonl", "Okay, so Größe 漢字 → 👍."
    conversation = [("user", "Größe 漢字"), ("assistant", f"<think>\n{text}\n</think>\n\nJa.")]
    messages = [{"role": role, "content": content} for role, content in conversation]
    source.write_text(json.dumps({"id": "r", "messages": messages}) + "\n")
    annotation = tmp_path / "annotate.yaml"
    annotator = {"kind": "lexicon", "phrases": str(ROOT / "configs/style_phrases.json")}
    annotation.write_text(yaml.safe_dump({"annotator": annotator, "input": str(source)}))
    data = [f"data.train=[{source}]", "data.held_out=0"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for arguments in (["sft", str(student()), "--inspect", "1", *data], ["annotate", str(annotation), "--show"]):
        call = [sys.executable, "-m", "tessy_jax", *arguments, "--output", str(tmp_path / arguments[0])]
        process = subprocess.run(call, capture_output=True, env=environment, cwd=ROOT)
        assert process.returncode == 0, process.stderr
        shown = process.stdout.decode("ascii")
        assert "Gr??e ?? ? ?." in shown, shown


def test_help_in_ascii():
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    process = subprocess.run([*command(""), "--help"], capture_output=True, env=environment, cwd=ROOT)
    assert (process.returncode, process.stderr) == (0, b"")
    assert b"\n? ? ?\n" in process.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
@pytest.mark.parametrize("module", ["tessy_jax", "tessy_jax.synthesize", "tessy_jax.convert"])
def test_help_that_cannot_be_written(module):
    """A long help fails while it is written, a short one where the stream is flushed."""
    asked = [sys.executable, "-m", module, "--help"]
    with open("/dev/full", "w") as full:
        process = subprocess.run(asked, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (process.returncode, process.stderr) == (1, "error: cannot write to <stdout>: No space left on device\n")
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(asked, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert (process.returncode, process.stderr) == (141, "")


@pytest.mark.parametrize("body", [PRINT, RICH], ids=["print", "rich"])
@pytest.mark.parametrize("size", [1, 300_000])
@pytest.mark.parametrize("flush", [False, True])
def test_a_reader_who_has_left(body, size, flush):
    if body == RICH and flush:
        pytest.skip("Rich always does")
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        command(body.format(size=size, flush=flush)), stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (141, "")


def test_a_reader_of_messages_who_has_left():
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(command(STDERR.format(size=1)), stderr=write, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert (process.returncode, process.stdout) == (141, "")


def test_a_pipe_of_the_commands_own_that_breaks():
    """It is an error, unlike stdout."""
    process = subprocess.run(command("raise BrokenPipeError(32, 'Broken pipe')"), capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (1, "error: [Errno 32] Broken pipe\n")


@pytest.mark.parametrize("flush", [False, True])
def test_output_that_cannot_be_written(flush):
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            command(PRINT.format(size=1, flush=flush)),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            cwd=ROOT,
        )
    assert process.returncode == 1
    assert process.stderr == "error: cannot write to <stdout>: No space left on device\n"


def test_stdout_that_is_closed_already():
    process = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command(PRINT.format(size=1, flush=True))], capture_output=True, cwd=ROOT
    )
    assert (process.returncode, process.stderr) == (0, b"")
