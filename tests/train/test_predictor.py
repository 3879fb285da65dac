"""A predictor's training: its step against torch, its head, and what becomes of it in transformers."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from jax.sharding import AxisType

from tessy_jax import models
from tessy_jax.train.data.batches import Batch
from tessy_jax.train.loss import token_class
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.step import Compute, batch_sharding, init, make_eval, make_step
from tests.kit import tiny
from tests.kit.training import Recorder, distance

EXACT = Compute("float32", remat="none", attention="dense")
LENGTHS = ((9, 14), (20,), (5, 6, 7), (11,))


def documents(vocabulary: int, seed: int = 0) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """(ids, labels) by row; a fifth of the labels is -100."""
    rng = np.random.default_rng(seed)
    return [
        [(rng.integers(0, vocabulary, n), rng.choice([0, 0, 1, 1, -100], n)) for n in lengths] for lengths in LENGTHS
    ]


def batch_of(rows: list[list[tuple[np.ndarray, np.ndarray]]], weights: tuple[float, float], micro: int = 1) -> Batch:
    """Documents with labels as a packed batch; labels -100 have weight 0."""
    zeros = np.zeros((len(rows), 24), np.int32)
    fields: dict[str, Any] = {name: zeros.copy() for name in ("tokens", "targets", "segments")}
    fields |= {"positions": zeros - 1, "parts": zeros.astype(np.int8), "weights": zeros.astype(np.float32)}
    for r, row in enumerate(rows):
        start = 0
        for number, (ids, labels) in enumerate(row, start=1):
            there = slice(start, start + len(ids))
            fields["tokens"][r, there] = ids
            fields["targets"][r, there] = np.maximum(labels, 0)
            fields["segments"][r, there] = number
            fields["positions"][r, there] = np.arange(len(ids))
            fields["parts"][r, there] = np.where(labels < 0, 0, 2 - labels)
            fields["weights"][r, there] = np.where(labels < 0, 0, np.take(weights, np.maximum(labels, 0)))
            start = there.stop
    return Batch(**{name: value.reshape(micro, -1, 24) for name, value in fields.items()})


def llama_classifier(folder: Path) -> Any:
    config = transformers.LlamaConfig(
        **{"vocab_size": 89, "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 2, "head_dim": 10},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "num_labels": 2},
    )
    return tiny._save(transformers.LlamaForTokenClassification, config, folder, 0)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_step_is_torchs(tmp_path: Path, family: str) -> None:
    """Packed and in two micro-batches, against the documents one by one in torch; without and with class weights."""
    sizes = {"num_hidden_layers": 2}
    reference = tiny.qwen3_classifier(tmp_path, **sizes) if family == "qwen3" else llama_classifier(tmp_path)
    rows = documents(89)
    config = models.read_config(tmp_path)
    step = make_step(config, None, Recorder(), EXACT, objective=token_class)
    for weights in ((1.0, 1.0), (0.6, 2.5)):
        state = init(config, models.named_parameters(models.load(tmp_path)), None, Recorder())
        state, metrics = step(state, batch_of(rows, weights, micro=2))
        flat = [document for row in rows for document in row]
        logits = torch.cat([reference(torch.tensor(ids[None])).logits[0] for ids, _ in flat])
        labels = torch.cat([torch.tensor(wanted) for _, wanted in flat])
        loss = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor(weights))
        reference.zero_grad()
        loss.backward()
        assert abs(float(metrics.loss) - loss.item()) <= 1e-5
        grads = {name: tensor.grad.numpy() for name, tensor in reference.named_parameters()}
        assert set(grads) == set(state.optimizer)
        worst = max(distance(state.optimizer[name], grad) for name, grad in grads.items())
        print(f"{family} {weights}: loss {abs(float(metrics.loss) - loss.item()):.1e}, worst gradient {worst:.1e}")
        assert worst <= 1e-4
        said = logits.argmax(-1)
        for code, label in ((1, 1), (2, 0)):
            assert int(metrics.sums.count[code]) == (labels == label).sum()
            assert int(metrics.sums.correct[code]) == ((labels == label) & (said == label)).sum()


def test_evaluation_is_the_loss_of_transformers(tmp_path: Path) -> None:
    """One document: HF's own loss with -100 where there is no label."""
    reference = tiny.qwen3_classifier(tmp_path, num_hidden_layers=1)
    config, row = models.read_config(tmp_path), documents(89)[1]
    state = init(config, models.named_parameters(models.load(tmp_path)), None, Recorder())
    sums = make_eval(config, None, EXACT, objective=token_class)(state, batch_of([row], (1.0, 1.0)))
    wanted = reference(torch.tensor(row[0][0][None]), labels=torch.tensor(row[0][1][None])).loss
    assert abs(float(sums.loss / sums.weight) - wanted.item()) <= 1e-5


def test_eight_devices_are_one(tmp_path: Path) -> None:
    tiny.qwen3_classifier(tmp_path, vocab_size=90, num_hidden_layers=1)
    config, optimizer = models.read_config(tmp_path), AdamW(peak=1e-3, steps=10)
    batch = batch_of(documents(90), (0.6, 2.5))
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    losses = []
    for where in (None, mesh):
        params = models.named_parameters(models.load(tmp_path, mesh=where, rules=models.TRAINING))
        state = init(config, params, where, optimizer)
        step = make_step(config, where, optimizer, EXACT, objective=token_class)
        data = batch if where is None else jax.device_put(batch, batch_sharding(mesh))
        for _ in range(2):  # the second loss is after an update
            state, metrics = step(state, data)
        losses.append(float(metrics.loss))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_new_head_on_a_language_models_body(tmp_path: Path, tied: bool) -> None:
    reference = tiny.qwen3(tmp_path / "base", num_hidden_layers=1, tie_word_embeddings=tied)
    labels = ("capability", "style")
    model = models.load_classifier(tmp_path / "base", labels, jax.random.key(3))
    ours = models.named_parameters(model)
    body = {n: p.detach().numpy() for n, p in reference.named_parameters() if n != "lm_head.weight"}
    assert set(ours) == {*body, "score.weight", "score.bias"}
    for name, value in body.items():
        np.testing.assert_array_equal(ours[name], value)
    head = np.asarray(ours["score.weight"])
    assert head.shape == (2, 28)
    assert 0.01 < head.std() < 0.03
    assert not ours["score.bias"].any()
    again = models.named_parameters(models.load_classifier(tmp_path / "base", labels, jax.random.key(3)))
    np.testing.assert_array_equal(again["score.weight"], head)
    models.save_hf(model, tmp_path / "out", base=tmp_path / "base")
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.id2label == {0: "capability", 1: "style"}
    ids = np.arange(20)[None]
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids)).logits.numpy()
    loaded = models.load_classifier(tmp_path / "out", labels, jax.random.key(0))  # as it is
    hidden, _ = loaded(ids, ids, models.Packed(np.ones((1, 20), np.int32), loaded.config.masks))
    np.testing.assert_allclose(loaded.scores(hidden), wanted, atol=1e-5)


def test_what_cannot_be_a_classifier(tmp_path: Path) -> None:
    tiny.gemma3(tmp_path / "gemma")
    with pytest.raises(models.ModelConfigError, match="transformers has no Gemma3ForTokenClassification"):
        models.load_classifier(tmp_path / "gemma", ("capability", "style"), jax.random.key(0))
    tiny.qwen3_classifier(tmp_path / "three", id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    with pytest.raises(models.ModelConfigError, match="3 labels"):
        models.load_classifier(tmp_path / "three", ("capability", "style"), jax.random.key(0))
