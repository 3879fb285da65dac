"""The command `serve`: what it needs, and a server from its start to SIGTERM."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tessy_jax import serve
from tessy_jax.config.serve import ServePairConfig, load_serve
from tessy_jax.config.synthesize import load_config
from tests.kit import ROOT
from tests.kit.serving import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    write_model(folder)
    return folder


def test_what_stands_first_is_a_model_or_a_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(f"model: {model}\nport: 81\n")
    assert load_serve(file, ["k=3"]) == load_serve(model, ["port=81", "k=3"])
    assert load_serve(Path("org/name"), []).model == "org/name"


def test_a_file_that_names_a_teacher_is_of_a_pair(capsys: pytest.CaptureFixture) -> None:
    """That of a run will do; what only runs read is named, and what is not served is refused."""
    file = ROOT / "configs" / "demo.yaml"
    config, run = load_serve(file, ["port=81"]), load_config(file)
    assert isinstance(config, ServePairConfig)
    assert config.unused == ["input", "output"]
    pair = config.synthesis.model_dump(exclude={"input", "output"})
    assert pair == run.model_dump(exclude={"input", "output"})
    for change, words in (
        ("cooperation={preset: released_code}", "'paper'"),
        ("method=teacher_think", "'tessy'"),
        ("prot=1", "did you mean 'port'?"),
    ):
        assert serve.main([str(file), change]) == 2
        assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (["prot=1"], 2, "did you mean 'port'?"),
        (["key_env=NOT_THERE"], 2, "the environment variable NOT_THERE is not set"),
        (["key_env=HOME", "key_file=a"], 2, "both given"),
        (["key_file=nowhere"], 2, "nowhere cannot be read"),
        (["engine.context=64", "engine.prompt_buckets=[32]"], 2, "engine.context 64 is too small"),
    ],
)
def test_what_is_wrong_is_said(
    model: Path, changes: list[str], code: int, words: str, capsys: pytest.CaptureFixture
) -> None:
    assert serve.main([str(model), "port=0", *changes]) == code
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_port_that_is_taken_and_a_library_that_is_missing(
    model: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve.main([str(model), f"port={taken.getsockname()[1]}"]) == 1
    assert "give another with port=..." in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr("tessy_jax.serving.run.find_spec", lambda name: None if name == "uvicorn" else name)
    assert serve.main([str(model), "port=0"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "serve needs uvicorn, not installed here: pip install 'tessy_jax[serve]'" in said


def test_from_its_start_to_its_end(model: Path, tmp_path: Path) -> None:
    """Its name is its folder's, it thinks as its vocabulary says, it has a key that is in no message; SIGTERM is 0."""
    sizes = ["engine.batch=2", "engine.context=160", "engine.prompt_buckets=[32]", "engine.dtype=float32"]
    command = [sys.executable, "-m", "tessy_jax.serve", str(model), "port=0", "key_env=KEY", *sizes]
    environment = os.environ | {"KEY": "s3cret", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"serving small at (http://127\.0\.0\.1:\d+/v1)", " ".join(said.split()))):
            line = process.stderr.readline()
            assert line, said
            said += line
        body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20, "seed": 1}
        headers = {"Content-Type": "application/json", "Authorization": "Bearer s3cret"}
        asked = urllib.request.Request(f"{found[1]}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(asked, timeout=120) as answer:
            message = json.load(answer)["choices"][0]["message"]
        assert message["reasoning_content"] + message["content"]
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=120)
        assert process.returncode == 0, rest
        assert "stopping after the texts that are being written" in " ".join(rest.split())
        assert "s3cret" not in said + rest
    finally:
        process.kill()
