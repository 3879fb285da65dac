"""Prompt and text as one string, on real vocabularies: the tokens that a model is given at each turn of the preset
`released_code` are those that the checkpoint's own tokenizer (transformers) gives for the whole string.
"""

import copy
import dataclasses
import functools
import random
from pathlib import Path

import numpy as np
import pytest

from tessy_jax.cooperate.requests import OneString
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.cooperate.state import Opening
from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.text.chat import Chat
from tests.kit import vocab
from tests.kit.oracle_released import encode, prompt_string

GEMMA = "{{ bos_token }}Problem: {% for m in messages %}{{ m.content }}{% endfor %}"
OPENINGS = (
    *(None, "<think>\nOkay, so the an", "Thoughts:\n", "\n\n", " ", "1 2"),
    *("x = y.", "So the pro", "漢", "Gro\u0308"),
)
PIECES = (
    *("the", "swer", "blem", " so", " 42", "7", ",", ".\n", "\n", "\n\n", " ", "  ", "\t", "\r\n", "'s", "//", "=="),
    *("漢字", "。", "Größe", "e\u0301", "\u0308", "👍🏽", "naïve", "\u00a0", "(x", ")", "don't", "12345", "_id", "İ"),
)
QUESTIONS = ("What is 2 + 3?", "Find all x\n", "Sum of odd numbers ", "数を求めよ", "")


@pytest.fixture(scope="module", params=["qwen3", "o200k", "smollm2", "gemma3"])
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chat:
    """The vocabularies of the released data's pair and of the demo's."""
    if request.param in ("qwen3", "o200k"):
        folder = getattr(vocab, request.param)(tmp_path_factory.mktemp(request.param))
        return Chat.load(folder, options={"reasoning_effort": "high"}, date="2025-10-31")
    weights: Path = request.getfixturevalue("demo_weights")
    if request.param == "smollm2":
        return Chat.load(weights / "smollm2-135m-instruct")
    return Chat.load(weights / "gemma3-270m", template=GEMMA)


class Reader:
    """A model's tokens of one row, by the host's edits."""

    def __init__(self, model: LanguageModel, messages: list[dict]):
        prompt = model.prompt(messages, one_string=True)
        self.opening = Opening(np.frombuffer(prompt.opening, np.uint8), np.int32(len(prompt.opening)), np.int32(0))
        ids = model.retokenizer.encode(prompt.opening, 0, len(prompt.opening))[0]
        self.ids, self.ends, self.covered = prompt.ids + ids, [0] * (len(prompt.ids) + len(ids)), 0
        self.string = OneString(model.host_tokenizer.step, model.close)
        assert len(self.ids) == prompt.size

    def apply(self, edit: object) -> None:
        for mine, new in ((self.ids, edit.ids), (self.ends, edit.ends)):
            del mine[len(mine) - edit.drop :]
            mine.extend(new)
        self.covered = edit.covered

    def read(self, text: bytes) -> None:
        while self.covered != len(text):
            self.apply(self.string.retokenize(np.frombuffer(text, np.uint8), self.covered, len(text), self.opening))

    def close(self, text: bytes) -> None:
        self.apply(self.string.close(np.frombuffer(text, np.uint8), len(text), self.opening))


def opened(model: LanguageModel, opening: str | None) -> LanguageModel:
    """The same model with another end of its prompt. What is known of its vocabulary is read once."""
    chat = copy.copy(model.chat)
    if opening is not None:
        chat.thinking = dataclasses.replace(chat.thinking, open=opening)
    other = dataclasses.replace(model, chat=chat)
    vars(other)["retokenizer"] = model.retokenizer
    return other


def test_each_request_has_the_tokens_of_the_whole_string(chat: Chat) -> None:
    rng = random.Random(7)
    merged = {"with the prompt": 0, "between turns": 0}
    first = LanguageModel(None, None, None, chat, Sampling())
    for opening in OPENINGS:
        model = opened(first, opening)
        tokens = functools.partial(encode, model)
        for question in QUESTIONS:
            for _ in range(2):
                messages = [{"role": "user", "content": question}]
                reader = Reader(model, messages)
                prompt, text = prompt_string(model, messages), ""
                assert reader.ids == tokens(prompt)
                for _ in range(rng.randint(0, 7)):
                    before = len(reader.ids)
                    new = "".join(rng.choices(PIECES, k=rng.randint(1, 4)))
                    merged["between turns"] += tokens(prompt + text + new)[:before] != reader.ids
                    text += new
                    reader.read(text.encode())
                    assert reader.ids == tokens(prompt + text), (prompt[-30:], text)
                    assert reader.ends == sorted(reader.ends)
                    assert reader.ends[-1] <= reader.covered == len(text.encode())
                merged["with the prompt"] += reader.ids != tokens(prompt) + chat.tokenizer.encode(text.encode())[0]
                reader.close(text.encode())
                closed = text.rstrip(" \t\r\n\v\f") + chat.close_text.decode()
                assert reader.ids == tokens(prompt + closed), (prompt[-30:], text)
                assert reader.covered == len(closed.encode())
    assert min(merged.values()) > 10, merged
