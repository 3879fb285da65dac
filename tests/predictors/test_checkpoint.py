"""A token classifier as a predictor: its names of labels say which output is style."""

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from tessy_jax.predictors.checkpoint import Checkpoint
from tests.kit import vocab
from tests.kit.tiny import qwen3_classifier

IDS = jnp.arange(40).reshape(2, 20)
POSITIONS = jnp.broadcast_to(jnp.arange(20), (2, 20))


def test_labels_in_the_other_order(tmp_path):
    """The same classifier with style first, its head's rows swapped, gives the same probabilities of style."""
    orders = {"second": {0: "capability", 1: "style"}, "first": {0: "style", 1: "capability"}}
    found = {}
    for name, labels in orders.items():
        folder = vocab.small_plain(tmp_path / name)
        label2id = {label: i for i, label in labels.items()}
        qwen3_classifier(folder, num_hidden_layers=1, vocab_size=500, id2label=labels, label2id=label2id)
        if name == "first":
            weights = safetensors.numpy.load_file(folder / "model.safetensors")
            head = {key: value[::-1].copy() for key, value in weights.items() if key.startswith("score.")}
            assert all(len(value) == 2 for value in head.values())
            assert "score.weight" in head
            safetensors.numpy.save_file(weights | head, folder / "model.safetensors", {"format": "pt"})
        predictor = Checkpoint.load(folder, threshold=0.5, shift=1, block=16, mesh=None)
        found[name] = np.asarray(jax.jit(predictor.window)(predictor.params, IDS, POSITIONS))
    np.testing.assert_allclose(found["first"], found["second"], rtol=1e-6)
    assert found["second"].std() > 0.05, "a constant would hide swapped labels"
