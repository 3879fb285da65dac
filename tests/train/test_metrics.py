"""Numbers of a run: the arithmetic against the compiler's count, rates, lines, event files, curves."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tessy_jax import models
from tessy_jax.errors import ConfigError
from tessy_jax.train import metrics
from tessy_jax.train.curves import draw
from tessy_jax.train.data.examples import PARTS
from tessy_jax.train.metrics import MetricsFile, Reporter, Seen, TensorBoard
from tessy_jax.train.mfu import Arithmetic, peak_of
from tessy_jax.train.step import Metrics, Sums
from tests.kit import tiny
from tests.kit.tiny import gemma3, llama


def test_arithmetic_is_what_the_compiler_counts(tmp_path):
    """Of a forward pass that computes every pair: a third of a step, and of the pairs about half is seen."""
    sizes = {"hidden_size": 192, "intermediate_size": 400, "head_dim": 40, "vocab_size": 600}
    llama(tmp_path, num_hidden_layers=2, **sizes)
    model = models.load(tmp_path)
    positions = np.arange(length := 64)[None]

    def forward(tokens):
        hidden, _ = model(tokens, positions, models.Packed(jnp.ones((1, length), jnp.int32), model.config.masks))
        return model.logits(hidden)

    counted = jax.jit(forward).lower(np.zeros((1, length), np.int32)).compile().cost_analysis()["flops"]
    step = Arithmetic(model.config).operations(positions[None])
    seen = 12 * 4 * 40 * 2 * length * (length + 1) / 2
    wanted = (step - seen + seen * 2 * length / (length + 1)) / 3
    assert wanted < counted < 1.03 * wanted  # norms, softmax and rotations come on top
    frozen = Arithmetic(model.config, frozen=True).operations(positions[None])
    assert frozen == pytest.approx((step - seen) * 2 / 3 + seen)


@pytest.mark.parametrize(
    ("family", "pair"), [("qwen3_moe", 4 * 10), ("gpt_oss", 4 * 10), ("deepseek_v3", 4 * (11 + 8))]
)
def test_arithmetic_counts_the_experts_that_a_token_goes_to(tmp_path, family, pair):
    """3 of 6, in all three; an embedding that is not the output matrix is no product, and biases are none."""
    torch_model = getattr(tiny, family)(tmp_path)
    named = {name: weight.numel() for name, weight in torch_model.named_parameters() if weight.ndim > 1}
    named = {name: size for name, size in named.items() if not name.endswith("bias")}
    experts = sum(size for name, size in named.items() if ".experts." in name)
    used = sum(named.values()) - named["model.embed_tokens.weight"] - experts / 2
    got = Arithmetic(models.read_config(tmp_path)).operations(np.zeros((1, 1, 1), int))
    assert got == 6 * used + 12 * pair * 3  # one token that sees itself, in three layers


def test_arithmetic_sees_documents_and_windows(tmp_path):
    """Padding is nothing, two documents are two, and a window of 7 sees 7."""
    gemma3(tmp_path, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
    arithmetic = Arithmetic(models.read_config(tmp_path))

    def attention(*positions: int) -> float:
        row = np.array([[positions]])
        per_token = arithmetic.operations(np.array([[[0]]])) - 12 * 4 * 14 * 2
        return (arithmetic.operations(row) - per_token * (row >= 0).sum()) / (12 * 4 * 14)

    assert attention(0, 1, 2, -1, -1) == 2 * 6
    assert attention(0, 1, 0, 1, 2) == 2 * (3 + 6)
    assert attention(*range(10)) == (28 + 3 * 7) + 55


def test_peaks():
    class Device:
        device_kind = "NVIDIA H100 PCIe"

    assert peak_of(Device(), "bfloat16", None) == 756e12
    assert peak_of(Device(), "float32", None) is None
    assert peak_of(jax.devices()[0], "bfloat16", None) is None
    assert peak_of(jax.devices()[0], "float32", 0.25) == 0.25e12


def sums(style: float, answer: float) -> Sums:
    nll, count, correct = np.zeros(len(PARTS)), np.zeros(len(PARTS)), np.zeros(len(PARTS))
    nll[[1, 3]], count[[1, 3]], correct[[1, 3]] = (3 * style, answer), (3, 1), (2, 1)
    return Sums(nll.sum(), 4.0, 4, 10, nll, correct, count)


def test_lines_and_rates():
    """The first step is compiled and the evaluation is no step: no rate counts them. The time left counts evaluations,
    which come again.
    """
    now, rows = [0.0], []

    class Rows:
        def write(self, row):
            rows.append(row)

        def close(self):
            rows.append("closed")

    seen = Seen("0a", 50.0)
    reporter = Reporter([Rows()], first=4, total=8, epoch=lambda step: step // 6, peak=25.0, clock=lambda: now[0])

    def step(number: int, at: float) -> None:
        now[0] = at
        reporter.step(number, Metrics(1.5, 2.5, 0.1, sums(2.0, 1.0)), seen)

    step(5, 60.0)
    assert reporter.cells(61.0)["eta"] == "?"
    step(6, 64.0)
    now[0] = 100.0
    assert reporter.held_out(6, sums(3.0, 3.0)) == 3.0
    step(7, 106.0)
    reporter.close()
    first, second, held_out, third, end = rows
    assert first["tokens_per_second"] is None
    assert (second["step_seconds"], second["tokens_per_second"], second["mfu"]) == (4.0, 2.5, 0.5)
    assert (third["step_seconds"], third["eta_seconds"], third["mfu"]) == (5.0, 23.0, 0.4)  # 2 steps in 46 s
    assert [row["epoch"] for row in (first, second, third)] == [1, 1, 2]
    assert first["parts"] == {
        "style": {"loss": 2.0, "accuracy": 2 / 3, "tokens": 3},
        "answer": {"loss": 1.0, "accuracy": 1.0, "tokens": 1},
    }
    assert held_out == {"step": 6, "held_out": {"loss": 3.0, "tokens": 4, "parts": metrics.by_part(sums(3.0, 3.0))}}
    assert end == "closed"
    assert reporter.cells(110.0) | {"GiB": ""} == {
        **{"step": "7/8", "epoch": "2", "loss": "1.5000", "style": "2.000", "answer": "1.000", "held-out": "3.0000"},
        **{"lr": "1.00e-01", "grad": "2.50", "tok/s": "2", "MFU": "40.0%", "GiB": ""},
        **{"elapsed": "0:01:50", "eta": "0:00:23"},
    }


def test_lines_after_the_checkpoint_are_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"

    def write(after: int, *steps: int) -> list[int]:
        file = MetricsFile(path, after)
        for step in steps:
            file.write({"step": step})
        file.close()
        return [json.loads(line)["step"] for line in path.read_text().splitlines()]

    assert write(0, 0, 1, 2, 3) == [0, 1, 2, 3]
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert write(2, 3, 4) == [0, 1, 2, 3, 4]
    assert write(0, 0) == [0]


def test_event_files(tmp_path, monkeypatch):
    board = TensorBoard(tmp_path, 0)
    board.write({"step": 3, "loss": 1.25, "data": "0a", "parts": {"style": {"loss": 2.5}}, "eta_seconds": None})
    board.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert all(name in content for name in (b"loss", b"parts/style/loss"))
    assert b"eta_seconds" not in content
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="tensorboardX is not installed; run: pip install 'tessy-jax"):
        TensorBoard(tmp_path, 0)


def test_curves(tmp_path):
    """Drawn from any beginning of the lines; none where there is no step yet."""
    lines, picture = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    part = {"loss": 2.0, "accuracy": 0.5, "tokens": 3}
    rows = [
        {"step": 0, "held_out": {"loss": 3.0, "tokens": 3, "parts": {"style": part}}},
        {"step": 1, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.0, "parts": {"style": part}},
        {"step": 2, "loss": 1.5, "grad_norm": None, "learning_rate": 0.1, "parts": {"answer": part}},
    ]
    for count in range(len(rows) + 1):
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
        assert draw(lines, picture) == (count > 1)
        assert picture.exists() == (count > 1)
    assert picture.read_bytes().startswith(b"\x89PNG")
