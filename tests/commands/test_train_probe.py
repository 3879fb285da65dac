"""Probes: the right hidden state for each token, the optimum, and the command from end to end."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import torch
import transformers
import yaml
from safetensors.numpy import load_file

from tessy_jax import models
from tessy_jax.config.train_probe import ProbeFitConfig
from tessy_jax.data.split import held_out
from tessy_jax.predictors.probe import Probe
from tessy_jax.text.chat import Chat
from tessy_jax.text.tokenizer import TextError
from tessy_jax.train.data.examples import CONTEXT
from tessy_jax.train.data.probe_data import labelled_tokens, read_responses, styles
from tessy_jax.train.probe import fit, read_features
from tessy_jax.train_probe import main
from tests.kit.run_predictor import write_annotated, write_model


def test_fit_is_the_optimum() -> None:
    """Against a general solver in float64; tokens seen less than three times have no bias of their own."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(400, 5)) * [1, 3, 0.2, 1, 1] + 2).astype(np.float32)
    tokens = rng.choice(9, 400, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.09, 0.005, 0.005, 0.0])
    style = rng.random(400) < 1 / (1 + np.exp(-(x[:, 0] - 2 + (tokens == 1) * 2 - (tokens == 2))))
    config = ProbeFitConfig(l2=0.01, token_bias_l2=0.02, steps=500)
    found = fit(x, tokens, style, 12, config)
    own = np.flatnonzero(np.bincount(tokens, minlength=12) >= 3)
    assert set(np.flatnonzero(found.token_bias)) == set(own)
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    z = (x - mean) / std

    def loss(parameters: np.ndarray) -> float:
        w, b, u = parameters[:5], parameters[5], np.zeros(12)
        u[own] = parameters[6:]
        logits = z @ w + b + u[tokens]
        nll = np.logaddexp(0, np.where(style, -logits, logits)).mean()
        return nll + 0.005 * (w**2).sum() + 0.01 * (u**2).sum()

    best = scipy.optimize.minimize(loss, np.zeros(6 + len(own)), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(found.weight, best[:5] / std, atol=2e-4)
    np.testing.assert_allclose(found.bias, best[5] - (best[:5] / std) @ mean, atol=1e-3)
    np.testing.assert_allclose(found.token_bias[own], best[6:], atol=2e-4)
    moved = found.moved(mean.astype(np.float32))
    np.testing.assert_allclose(moved.p(x + mean.astype(np.float32), tokens), found.p(x, tokens), atol=1e-5)


def test_states_are_those_before_each_token(tmp_path: Path) -> None:
    """Against transformers' hidden states, one response at a time, found by searching the text for the labels."""
    folder = write_model(tmp_path / "model", "llama", num_hidden_layers=2)
    responses, annotated = write_annotated(tmp_path, prompts=3)
    chat = Chat.load(folder)
    found, rejects = read_responses([annotated], [responses], chat, None, 120)
    assert not rejects
    assert [(r.id, r.sample_index) for r in found] == [(f"p{i}", s) for i in range(3) for s in range(2)]
    features = read_features(models.load(folder), found, [0, 1], 256, 2, tmp_path / "states")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model.eval()
    rows = [json.loads(line) for line in (annotated / "data/part-00000-of-00001.jsonl").read_text().splitlines()]
    token_bytes = chat.tokenizer.token_bytes()
    at, labels = 0, styles(found)
    for response in found:
        with torch.no_grad():
            states = theirs(torch.tensor([response.ids]), output_hidden_states=True).hidden_states
        assert len(response.ids) <= 120
        text = b"".join(token_bytes[t] for t in response.ids[response.prompt :])
        mine = [r for r in rows if (r["id"], r["sample_index"]) == (response.id, response.sample_index)]
        style = np.zeros(len(text) + 400, bool)
        for row in mine:
            for span in row["spans"]:
                style[row["offset"] + span["start"] : row["offset"] + span["end"]] = True
        position = 0
        for number, token in enumerate(response.ids[response.prompt :]):
            piece = token_bytes[token]
            first = position + len(piece) - len(piece.lstrip()) if piece.strip() else position
            position += len(piece)
            if not piece.strip() and first == mine[1]["offset"] - 1:
                continue  # the space between the two segments belongs to neither
            assert features.tokens[at] == token
            assert labels[at] == style[first]
            state = states[1][0, response.prompt + number - 1].numpy()
            ours = features.of(0)[at] + features.centre[0]
            np.testing.assert_allclose(ours, state, atol=0.02 * np.abs(state).max())
            at += 1
    assert at == len(features.tokens) == len(labels) == sum(r.labels for r in found)
    assert (labelled_tokens(found) == features.tokens).all()
    assert all((s.classes != CONTEXT).all() for r in found for s in r.segments)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_response_whose_prompt_is_refused_is_named(tmp_path: Path, bad: int) -> None:
    responses, annotated = write_annotated(tmp_path, prompts=3)
    refusing = "{% if 'What is BAD ' in messages[0].content %}{{ 1 // 0 }}{% endif %}{{ messages[0].content }}"
    chat = Chat.load(write_model(tmp_path / "model"), template=refusing.replace("BAD", str(bad)))
    found, rejects = read_responses([annotated], [responses], chat, None, 120)
    assert {response.id for response in found} == {f"p{i}" for i in range(3) if i != bad}
    assert [reject.partition(": the chat template of ")[0] for reject in rejects] == [
        f"part-00000-of-00001.jsonl:{line}" for line in (2 * bad + 1, 2 * bad + 2)
    ]
    assert all(reject.endswith("ZeroDivisionError: integer division or modulo by zero") for reject in rejects)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("probe")
    responses, annotated = write_annotated(root, prompts=40)
    (root / "words.json").write_text(json.dumps({"default": 0.2, "words": {"so": 0.9, "good": 0.8}}))
    values = {
        "writer": {"model": str(write_model(root / "model", "llama", num_hidden_layers=2))},
        "data": {"annotated": str(annotated), "responses": str(responses), "length": 256},
        "baseline": str(root / "words.json"),
        "dtype": "float32",
        "output": str(root / "out"),
    }
    file = root / "probe.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return file


def test_command_writes_a_probe_that_loads(config: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "probe"
    assert main([str(config), "--output", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("probe.json", "probe.safetensors", "report.html", "report.json")
    ]
    facts, report = (json.loads((out / name).read_text()) for name in ("probe.json", "report.json"))
    folder = config.parent / "model"
    chat, shapes = Chat.load(folder), models.read_config(folder)
    probe = Probe.load(out, chat.tokenizer, shapes)
    assert (probe.layer, probe.threshold) == (facts["layer"], facts["threshold"])
    assert [row["layer"] for row in report["about"]["layers"]] == [0, 1]
    assert max(row["f1"] for row in report["about"]["layers"]) == report["about"]["layers"][probe.layer]["f1"]
    assert facts["metrics"]["scores"] == report["scores"]
    assert report["baseline"]["f1_gain"]["low"] > 0
    assert report["scores"]["style"]["f1"]["value"] > 0.5
    assert sum(file.stat().st_size for file in out.glob("probe.*")) < 50_000
    # What the loop will say of a held-out token is what the report counted: by hand, from transformers' states.
    responses, _ = read_responses([config.parent / "annotated"], [config.parent / "responses"], chat, None, 256)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model.eval()
    sides = held_out([r.id for r in responses], 0.2)
    held = [r for r, out_ in zip(responses, sides, strict=True) if out_]
    assert len(held) == report["responses"]
    right = np.zeros(4, int)
    for response in held:
        states: list[np.ndarray] = []
        hook = theirs.layers[probe.layer].register_forward_hook(
            lambda _, __, out, into=states: into.append(out[0] if isinstance(out, tuple) else out)
        )
        with torch.no_grad():
            theirs(torch.tensor([response.ids]))
        hook.remove()
        hidden = states[0].reshape(len(response.ids), -1).numpy()
        tokens, style = labelled_tokens([response]), styles([response])
        before = np.concatenate([response.prompt + s.first + np.arange(len(s.tokens)) - 1 for s in response.segments])
        p = np.asarray(probe.style(probe.params, jnp.asarray(hidden[before]), jnp.asarray(tokens)))
        said = p >= probe.threshold
        right += [(style & said).sum(), (~style & said).sum(), (style & ~said).sum(), (~style & ~said).sum()]
    f1 = 2 * right[0] / (2 * right[0] + right[1] + right[2])
    assert f1 == pytest.approx(report["scores"]["style"]["f1"]["value"], abs=0.005)
    arrays = load_file(out / "probe.safetensors")
    assert arrays["token_bias"].dtype == np.float16
    with pytest.raises(TextError, match="trained on another model") as error:
        Probe.load(
            out, chat.tokenizer, models.read_config(write_model(tmp_path / "other", "llama", num_hidden_layers=3))
        )
    assert "the configuration differ" in str(error.value)
    with pytest.raises(TextError, match="there is no probe"):
        Probe.load(tmp_path, chat.tokenizer, shapes)
    (out / "probe.safetensors").write_bytes(b"12")
    with pytest.raises(TextError, match="cannot be read"):
        Probe.load(out, chat.tokenizer, shapes)


def test_wrong_input(config: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([str(config), "layers=[5]", "--output", str(tmp_path / "x")]) == 2
    assert "layers: there is no layer 5; the model has 2, from 0 to 1" in capsys.readouterr().err
    other, _ = write_annotated(tmp_path, prompts=2, seed=9)
    assert main([str(config), f"data.responses={other}", "--output", str(tmp_path / "x")]) == 1
    assert "the segment is not in its response where its offset says" in capsys.readouterr().err
    assert main([str(config), "--dry-run", "--output", str(tmp_path / "x")]) == 0
    assert "80 of 80 responses" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()
