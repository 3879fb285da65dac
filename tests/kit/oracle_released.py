"""The released program (run_tessy.py of the code released with arXiv 2604.14164), retold step by step in plain Python.

Every request is one string, prompt and text, which the checkpoint's own tokenizer reads from its first character; a
model in torch goes on from there; the classifier reads the whole text. Nothing here knows of caches, bytes that are
covered, or edits. What stands in for the server: our random numbers, and our rule of which tokens may be sampled. Where
docs/algorithm.md says that something is not taken over, this does as the documentation says.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from tessy_jax.text.chat import Chat
from tests.kit.oracle import STUDENT, TEACHER, Oracle, Trace


class GenerationError(Exception):
    """The program gives the sample up: `generation_error`."""


@dataclasses.dataclass
class Classifier:
    """The checkpoint's own tokenizer, and P(style) at each token of a window."""

    tokenizer: Any
    style: Callable[[list[int]], list[float]]
    threshold: float


@dataclasses.dataclass
class ReleasedOracle:
    """The program's options: `step_size` by role, `classifier_len`, `max_new_tokens`, `llm_max_model_len`.

    `merged` counts the requests in which a token is not one that prompt and text have on their own, `blank` those to
    which white space came back, `ran_on` those whose text ended with the end of the turn.
    """

    base: Oracle
    classifiers: tuple[Classifier, Classifier]
    step_size: tuple[int, int]
    classifier_len: int
    max_new_tokens: int
    llm_max_model_len: int
    close: bool
    merged: int = 0
    blank: int = 0
    ran_on: int = 0

    def trace(self, messages: list[dict], record: str, sample: int) -> Trace:
        key = self.base._key(record, sample)
        prompts = [prompt_string(author, messages) for author in self.base.authors]
        student = self.base.authors[STUDENT]
        student_prompt_len, n_tokens_total = len(encode(student, prompts[STUDENT])), 0
        cur_text, model, spans, why = "", STUDENT, [], None
        while why is None:
            new, event = self._call(model, prompts[model], cur_text, self.step_size[model], key)
            label, kept = self._classify(model, cur_text, new)
            before, whole = len(cur_text.encode()), kept == new
            cur_text += kept
            n_tokens_total += len(encode(student, kept))
            if event and whole:
                why = event
            elif not event and self.base.loops and self.base.loops(cur_text.encode(), len(cur_text.encode())):
                why = "loop"
            for tag in self._tags(model):
                if tag in cur_text:
                    cur_text, why = cur_text[: cur_text.index(tag)], "end"
                    break
            if n_tokens_total + student_prompt_len >= self.max_new_tokens:
                if not self.close:
                    raise GenerationError("max length")
                why = "length"
            spans.append((model, "think", before, len(cur_text.encode())))
            if why is None and (model, label) == (TEACHER, 1):
                model = STUDENT
            elif why is None and (model, label) == (STUDENT, 0):
                model = TEACHER
        return self._answer(prompts[STUDENT], cur_text, spans, why, key)

    def _call(self, role: int, prompt: str, cur_text: str, max_tokens: int, key: object) -> tuple[str, str | None]:
        """The text that comes back, and a control token that has ended more than the turn."""
        author = self.base.authors[role]
        ids = encode(author, prompt + cur_text)
        self.merged += ids != encode(author, prompt) + encode(author, cur_text)
        for attempt in range(3):
            data, sampled, event = cur_text.encode(), [], None
            while len(sampled) < max_tokens and event is None:
                token = self.base._sample(author, ids + sampled, data, key, role + 2 * attempt, thinking=True)
                event = author.events.get(token)
                if event is None:
                    sampled.append(token)
                    data += author.bytes_of[token]
            text = data.decode(errors="ignore")[len(cur_text) :]
            self.ran_on += event == "eos" and text.strip() != ""
            event = None if event == "eos" else event
            if event or text.strip():
                return text, event
            self.blank += 1
        raise GenerationError("API returned empty")

    def _classify(self, role: int, cur_text: str, new: str) -> tuple[int, str]:
        """(label, kept text)."""
        classifier = self.classifiers[role]
        encoded = classifier.tokenizer(cur_text + new, return_offsets_mapping=True, add_special_tokens=False)
        ids = encoded.input_ids[-self.classifier_len :]
        labels = [int(p > classifier.threshold) for p in classifier.style(ids)] if ids else [role == STUDENT]
        other = 1 if role == TEACHER else 0
        offsets = encoded.offset_mapping[-self.classifier_len :]
        for (start, end), label in zip(offsets, labels, strict=bool(ids)):
            if start > len(cur_text) and label == other:
                kept = (cur_text + new)[:end]
                for char in (cur_text + new)[end:]:
                    if char.isspace():
                        break
                    kept += char
                return label, kept[len(cur_text) :]
        return labels[-1], new

    def _tags(self, role: int) -> list[str]:
        marker = self.base.authors[role].chat.textual_marker
        tags = ["</think>", "assistantfinal"]
        return tags if marker is None or marker.decode() in tags else [*tags, marker.decode()]

    def _answer(self, prompt: str, text: str, spans: list, why: str, key: object) -> Trace:
        """The end of thinking is in the student's form, whoever has ended it."""
        student = self.base.authors[STUDENT]
        text = text.rstrip(" \t\r\n\v\f")
        think_end = len(text.encode())
        text += student.chat.close_text.decode()
        context = encode(student, prompt + text)
        limit = max(1, self.llm_max_model_len - len(context))
        base = dataclasses.replace(self.base, max_answer_tokens=limit)
        data, finish = base._answer(context, text.encode(), key)
        spans = [(a, p, s, min(e, think_end)) for a, p, s, e in spans if s < think_end]
        spans.append((STUDENT, "answer", len(text.encode()), len(data)))
        return Trace(data, think_end, spans, (why, finish), 0)


class HasChat(Protocol):
    """An author, or a model of ours."""

    chat: Chat


def prompt_string(author: HasChat, messages: list[dict]) -> str:
    chat = author.chat
    rendered = chat.reference.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, chat_template=chat.template, **chat.options
    )
    opening = chat.thinking.open
    return rendered.removesuffix(opening).removesuffix(opening.rstrip()) + opening


def encode(author: HasChat, string: str) -> list[int]:
    """What the server reads: prompt and text are one string."""
    return author.chat.reference(string, add_special_tokens=False)["input_ids"]
