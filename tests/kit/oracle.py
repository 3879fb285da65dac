"""docs/algorithm.md in plain Python: no caches, no batches, no chunks.

Every token is sampled from a full forward pass in torch, and every word is judged on a fresh encoding of the whole
text.
What the loop writes must be what this writes.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import torch

from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.text.chat import Chat

STUDENT, TEACHER = 0, 1

# The Unicode property White_Space; str.isspace also counts the separators U+001C to U+001F.
WHITE = set("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}


class LastToken(NamedTuple):
    """What a full forward pass says of the last token."""

    logits: np.ndarray
    states: np.ndarray  # behind the first layer


_SEEN: dict[tuple[bytes, tuple[int, ...]], LastToken] = {}
REMEMBERED = 2_000
"""Passes are remembered of models with so many logits at most: many tests make the same models write the same texts."""


def last_token(model: torch.nn.Module, ids: Sequence[int]) -> LastToken:
    """Of a pass over all `ids`, without a cache."""
    key = (fingerprint(model), tuple(ids))
    if key in _SEEN:
        return _SEEN[key]
    with torch.no_grad():
        out = model(torch.tensor([list(ids)]), output_hidden_states=True)
    found = LastToken(*(x[0, -1].float().numpy().copy() for x in (out.logits, out.hidden_states[1])))
    if len(found.logits) <= REMEMBERED:
        _SEEN[key] = found
    return found


def fingerprint(model: torch.nn.Module) -> bytes:
    """Of the configuration and all weights, which do not change once a test has made them."""
    if "fingerprint" not in model.__dict__:
        digest = hashlib.sha256(model.config.to_json_string().encode())
        for name, weight in sorted(model.state_dict().items()):
            digest.update(name.encode() + weight.numpy().tobytes())
        model.__dict__["fingerprint"] = digest.digest()
    return model.__dict__["fingerprint"]


@dataclasses.dataclass
class Author:
    """A writer: its torch model, its text side, how it samples."""

    model: torch.nn.Module
    chat: Chat
    sampling: Sampling

    def __post_init__(self) -> None:
        self._allowed: dict[tuple[bytes, bool], np.ndarray] = {}
        self.bytes_of = self.chat.tokenizer.token_bytes()
        self.events = {i: "eos" for i in self.chat.eos_ids}
        self.events |= {i: "channel" for i in self.chat.channel_ids}
        self.events |= {i: "end" for i in self.chat.end_ids}

    def encode(self, text: bytes) -> list[int]:
        return self.chat.tokenizer.encode(text)[0]

    def allowed(self, half: bytes, thinking: bool) -> np.ndarray:
        """Which tokens may follow text that ends in `half` a character (b"": between two characters)."""
        key = (half, thinking)
        if key not in self._allowed:
            self._allowed[key] = np.array(
                [
                    half == b"" and (thinking or i in self.chat.eos_ids)
                    if i in self.events
                    else piece != b"" and _begins_utf8(half + piece)
                    for i, piece in enumerate(self.bytes_of)
                ]
            )
        padding = np.zeros(self.model.config.vocab_size - len(self.bytes_of), bool)
        return np.concatenate([self._allowed[key], padding])

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return last_token(self.model, ids).logits


@dataclasses.dataclass
class Trace:
    text: bytes
    think_end: int
    spans: list[tuple[int, str, int, int]]  # author, phase, start, end
    finish: tuple[str, str]
    rejected_words: int
    dropped: Sequence[tuple[int, int, int, bytes]] = ()  # author, where it was cut, tokens, text behind the cut
    scores: Sequence[tuple[int, int, int, float]] = ()  # author, start, end, P(style) of the token that decided


@dataclasses.dataclass
class Oracle:
    """`style[role](ids) -> P(style) of each token`, from the tokens of the whole text; shift already applied (nan: no
    prediction). `probes[role](ids, token) -> P(style)` of a sampled token, from the ids before it, takes its place.
    `k`: tokens of a turn, which is written to its end before it is judged; it only decides what is dropped.
    """

    authors: tuple[Author, Author]
    encode_for_judge: tuple[Callable[[bytes], tuple[list[int], list[int]]], ...]
    style: tuple[Callable[[list[int]], np.ndarray], ...]
    thresholds: tuple[float, float]
    max_think_tokens: int
    max_answer_tokens: int
    loops: Callable[[bytes, int], bool] | None
    seed: int
    probes: tuple[Callable[[list[int], int], float], ...] = ()
    first: int = STUDENT
    k: int = 1

    def trace(self, messages: list[dict], record: str, sample: int) -> Trace:
        prompts = [a.chat.prompt_ids(messages) for a in self.authors]
        key = self._key(record, sample)
        y, role, used, spans, rejections = b"", self.first, 0, [], 0
        dropped, scores = [], []
        while True:
            kept, tokens, why, (rest, behind), said = self._span(prompts[role], y, role, key, used)
            scores += said
            if len(kept) > 0:
                spans.append((role, "think", len(y), len(y) + len(kept)))
            y, used = y + kept, used + tokens
            if rest:
                dropped.append((role, len(y), rest, behind))
            if why != "rejected":
                break
            rejections += 1
            role = 1 - role
        student = self.authors[STUDENT]
        thinking = student.chat.thinking
        y = y.rstrip(b" \t\r\n\v\f")
        marker = student.chat.tokenizer.id_of(thinking.marker)
        close = (thinking.before + thinking.marker + thinking.after).encode()
        if marker is None:
            context = prompts[STUDENT] + student.encode(y + close)
        else:
            context = prompts[STUDENT] + student.encode(y + thinking.before.encode())
            context += [marker, *student.encode(thinking.after.encode())]
        text, finish = self._answer(context, y + close, key)
        spans = [(a, p, s, min(e, len(y))) for a, p, s, e in spans if s < len(y)]
        spans.append((STUDENT, "answer", len(y + close), len(text)))
        return Trace(text, len(y), spans, (why, finish), rejections, dropped, scores)

    def _span(
        self, prompt: list[int], y: bytes, role: int, key: jax.Array, used: int
    ) -> tuple[bytes, int, str, tuple[int, bytes], list[tuple[int, int, int, float]]]:
        """One span: the kept bytes, how many sampled tokens they hold, why it ended, the tokens and bytes that are
        dropped, and the scores of its words.
        """
        author = self.authors[role]
        context = prompt + author.encode(y)
        marker = author.chat.textual_marker
        sampled: list[int] = []
        ends: list[int] = []
        probed: list[tuple[int, int, float]] = []  # start, end and P(style) of the sampled tokens
        data, last = y, len(y)
        said: list[tuple[int, int, int, float]] = []

        def judge(end: int) -> str | None:
            """Why the span ends before (or, for a loop, after) the word that ends at `end`; None if it goes on."""
            nonlocal last
            if used + sum(e <= end for e in ends) > self.max_think_tokens:
                return "length"
            word, begun = data[last:end], not _blank(data[len(y) : last])
            if not _blank(word) and begun:
                found = self._predictions(role, data, last, end, probed)
                wrong = [p for p in found if (p >= self.thresholds[role]) != (role == STUDENT)]
                if wrong:
                    said.append((role, last, last, wrong[0]))
                    return "rejected"
                if found:
                    said.append((role, last, end, min(found) if role == STUDENT else max(found)))
            last = end
            return "loop" if self.loops and self.loops(data, end) else None

        def result(why: str, event: bool = False) -> tuple:
            written = y + b"".join(author.bytes_of[token] for token in sampled)
            while not event and len(sampled) % self.k:
                token = self._sample(author, context + sampled, written, key, role, thinking=True)
                event = token in author.events
                if not event:
                    sampled.append(token)
                    written += author.bytes_of[token]
            kept = sum(e <= last for e in ends)
            return data[len(y) : last], kept, why, (len(sampled) - kept, written[last:]), said

        while True:
            token = self._sample(author, context + sampled, data, key, role, thinking=True)
            if token in author.events:
                while last < len(data):
                    end = _cut(data, last, ends, closed=True)
                    if why := judge(end):
                        return result(why, event=True)
                return result(author.events[token], event=True)
            piece = author.bytes_of[token]
            if self.probes:
                probed.append((len(data), len(data) + len(piece), self.probes[role](context + sampled, token)))
            sampled.append(token)
            for byte in piece:  # byte by byte: what is confirmed must not depend on how long tokens are
                data += bytes([byte])
                if marker and data[last:].endswith(marker):
                    at = len(data) - len(marker)
                    full, data = data, data[:at]
                    while last < at:
                        if why := judge(_cut(data, last, ends, closed=True)):
                            return result(why)
                    assert full.endswith(marker)
                    return result("end")
                while (end := _cut(data, last, ends)) is not None:
                    if why := judge(end):
                        return result(why)
            ends.append(len(data))

    def _predictions(
        self, role: int, data: bytes, start: int, end: int, probed: list[tuple[int, int, float]]
    ) -> list[float]:
        """P(style) of the tokens of a word, of those for which there is one."""
        if self.probes:
            return [p for a, b, p in probed if a < end and b > start]
        ids, ends = self.encode_for_judge[role](data[:end])
        style = self.style[role](ids)
        return [float(p) for p, e in zip(style, ends, strict=True) if start < e <= end and not np.isnan(p)]

    def _answer(self, context: list[int], text: bytes, key: jax.Array) -> tuple[bytes, str]:
        student = self.authors[STUDENT]
        sampled: list[int] = []
        while len(sampled) < self.max_answer_tokens:
            token = self._sample(student, context + sampled, text, key, STUDENT, thinking=False)
            if token in student.events:
                return text, "stop"
            sampled.append(token)
            text += student.bytes_of[token]
        return text, "length"

    def _sample(self, author: Author, ids: list[int], data: bytes, key: jax.Array, role: int, thinking: bool) -> int:
        logits = author.logits(ids)
        allowed = author.allowed(_half_character(data), thinking)
        u = float(jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, len(data)), role)))
        return draw(np.where(allowed, logits, -np.inf), author.sampling, u)

    def _key(self, record: str, sample: int) -> jax.Array:
        digest = hashlib.sha256(f"{self.seed}\x00{record}\x00{sample}".encode()).digest()
        return jax.random.wrap_key_data(np.frombuffer(digest[:8], np.uint32), impl="threefry2x32")


def draw(logits: np.ndarray, how: Sampling, u: float) -> int:
    """One token: temperature, top-k, top-p, min-p, then the inverse of the cumulative distribution in vocabulary
    order.
    """
    if how.temperature == 0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64) / how.temperature
    order = np.argsort(-scaled, kind="stable")
    if how.top_k:
        order = order[: how.top_k]
    p = np.exp(scaled[order] - scaled[order[0]])
    p /= p.sum()
    keep = (np.cumsum(p) - p < how.top_p) & (p >= how.min_p * p[0])
    chosen = sorted(zip(order[keep], p[keep], strict=True))
    total = np.cumsum([q for _, q in chosen])
    return int(chosen[int(np.searchsorted(total, u * total[-1], side="right"))][0])


def _blank(data: bytes) -> bool:
    return all(c in WHITE for c in data.decode())


def _half_character(data: bytes) -> bytes:
    """The bytes at the end of `data` that begin a character and do not end it."""
    return data[len(data.decode(errors="ignore").encode()) :]


def _begins_utf8(data: bytes) -> bool:
    """Whether some continuation makes `data` valid UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def _white_at(data: bytes, at: int) -> bool | None:
    """Whether the character there is white space; None while its first bytes do not say, or there are none."""
    rest = data[at : at + 4]
    if any(rest.startswith(c.encode()) for c in WHITE):
        return True
    return None if any(c.encode().startswith(rest) for c in WHITE) else False


def _cut(data: bytes, last: int, ends: Sequence[int], closed: bool = False) -> int | None:
    """The first cut point after `last`, straight from docs/algorithm.md; the end of the data if it is `closed`."""
    known = len(data)
    for p in range(last + 1, known):
        if data[p] & 0xC0 == 0x80:
            continue
        before = data[:p].decode()[-1]
        long = p in ends and p - last >= 48
        newlines = before in "\r\n" and data[p : p + 1] not in (b"\r", b"\n")
        white_behind = _white_at(data, p + 1) if data[p] == 0x20 and before not in WHITE else True
        if long or newlines or white_behind is False:
            return p
        if white_behind is None and not closed:
            return None
    return known if closed and last < known else None
