r"""Sync points: where a text may be cut in two for tokenisation, told from the bytes around the place alone.

Write E(x) for the tokens of x. The byte offset p of a text is a *sync point* if for every text that has the same
bytes up to and with p, E(text) = L + E(text[p:]), with L fixed. It is *prefix-stable* if moreover L = E(text[:p]).

    "one two": p = 3 is both. All that begins "one " has the tokens [one] first, and then those of what follows.
    "one two": p = 5 is neither. E(" t") + E("wo") are other tokens than E(" two").

**Byte-level vocabularies** split the text into pre-tokens by regular expressions, then merge inside each, so it is
enough that p is a boundary of pre-tokens and that those before p depend on no byte after p. The expressions are unions
of the alternatives listed in `_ALTERNATIVES`, matched from left to right without look-behind; an expression with any
other alternative is not treated here. Two kinds of places are used:

* *After a word*: an ASCII graphic character (0x21-0x7E) at p-1 and a space at p. No alternative consumes a non-space
  and then a space: a space stands only first (`" ?"`, `[^\r\n\p{L}\p{N}]?`) or in a run of white space. So no match,
  nor any attempt at one, goes over p; whether p is a space or the end of the text makes no difference to it. The one
  lookahead, `\s+(?!\S)`, comes after a white space character, hence looks at p-1 at the latest. So p is a boundary
  and prefix-stable.
* *After a newline*: CR or LF at p-1, an ASCII letter or digit at p. CR and LF stand only in `\s*[\r\n]+`, `\s+`, and
  at the end of `[^\s\p{L}\p{N}]+[\r\n]*` (o200k: `[\r\n/]*`), and no letter or digit follows there. So p is a
  boundary. The lookahead may read p itself (in `\n\nx`, GPT-2's expression has no newline alternative and cuts `\n`,
  `\n`; without the x it is one pre-token `\n\n`), never more: p is a sync point. It is prefix-stable where `\s*[\r\n]+`
  stands before the lookahead: that alternative takes every run of white space that ends in a newline.

Splits before the last one (R1: digits, then Chinese and Japanese; SmolLM2: digits) only isolate runs of digits or of
CJK characters, which neither kind of place can stand inside; they shorten the texts that the last expression sees,
at places that depend on no byte after p. The last expression must have the alternative `\s+`: then the white space at p
or p-1 is always in a match, and what is left unmatched does not go over p.

NFC does not reach over p: a space, an ASCII letter and a digit begin a new composition, and do not compose with what
stands before. What follows may compose with the letter at p, into another letter; with a space or digit nothing
composes.

**Vocabularies without pre-tokenizer** (Gemma): no merge goes over p if no token holds the two characters around p
side by side, because the merged token would. Merges on the two sides do not touch, so p is prefix-stable. The same
holds for added tokens, which are looked for first. The characters are normalised by writing a space as ▁, so a place
before ▁ (first byte E2) is not used.

The places depend on ASCII around them, so a long text without white space has few: it is then encoded from further
back, never wrongly.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Protocol

from tessy_jax.text.tokenizer import ContentTokenizer, parts_of

log = logging.getLogger(__name__)

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_NEWLINES = r"\s*[\r\n]+"
_LOOKAHEAD = r"\s+(?!\S)"
_SPACES = r"\s+"

QWEN = [
    *(_CONTRACTION, r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n]*"),
    *(_NEWLINES, _LOOKAHEAD, _SPACES),
]
"""The alternatives of Qwen's expression."""

