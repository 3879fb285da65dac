"""EleutherAI's lm-eval asks the server, for likelihoods and for texts; what it finds is what torch says."""

import json
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.tasks import TaskManager

from tessy_jax.cooperate.sampling import Sampling
from tests.kit.oracle import Author, Oracle
from tests.kit.serving import NAME, Server, tiny
from tests.serving.test_server import generated, spelled

CHOICES = [
    ("The sum of the first n odd numbers is", [" n squared", " one third", " a prime number"], 0),
    ("Wait, I should check that", [" again", " the maximum of all", " balls"], 0),
    ("def solve(values):\n    best =", [" None", " value > best", " index, value"], 0),
    ("Therefore, the probability of the event is", [" one third", " the two results agree", " 16"], 0),
    ("Okay, so the problem says that there are", [" boxes", " three boxes", " it"], 1),
]
"""Questions, what may follow, and which of it is right."""


@pytest.fixture
def evaluate(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`evaluate(model, path, rows, task, **model arguments)`: what lm-eval finds, without a network."""
    for name in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(name, True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def run(model: str, path: str, rows: list[dict[str, Any]], task: dict[str, Any], **more: Any) -> dict[str, Any]:
        file = tmp_path / "test.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
        found = lm_eval.simple_evaluate(
            model,
            {"model": NAME, "base_url": f"{server.url}/v1/{path}", "max_length": 180} | more,
            [{"task": "ours", "doc_to_text": "{{question}}"} | data | task],
            task_manager=TaskManager(include_defaults=False),
            apply_chat_template=path.startswith("chat"),
            bootstrap_iters=0,
        )
        return {"results": found["results"]["ours"], "samples": found["samples"]["ours"]}

    return run


def their_likelihoods(question: str, choices: list[str]) -> list[tuple[float, bool]]:
    """Of each choice behind the question: the sum of log p, and whether each of its tokens is the likeliest."""
    tokenizer, found = tiny().served.model.chat.reference, []
    for choice in choices:
        before = len(tokenizer(question, add_special_tokens=False)["input_ids"])
        ids = tokenizer(question + choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            p = torch.log_softmax(tiny().torch_model(torch.tensor([ids])).logits[0], -1)[before - 1 : -1]
        chosen = p[range(len(p)), ids[before:]]
        found.append((chosen.sum().item(), bool((chosen == p.max(-1).values).all())))
    return found


@pytest.mark.parametrize("how", [{"batch_size": 4}, {"num_concurrent": 3, "tokenized_requests": False}])
def test_likelihoods(evaluate: Any, how: dict[str, Any]) -> None:
    """As token ids, several in a request; as texts, several requests at a time. What transformers writes is a choice
    as well, where it is a character.
    """
    rows = [
        {
            "question": question,
            "choices": [*choices, *filter(None, [spelled(generated(question, 1)[1])])],
            "answer": answer,
        }
        for question, choices, answer in CHOICES
    ]
    task = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "answer"}
    task |= {"target_delimiter": "", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
    tokenizer = str(tiny().served.model.chat.folder)
    found = evaluate("local-completions", "completions", rows, task, tokenizer=tokenizer, **how)

    right, right_by_length, greedy = 0, 0, 0
    for sample, row in zip(found["samples"], rows, strict=True):
        expected = their_likelihoods(row["question"], row["choices"])
        values = [value for value, _ in expected]
        assert [float(value) for value, _ in sample["filtered_resps"]] == pytest.approx(values, abs=1e-4)
        assert [str(best) for _, best in sample["filtered_resps"]] == [str(best) for _, best in expected]
        right += int(np.argmax(values) == row["answer"])
        right_by_length += int(np.argmax(np.divide(values, list(map(len, row["choices"])))) == row["answer"])
        greedy += sum(best for _, best in expected)
    assert greedy
    assert found["results"]["acc,none"] == right / len(rows)
    assert found["results"]["acc_norm,none"] == right_by_length / len(rows)


def test_texts(evaluate: Any) -> None:
    """Greedy answers to chats, without the thinking, are those of plain Python and torch."""
    author = Author(tiny().torch_model, tiny().served.model.chat, Sampling(0.0))
    encode = author.chat.tokenizer.encode
    oracle = Oracle(
        authors=(author, author), encode_for_judge=(encode, encode), style=(lambda ids: np.ones(len(ids)),) * 2,
        thresholds=(0.5, 0.5), max_think_tokens=10**6, max_answer_tokens=60, loops=None, seed=0,
    )  # fmt: skip

    def reply(question: str) -> str:
        trace = oracle.trace([{"role": "user", "content": question}], "", 0)
        return trace.text[trace.think_end + len(author.chat.close_text) :].decode(errors="ignore")

    replies = [reply(question) for question, _, _ in CHOICES]
    assert all(replies), replies
    rows = [{"question": question, "reply": text} for (question, _, _), text in zip(CHOICES, replies, strict=True)]
    rows[0]["reply"] += "."
    task = {"output_type": "generate_until", "doc_to_target": "{{reply}}", "metric_list": [{"metric": "exact_match"}]}
    task |= {"generation_kwargs": {"until": ["never there"], "max_gen_toks": 90, "do_sample": False}}
    found = evaluate("local-chat-completions", "chat/completions", rows, task)
    assert [sample["filtered_resps"] for sample in found["samples"]] == [[text] for text in replies]
    assert found["results"]["exact_match,none"] == 1 - 1 / len(rows)
