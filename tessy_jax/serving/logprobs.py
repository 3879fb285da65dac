"""What a client asks to know of tokens (`echo`, `logprobs`), and how it is told.

The tokens are those that the engine has read and written, not those of the text tokenised anew. Their log p is that of
the model's own distribution, as its logits have it: before temperature, filters and what the engine forbids.
"""

import codecs
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from jax.sharding import Mesh

from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.engine.request import RequestOutput
from tessy_jax.serving.scorer import Question, Scorer, Scores
from tessy_jax.serving.text import Piece, RowText

log = logging.getLogger(__name__)


class Echo(NamedTuple):
    """A prompt as text, and at which of its characters each of the prompt's tokens begins."""

    text: str
    offsets: list[int]


class Asked(NamedTuple):
    """What is asked of the tokens of a text.

    Attributes:
        top: likeliest tokens of each place.
        chat: whether it is told as in chats.
        echo: the prompt, where its tokens are asked about too.
    """

    top: int
    chat: bool
    echo: Echo | None


class EchoingText(RowText):
    """A completion behind its prompt; `only`: the prompt alone, whatever the model writes."""

    def __init__(self, echo: str, only: bool, stops: Sequence[str]):
        super().__init__(False, 0, stops)
        self._echo, self._only = echo, only

    def read(self, now: RequestOutput) -> Piece:
        piece, echo, self._echo = super().read(now), self._echo, ""
        if self._only:
            return Piece("", echo, 0, 0, "length" if piece.finish == "stop" else piece.finish)
        return piece._replace(content=echo + piece.content)


@dataclass(frozen=True)
class Spelling:
    """How the tokens of a model are written."""

    model: LanguageModel

    @cached_property
    def _control(self) -> Mapping[int, str]:
        tokenizer = self.model.chat.tokenizer
        return {token: name for name, token in tokenizer.control.items()}

    def data(self, token: int) -> bytes:
        """The bytes that it stands for; none where it is no text."""
        return self.model.token_bytes[token]

    def name(self, token: int) -> str:
        """As OpenAI has it: bytes that are no whole characters are written `bytes:\\xe2\\x80`."""
        data = self.data(token)
        if not data:
            return self._control.get(token, f"token_id:{token}")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def echo(self, prompt: str | Sequence[int], ids: Sequence[int]) -> Echo:
        """A prompt and its tokens. What a client sends as text it gets back as it is."""
        if isinstance(prompt, str):
            places = self.model.chat.reference(prompt, return_offsets_mapping=True)["offset_mapping"]
            return Echo(prompt, [start for start, _ in places])
        pieces = [self.data(token) or self.name(token).encode() for token in ids]
        return Echo(b"".join(pieces).decode(errors="replace"), list(_characters_before(pieces)))


class Reading(NamedTuple):
    """A text, what is new in it, and what is asked of its tokens: nothing, where that is None."""

    output: RequestOutput
    piece: Piece
    asked: Asked | None


class Logprobs:
    """Tells of the tokens of texts that are done."""

    def __init__(self, model: LanguageModel, mesh: Mesh | None):
        self._scorer, self._spelling = Scorer(model, mesh), Spelling(model)

    def answer(self, readings: Sequence[Reading]) -> list[Piece]:
        """The pieces, the last one of a text with what is asked of its tokens. To be called in the engine's thread."""
        pieces = [reading.piece for reading in readings]
        ended = [n for n, each in enumerate(readings) if each.asked and each.piece.finish in ("stop", "length")]
        questions = [_question(readings[n]) for n in ended]
        try:
            scores = self._scorer.score(questions)
        except Exception:  # for want of memory, in long texts: the engine can go on
            log.exception("the tokens of %d texts cannot be scored", len(ended))
            for n in ended:
                pieces[n] = pieces[n]._replace(finish="error")
            return pieces
        for n, question, found in zip(ended, questions, scores, strict=True):
            pieces[n] = pieces[n]._replace(logprobs=self._told(readings[n], question, found))
        return pieces

    def _told(self, reading: Reading, question: Question, scores: Scores) -> dict[str, Any]:
        asked, ids = reading.asked, question.ids.tolist()
        assert asked is not None
        if asked.chat:
            return {"content": list(self._of_chat(ids[question.begin :], scores, asked.top)), "refusal": None}
        name, written = self._spelling.name, ids[reading.output.begin :]
        offsets = list(_characters_before([self._spelling.data(token) for token in written]))
        values, tops = list[float | None](), list[dict[str, float] | None]()
        if asked.echo is not None:
            offsets = asked.echo.offsets + [len(asked.echo.text) + offset for offset in offsets]
            values, tops = [None], [None]
        for token, value, likeliest in _places(ids[question.begin :], scores, asked.top):
            values.append(value)
            top: dict[str, float] = {}
            for each, its in [*likeliest, (token, value)]:
                top.setdefault(name(each), its)  # of tokens that are written alike the likeliest
            tops.append(top)
        first = 0 if asked.echo is not None else question.begin
        names = [name(token) for token in ids[first:]]
        return {"tokens": names, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}

    def _of_chat(self, ids: Sequence[int], scores: Scores, top: int) -> Iterator[dict[str, Any]]:
        def described(token: int, value: float) -> dict[str, Any]:
            data = self._spelling.data(token)
            return {"token": self._spelling.name(token), "logprob": value, "bytes": list(data) if data else None}

        for token, value, likeliest in _places(ids, scores, top):
            yield described(token, value) | {"top_logprobs": [described(*each) for each in likeliest]}


def _question(reading: Reading) -> Question:
    """The tokens that are told: of a chat those of its text, of a completion also the one that ended it."""
    output, asked = reading.output, reading.asked
    assert asked is not None
    told = min(reading.piece.told, len(output.ends)) if asked.chat else reading.piece.told
    return Question(output.ids[: output.begin + told], output.begin if asked.echo is None else 1)


def _places(ids: Sequence[int], scores: Scores, top: int) -> Iterator[tuple[int, float, list[tuple[int, float]]]]:
    """Each token with its log p, and the likeliest in its place with theirs."""
    columns = [part.tolist() for part in (scores.chosen, scores.ids, scores.likeliest)]
    for token, value, many, values in zip(ids, *columns, strict=True):
        yield token, value, list(zip(many[:top], values[:top], strict=True))


def _characters_before(pieces: Iterable[bytes]) -> Iterator[int]:
    """How many characters of a text there are before each of its pieces, which may begin within one."""
    decoder, before = codecs.getincrementaldecoder("utf-8")("replace"), 0
    for piece in pieces:
        yield before
        before += len(decoder.decode(piece))
