"""The student's surprise against transformers on torch, packed and alone; the loss of `sft` at step 0."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tessy_jax import models
from tessy_jax.analysis import surprise
from tessy_jax.analysis.likelihood import Documents, Likelihood
from tessy_jax.analysis.traces import DataSet, Trace, read_set
from tessy_jax.train.data.batches import Batches
from tessy_jax.train.data.examples import CONTEXT, PARTS
from tessy_jax.train.data.packing import BatchPlan
from tessy_jax.train.step import Compute, init, make_eval
from tests.kit import traces as kit
from tests.kit.training import Recorder

FOREIGN = (
    {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because of 漢字 and 👍."}]},
    {"dialogs": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>a</think>b"}]},
    {
        "conversations": [
            {"from": "human", "value": "2+2?"},
            {"from": "gpt", "value": "It is 4, so 4 it is. " * 70},
        ]
    },
    {"prompt": "Sum?", "response": "<think>\nlet me think\n</think>\n\n16"},
)


READ_AT_A_TIME = 400
"""Tokens: rows have 512, the next multiple of what losses are computed by. The longest text needs more."""


def read(model: Path, sets: list[DataSet], batch_tokens: int = READ_AT_A_TIME) -> list[Trace]:
    traces = [trace for one in sets for trace in one.traces]
    losses = Likelihood(models.load(model), batch_tokens).nll([trace.example for trace in traces])
    for trace, nll in zip(traces, losses, strict=True):
        trace.nll = nll
    return traces


def test_surprise_is_torchs_and_the_first_loss_is_trainings(tmp_path):
    """Records of ours and foreign rows share packed rows; the longest has one of its own."""
    root = kit.student()
    foreign = kit.write_lines(tmp_path / "foreign.jsonl", FOREIGN)
    sets = [read_set(path, path.name, kit.reading()) for path in (root / "traces", foreign)]
    traces = read(root / "student", sets)
    assert [len(one.traces) for one in sets] == [40, len(FOREIGN)]
    assert max(len(trace.example.tokens) for trace in traces) > 512
    assert {code for trace in traces for code in trace.example.parts.tolist()} == set(range(len(PARTS)))

    torchs = AutoModelForCausalLM.from_pretrained(root / "student", dtype=torch.float32)
    for trace in traces:
        ids = torch.tensor(trace.example.tokens[None].astype(np.int64))
        with torch.no_grad():
            logits = torchs(ids).logits[0, :-1].double()
        expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()
        np.testing.assert_allclose(trace.nll[trace.learned], expected[trace.learned[1:]], atol=1e-4)
        assert not trace.nll[~trace.learned].any()

    # The same examples as one step of training, evaluated by the trainer's own program.
    ours = sets[0].traces
    config = models.read_config(root / "student")
    params = models.named_parameters(models.load(root / "student"))
    compute = Compute("float32", remat="none", attention="dense")
    sums = make_eval(config, None, compute)(init(config, params, None, Recorder()), one_batch(ours))
    first = surprise.summary(ours)
    np.testing.assert_allclose(first["step_0_loss"], float(sums.loss) / float(sums.weight), rtol=1e-5)
    for code, name in enumerate(PARTS):
        if name in first["by_part"]:
            assert first["by_part"][name]["tokens"] == int(sums.count[code])
            np.testing.assert_allclose(first["by_part"][name]["nats"], sums.nll[code] / sums.count[code], rtol=1e-4)


def one_batch(traces: list[Trace]):
    documents = Documents([trace.example for trace in traces])
    lengths = np.array([len(trace.example.tokens) for trace in traces])
    batches = Batches(documents, BatchPlan(lengths, 512, 8, epochs=1, seed=0))
    assert len(batches) == 1
    return jax.tree.map(jnp.asarray, batches.batch(0))


def test_places_of_tokens_are_those_of_their_text(tmp_path):
    """A token's text stands where the example says that it ends; the prompt ends where the message's text begins."""
    foreign = kit.write_lines(tmp_path / "foreign.jsonl", FOREIGN)
    chat = kit.reading().chat
    table = chat.tokenizer.token_bytes()
    for path in (kit.student() / "traces", foreign):
        for trace in read_set(path, "", kit.reading()).traces:
            example, data = trace.example, trace.content.encode()
            learned = example.parts != CONTEXT
            start = int(example.ends[~learned][-1])
            assert data[:start].decode().strip() in ("", chat.thinking.open.strip())
            places = [start, *example.ends[learned].tolist()]
            assert places == sorted(places)
            assert places[-1] == len(data)
            for token, a, b in zip(example.tokens[learned], places, places[1:], strict=False):
                text = table[token]
                if text and text.isascii():  # control tokens have none; of several for one character the last has it
                    assert data[a:b] == text
