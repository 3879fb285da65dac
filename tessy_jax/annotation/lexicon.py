"""The simplest annotator: a list of phrases. Its labels are weak: it knows no context.

"right" is labelled in "right, so" and in "the right side" alike. Good enough to try the pipeline and as a baseline;
train on labels of a language model where it matters.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tessy_jax.annotation.annotator import Outcomes
from tessy_jax.data.hashing import hash_text
from tessy_jax.data.segments import Annotated, Segment, StyleSpan
from tessy_jax.text.tokenizer import TextError

_GROUP = 256
"""Segments at a time."""
_BEFORE = r"(?<!\w)(?<!\w['’-])"
"""A word boundary before a phrase, as `text.boundaries.is_boundary` says."""
_AFTER = r"(?!\w|['’-]\w)(?:[,;:.!?…]+(?=\s|$))?"
"""A word boundary after a phrase, with the punctuation that follows it."""


class Lexicon:
    """Labels the phrases of a list, in any case, longest first, with the punctuation that follows them."""

    name = "lexicon"

    def __init__(self, phrases: Iterable[str]):
        """Apostrophes may be straight or curly, and white space any."""
        self._phrases = sorted({" ".join(phrase.lower().split()) for phrase in phrases})
        longest = sorted(self._phrases, key=len, reverse=True)
        pattern = "|".join(re.escape(p).replace(r"\ ", r"\s+").replace("'", "['’]") for p in longest if p)
        self._pattern = re.compile(_BEFORE + f"(?:{pattern or '(?!)'})" + _AFTER, re.IGNORECASE)

    @classmethod
    def load(cls, file: Path) -> "Lexicon":
        """Reads {"phrases": {group: [phrase, …]}}; TextError where the file is not such a list."""
        try:
            groups = json.loads(file.read_text(encoding="utf-8"))["phrases"]
            phrases = list(itertools.chain.from_iterable(groups.values()))
            if not phrases or not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
                raise ValueError("every phrase must be a text")
        except FileNotFoundError:
            raise TextError(f"{file}: there is no such list of phrases") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            form = '{"phrases": {group: [phrase, …]}}'
            raise TextError(f"{file}: not a list of phrases of the form {form}: {error!r}") from None
        return cls(phrases)

    def spans(self, text: str) -> list[StyleSpan]:
        """The phrases in a text; of two that overlap, the earlier one, and the longer one where both begin."""
        return [StyleSpan(*match.span()) for match in self._pattern.finditer(text)]

    def identity(self) -> dict[str, Any]:
        return {"phrases": hash_text("\n".join(self._phrases))}

    def preview(self, segment: Segment) -> str:
        return repr([segment.text[span.start : span.end] for span in self.spans(segment.text)])

    def annotate(self, segments: Iterator[Segment]) -> Outcomes:
        while group := list(itertools.islice(segments, _GROUP)):
            yield [Annotated(segment, self.spans(segment.text)) for segment in group]
