"""The class of each character of a text, on the device: letter, number, space and so on, as a tokenizer's regular
expressions see it.

Classes are asked of the tokenizer itself, once, so they are those of its own edition of Unicode. NFC changes no text of
characters that are NFC alone, do not compose with the one before, and are no combining marks; where a tokenizer
normalises, all others are UNKNOWN, as are those that Python's edition of Unicode does not have.
"""

import enum
import functools
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.text.words import is_blank
from tessy_jax.text_jax.arrays import ahead, behind, gather

CODES = 0x20000
"""Characters of the first two planes have a class; those beyond (rare ideographs) are UNKNOWN."""


class CharClass(enum.IntEnum):
    """What the expressions tell apart. OUTSIDE and UNKNOWN are ours."""

    OUTSIDE = 0  # no character: before or after the text that is looked at
    LETTER = 1
    NUMBER = 2
    OTHER = 3  # neither letter, number nor white space
    SPACE = 4  # " "
    BLANK = 5  # other white space but newlines
    NEWLINE = 6  # CR, LF
    UNKNOWN = 7


def classes_of(table: UInt8[Array, " U"], text: UInt8[Array, "B X"], inside: Bool[Array, "B X"]) -> UInt8[Array, "B X"]:
    """The class of the character that each byte belongs to.

    Args:
        table: the class of each character, see `class_table`.
        text: bytes of a window of the text; those that are not `inside` mean nothing.

    Returns:
        OUTSIDE where not `inside`, UNKNOWN where not all of a character's bytes are.
    """
    leads, width = is_lead(text), width_of(text)
    b0, b1, b2, b3 = (ahead(text, n).astype(jnp.int32) for n in range(4))
    two, three = (b0 & 31) << 6 | b1 & 63, (b0 & 15) << 12 | (b1 & 63) << 6 | b2 & 63
    four = (b0 & 7) << 18 | (b1 & 63) << 12 | (b2 & 63) << 6 | b3 & 63
    code = jnp.select([width == 1, width == 2, width == 3], [b0, two, three], four)
    last = jnp.arange(text.shape[1]) + width - 1
    whole = gather(inside, last) & (last < text.shape[1])
    classes = jnp.where(whole & (code < len(table)), table[jnp.minimum(code, len(table) - 1)], CharClass.UNKNOWN)
    for back in (3, 2, 1):  # a byte inside a character: the nearest lead before it
        classes = jnp.where(~leads & behind(leads, back), behind(classes, back), classes)
    return jnp.where(inside, classes, CharClass.OUTSIDE).astype(jnp.uint8)


def is_lead(text: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
    """Whether a character begins at each byte."""
    return text & 0xC0 != 0x80


def width_of(text: UInt8[Array, "B X"]) -> Int[Array, "B X"]:
    """Bytes of the character that begins at each byte."""
    return 1 + (text >= 0xC0).astype(jnp.int32) + (text >= 0xE0) + (text >= 0xF0)


def is_white(classes: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
    """Whether characters of these classes are white space."""
    return (classes >= CharClass.SPACE) & (classes <= CharClass.NEWLINE)


def is_solid(classes: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
    """Whether characters of these classes are letters, numbers or others: known, and not white space."""
    return (classes >= CharClass.LETTER) & (classes <= CharClass.OTHER)


def next_class(text: UInt8[Array, "B X"], classes: UInt8[Array, "B X"]) -> UInt8[Array, "B X"]:
    """The class of the character after the one that begins at each byte."""
    at = jnp.arange(text.shape[1]) + width_of(text)
    after = gather(classes, at)
    return jnp.where(at < text.shape[1], after, CharClass.OUTSIDE).astype(classes.dtype)


def class_table(tokenizer: ContentTokenizer, nfc: bool) -> UInt8[np.ndarray, " U"]:
    """The class of every character below `CODES`, by how the tokenizer splits it between a letter and a full stop.

    Of "aé." it makes "aé" and ".": a letter. Of "a5." it makes "a", "5" and ".": a number.

    Args:
        nfc: whether the tokenizer brings texts into NFC.
    """
    splits = tokenizer.backend.pre_tokenizer.pre_tokenize_str
    return _class_table(_Rule(json.dumps(tokenizer.spec["pre_tokenizer"]), nfc, splits))


@dataclass(frozen=True)
class _Rule:
    """What the classes depend on: the tokenizer's steps before it merges bytes, which many vocabularies share.

    Attributes:
        steps: as in tokenizer.json. splits: what they do to a text.
    """

    steps: str
    nfc: bool
    splits: Callable[[str], list[tuple[str, tuple[int, int]]]] = field(compare=False)


@functools.lru_cache(maxsize=8)  # 0.4 s a table, and both models of a pair often need the same
def _class_table(rule: _Rule) -> UInt8[np.ndarray, " U"]:
    classes = np.full(CODES, CharClass.UNKNOWN, np.uint8)
    codes = [c for c in range(CODES) if not 0xD800 <= c < 0xE000]
    text = "".join(f"a{chr(c)}." for c in codes)
    starts = {start for _, (start, _) in rule.splits(text)}
    composing = _composing() if rule.nfc else set()
    for i, code in enumerate(codes):
        char = chr(code)
        apart = (3 * i + 1 in starts, 3 * i + 2 in starts)
        if rule.nfc and (code in composing or not _alone_in_nfc(char)):
            continue
        if char in "\r\n":
            classes[code] = CharClass.NEWLINE
        elif is_blank(char.encode()):
            if apart == (True, char != " "):
                classes[code] = CharClass.SPACE if char == " " else CharClass.BLANK
        elif apart == (False, True):
            classes[code] = CharClass.LETTER
        elif apart == (True, False):
            classes[code] = CharClass.OTHER
        elif apart == (True, True) and unicodedata.category(char).startswith("N"):
            classes[code] = CharClass.NUMBER
    classes[0x17F] = CharClass.UNKNOWN  # "ſ" is an s where case does not matter
    classes.flags.writeable = False
    return classes


@functools.cache
def spaces() -> UInt8[np.ndarray, " U"]:
    """The class of every character below `CODES` as far as words need it: white space or OTHER, for any vocabulary."""
    classes = np.full(CODES, CharClass.OTHER, np.uint8)
    for code in range(CODES):
        if not 0xD800 <= code < 0xE000 and is_blank(chr(code).encode()):
            classes[code] = CharClass.BLANK
    classes[ord(" ")] = CharClass.SPACE
    classes[[ord("\r"), ord("\n")]] = CharClass.NEWLINE
    return classes


def _alone_in_nfc(char: str) -> bool:
    """Whether NFC leaves a character as it is, and in its place."""
    known = unicodedata.category(char) != "Cn"
    return known and not unicodedata.combining(char) and unicodedata.is_normalized("NFC", char)


def _composing() -> set[int]:
    """Characters that compose with one before them."""
    decomposed = (unicodedata.decomposition(chr(c)).split() for c in range(0x110000))
    jamo = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # by rule, not by table
    return jamo | {int(parts[1], 16) for parts in decomposed if len(parts) == 2 and not parts[0].startswith("<")}