GPT2 = [
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"),
    *(r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", _LOOKAHEAD, _SPACES),
]
"""Those of GPT-2's, which is the expression inside the ByteLevel pre-tokenizer (`use_regex`)."""

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ALTERNATIVES = {
    *QWEN,
    *GPT2,
    r"'(?i:[sdmt]|ll|ve|re)",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    *(r"\p{N}+", r"\p{N}{1,3}"),
    *(r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r" ?[\p{P}\p{S}]+[\r\n]*"),
}
"""The alternatives for which the module's text proves its two kinds of places."""

_EARLIER = {r"\p{N}", r"\p{N}+", r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+"}
"""Those of splits before the last one."""


class SyncRule(Protocol):
    """Where a tokenizer's texts may be cut in two."""

    def last_sync(self, text: bytes, known: int) -> int:
        """The last sync point p < known, or 0."""

    def prefix_stable(self, text: bytes, p: int) -> bool:
        """Whether 0 < p < len(text) is known to be prefix-stable."""


class PretokenSync:
    """The rule of byte-level vocabularies with proven expressions: after a word, or after a newline."""

    def __init__(self, newline_stable: bool):
        """`newline_stable`: whether places after a newline are prefix-stable too."""
        self._newline_stable = newline_stable

    def last_sync(self, text: bytes, known: int) -> int:
        return next((p for p in range(known - 1, 0, -1) if _after_word(text, p) or _after_newline(text, p)), 0)

    def prefix_stable(self, text: bytes, p: int) -> bool:
        return _after_word(text, p) or (self._newline_stable and _after_newline(text, p))


class BytePairSync:
    """The rule of vocabularies without pre-tokenizer: between two characters that no token holds side by side."""

    def __init__(self, tokens: list[bytes]):
        self._joined = {token[i : i + 2] for token in tokens for i in range(len(token) - 1)}

    def last_sync(self, text: bytes, known: int) -> int:
        return next((p for p in range(known - 1, 0, -1) if self.prefix_stable(text, p)), 0)

    def prefix_stable(self, text: bytes, p: int) -> bool:
        here = text[p]
        between = text[p - 1] < 0x80 and (here < 0x80 or here >= 0xC0) and here != 0xE2
        return between and bytes(text[p - 1 : p + 1]) not in self._joined


class NoSync:
    """The rule of tokenizers of which nothing is proven: no place, so that texts are encoded from their start."""

    def last_sync(self, text: bytes, known: int) -> int:
        return 0

    def prefix_stable(self, text: bytes, p: int) -> bool:
        return False


def _after_word(text: bytes, p: int) -> bool:
    return text[p] == 0x20 and 0x21 <= text[p - 1] <= 0x7E


def _after_newline(text: bytes, p: int) -> bool:
    return text[p - 1] in b"\r\n" and text[p] < 0x80 and text[p : p + 1].isalnum()


def sync_rule(tokenizer: ContentTokenizer) -> SyncRule:
    """The rule proven for a tokenizer; `NoSync`, with a warning, if there is none (correct, and slow on long texts)."""
    rule = _pretoken_sync(tokenizer) if tokenizer.byte_level else _byte_pair_sync(tokenizer)
    if rule is None:
        log.warning(
            "%s: its pre-tokenizer is not known to tessy_jax, so each hand-over encodes the whole text"
            " (correct, but slow on long traces): %s",
            tokenizer.source,
            json.dumps(tokenizer.spec.get("pre_tokenizer"), ensure_ascii=False)[:300],
        )
        return NoSync()
    return rule


def splits_of(tokenizer: ContentTokenizer) -> list[list[str]]:
    """The regular expressions by which a byte-level vocabulary splits texts, one after the other.

    Each is the list of its alternatives: Qwen's vocabularies give `[QWEN]`. A step that is not known has one
    alternative, which is in no list here. Empty for other vocabularies.
    """
    parts = parts_of(tokenizer.spec.get("pre_tokenizer"), "pretokenizers")
    if not parts or parts[-1]["type"] != "ByteLevel" or any(part["type"] == "ByteLevel" for part in parts[:-1]):
        return []
    return [_alternatives(part) for part in parts if part["type"] != "ByteLevel" or part.get("use_regex", True)]


def _pretoken_sync(tokenizer: ContentTokenizer) -> SyncRule | None:
    splits = splits_of(tokenizer)
    if not splits:
        return None
    *earlier, final = splits
    if not all(set(split) <= _EARLIER for split in earlier) or not set(final) <= _ALTERNATIVES or _SPACES not in final:
        return None
    before_lookahead = final[: final.index(_LOOKAHEAD)] if _LOOKAHEAD in final else final
    return PretokenSync(newline_stable=_NEWLINES in before_lookahead)


def _alternatives(part: Mapping[str, Any]) -> list[str]:
    """The alternatives of one splitting step, see `splits_of`."""
    if part["type"] == "ByteLevel":
        return GPT2
    if part["type"] == "Digits":
        return [r"\p{N}" if part["individual_digits"] else r"\p{N}+"]
    if part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"] and "Regex" in part["pattern"]:
        return _union(part["pattern"]["Regex"])
    return [f"<{part['type']}>"]


def _union(pattern: str) -> list[str]:
    """The alternatives of a regular expression: split at each `|` outside groups and classes."""
    found, depth, in_class = [""], 0, False
    pattern = pattern.replace("\r", r"\r").replace("\n", r"\n")  # R1's file has the characters themselves
    for symbol in re.findall(r"\\.|.", pattern, re.S):
        if not in_class:
            depth += (symbol == "(") - (symbol == ")")
        in_class = (in_class or symbol == "[") and symbol != "]"
        if symbol == "|" and depth == 0 and not in_class:
            found.append("")
        else:
            found[-1] += symbol
    return found


def _byte_pair_sync(tokenizer: ContentTokenizer) -> SyncRule | None:
    model = tokenizer.spec["model"]
    parts = parts_of(tokenizer.spec.get("pre_tokenizer"), "pretokenizers")
    spaces_replaced = bool(parts_of(tokenizer.spec.get("normalizer"), "normalizers"))
    # Gemma's files split at spaces, of which its normalizer has left none.
    splits = [
        part
        for part in parts
        if not (spaces_replaced and part["type"] == "Split" and part["pattern"] == {"String": " "})
    ]
    added = tokenizer.spec["added_tokens"]
    loose = any(token["single_word"] or token["lstrip"] or token["rstrip"] for token in added)
    if splits or loose or model.get("ignore_merges") or model.get("dropout"):
        return None
    return BytePairSync(tokenizer.token_bytes())
