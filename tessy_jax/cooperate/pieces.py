r"""Where a tokenizer's regular expression splits a text, on the device.

Two expressions are known: Qwen's and GPT-2's (SmolLM2). Both match from left to right without look-behind, so a text
may be looked at from any place where a match is sure to begin; from there on, whether a match begins at a character
follows from the kinds of the characters around it. Kinds are asked of the tokenizer itself, once, so they are those of
its own edition of Unicode. NFC changes no text of characters that are NFC alone, do not compose with the one before,
and are no combining marks; all others are UNKNOWN, and nothing is said of a text behind one.
"""

import enum
import functools
import unicodedata
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, UInt8
from tokenizers import Tokenizer

from tessy_jax.cooperate.arrays import Leaf, ahead, behind
from tessy_jax.text.cuts import is_blank
from tessy_jax.text.sync import GPT2, splits_of
from tessy_jax.text.tokenizer import ContentTokenizer, parts_of

QWEN = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+",
    r"\s+(?!\S)", r"\s+",
]  # fmt: skip
CODES = 0x20000
"""Characters of the first two planes have a kind; those beyond (rare ideographs) are UNKNOWN."""


class Kind(enum.IntEnum):
    """What the expressions tell apart."""

    OUTSIDE = 0  # no character: before or after the text that is looked at
    LETTER = 1
    NUMBER = 2
    OTHER = 3  # neither letter, number nor white space
    SPACE = 4  # " "
    BLANK = 5  # other white space but newlines
    NEWLINE = 6  # CR, LF
    UNKNOWN = 7


class Pieces(struct.PyTreeNode):
    """A tokenizer's pieces.

    Attributes:
      kinds: the `Kind` of each character.
      qwen: whether the expression is Qwen's; else it is GPT-2's.
    """

    kinds: UInt8[Leaf, " U"]
    qwen: bool = struct.field(pytree_node=False)

    @classmethod
    def of(cls, tokenizer: ContentTokenizer) -> Self | None:
        """None for a tokenizer whose pieces are not known here."""
        splits = splits_of(tokenizer)
        normalizers = [part["type"] for part in parts_of(tokenizer.spec.get("normalizer"), "normalizers")]
        if splits not in ([QWEN], [GPT2]) or tokenizer.spec["added_tokens"] or normalizers not in ([], ["NFC"]):
            return None
        return cls(_kinds(tokenizer.backend, nfc=normalizers == ["NFC"]), splits == [QWEN])

    def kinds_of(self, text: UInt8[Array, "B X"], inside: Bool[Array, "B X"]) -> UInt8[Array, "B X"]:
        """The kind of the character that each byte belongs to; UNKNOWN where a character is not whole."""
        leads = is_lead(text)
        b0, b1, b2, b3 = (ahead(text, n).astype(jnp.int32) for n in range(4))
        width = width_of(text)
        two, three, four = (b0 & 31) << 6 | b1 & 63, (b0 & 15) << 12 | (b1 & 63) << 6 | b2 & 63, (b0 & 7) << 18
        four |= (b1 & 63) << 12 | (b2 & 63) << 6 | b3 & 63
        code = jnp.select([width == 1, width == 2, width == 3], [b0, two, three], four)
        last = jnp.arange(text.shape[1]) + width - 1
        whole = jnp.take_along_axis(inside, jnp.minimum(last, text.shape[1] - 1), axis=1) & (last < text.shape[1])
        kinds = jnp.asarray(self.kinds)
        kind = jnp.where(whole & (code < len(kinds)), kinds[jnp.minimum(code, len(kinds) - 1)], Kind.UNKNOWN)
        for back in (3, 2, 1):  # a byte inside a character: the nearest lead before it
            kind = jnp.where(~leads & behind(leads, back), behind(kind, back), kind)
        return jnp.where(inside, kind, Kind.OUTSIDE).astype(jnp.uint8)

    def sure(self, kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Places before which a match ends, whatever follows the character there: no alternative goes from a character
        that is not white space to white space, newlines aside, nor from a letter to anything but letters.
        """
        before = behind(kind, 1)
        spaced = (before >= Kind.LETTER) & (before <= Kind.OTHER) & _in(kind, Kind.SPACE, Kind.BLANK)
        return spaced | ((before == Kind.LETTER) & (kind > Kind.LETTER) & (kind < Kind.UNKNOWN))

    def begin(self, text: UInt8[Array, "B X"], kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Whether a match begins at each byte, in text from a place of `sure` on that ends with the window or before.

        What stands between UNKNOWN characters and the next sure place means nothing.
        """
        before, after = behind(kind, 1), next_kind(text, kind)
        white, white_before = is_white(kind), is_white(before)
        # A run of white space is one match as far as its last newline (Qwen), and the rest of it one but for its last
        # character, if something else follows: that one begins a match of its own.
        rest_last = white & ~is_white(after) & (after != Kind.OUTSIDE)
        if self.qwen:
            size = kind.shape[1]
            at = jnp.arange(size)
            next_newline = _next(kind == Kind.NEWLINE, at)
            to_newline = white & (next_newline < _next(~white, at))
            after_other = (kind == Kind.NEWLINE) & _in(before, Kind.OTHER)  # newlines right behind belong to it
            behind_newlines = behind(self._tail_newlines(kind), 1)  # of those the white space after begins anew
            rest = (before == Kind.NEWLINE) | rest_last
            inner = jnp.where(to_newline, behind_newlines & (kind != Kind.NEWLINE), rest)
            blank = jnp.where(white_before, inner, ~after_other)
        else:
            blank = jnp.where(white_before, rest_last, True)
        other = ~_in(before, Kind.OTHER, Kind.SPACE)
        leader = (before == Kind.SPACE) if not self.qwen else _in(before, Kind.SPACE, Kind.BLANK)
        if self.qwen:
            # One other character before letters belongs to them where a match begins at it.
            leader |= (before == Kind.OTHER) & _previous(text, (kind == Kind.OTHER) & other)
        ends, inside = self._contractions(text, kind, (kind == Kind.OTHER) & other)
        letter = (~(leader | (before == Kind.LETTER)) | ends) & ~inside
        number = jnp.ones_like(white) if self.qwen else ~_in(before, Kind.NUMBER, Kind.SPACE)
        begins = jnp.select(
            [kind == Kind.LETTER, kind == Kind.NUMBER, kind == Kind.OTHER, white], [letter, number, other, blank], True
        )
        return begins & is_lead(text)

    def stable(self, kind: UInt8[Array, "B X"], text: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Places before which the text, ending there, has the matches that it has when it goes on as it does."""
        before = behind(kind, 1)
        solid = (before >= Kind.LETTER) & (before <= Kind.OTHER)
        quoted = (behind(text, 1) == ord("'")) | (behind(text, 2) == ord("'"))  # a contraction may be cut
        word = solid & ((kind == Kind.SPACE) | ~quoted)
        at = jnp.arange(kind.shape[1])
        white = is_white(kind)
        if self.qwen:
            line = (before == Kind.NEWLINE) & ~(white & (_next(kind == Kind.NEWLINE, at) < _next(~white, at)))
        else:
            line = (before == Kind.NEWLINE) & ~white & ~is_white(behind(kind, 2))
        return (word | line) & is_lead(text)

    def _tail_newlines(self, kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Newlines of an unbroken run of them right behind an OTHER character."""
        at = jnp.arange(kind.shape[1])
        last_not = jax.lax.cummax(jnp.where(kind != Kind.NEWLINE, at, -1), axis=1)
        return (kind == Kind.NEWLINE) & (jnp.take_along_axis(kind, jnp.maximum(last_not, 0), axis=1) == Kind.OTHER)

    def _contractions(
        self, text: UInt8[Array, "B X"], kind: UInt8[Array, "B X"], begins: Bool[Array, "B X"]
    ) -> tuple[Bool[Array, "B X"], Bool[Array, "B X"]]:
        """What stands right behind 's, 't, 're, 've, 'm, 'll and 'd where a match begins; and the letters of those."""
        low = jnp.where(self.qwen & (text >= ord("A")) & (text <= ord("Z")), text + 32, text)
        first, second = ahead(low, 1), ahead(low, 2)

        quote = begins & (text == ord("'"))
        short = quote & _in(first, *b"stmd")
        long = quote & ((_in(first, *b"rv") & _in(second, *b"e")) | (_in(first, *b"l") & _in(second, *b"l")))
        return behind(short, 2) | behind(long, 3), behind(short | long, 1) | behind(long, 2)


def is_lead(text: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
    """Whether a character begins at each byte."""
    return text & 0xC0 != 0x80


def width_of(text: UInt8[Array, "B X"]) -> Int[Array, "B X"]:
    """Bytes of the character that begins at each byte."""
    return 1 + (text >= 0xC0).astype(jnp.int32) + (text >= 0xE0) + (text >= 0xF0)


def is_white(kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
    """Whether characters of these kinds are white space."""
    return (kind >= Kind.SPACE) & (kind <= Kind.NEWLINE)


def _in(kind: Array, *kinds: int) -> Array:
    return functools.reduce(jnp.logical_or, (kind == k for k in kinds))


def _next(where: Bool[Array, "B X"], at: Int[Array, " X"]) -> Int[Array, "B X"]:
    """The first place at or behind each where it holds; the window's size if there is none."""
    return jax.lax.cummin(jnp.where(where, at, len(at)), axis=1, reverse=True)


def next_kind(text: UInt8[Array, "B X"], kind: UInt8[Array, "B X"]) -> UInt8[Array, "B X"]:
    """The kind of the character after the one that begins at each byte."""
    at = jnp.arange(text.shape[1]) + width_of(text)
    after = jnp.take_along_axis(kind, jnp.minimum(at, text.shape[1] - 1), axis=1)
    return jnp.where(at < text.shape[1], after, Kind.OUTSIDE).astype(kind.dtype)


def _previous(text: UInt8[Array, "B X"], at_lead: Bool[Array, "B X"]) -> Bool[Array, "B X"]:
    """What holds at the first byte of the character before each."""
    held = at_lead
    for back in (3, 2, 1):
        held = jnp.where(~is_lead(text) & behind(is_lead(text), back), behind(at_lead, back), held)
    return behind(held, 1)


def _kinds(tokenizer: Tokenizer, nfc: bool) -> np.ndarray:
    """The kinds of all characters, by how the tokenizer splits each between a letter and a full stop."""
    kinds = np.full(CODES, Kind.UNKNOWN, np.uint8)
    codes = [c for c in range(CODES) if not 0xD800 <= c < 0xE000]
    text = "".join(f"a{chr(c)}." for c in codes)
    starts = {start for _, (start, _) in tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    composing = _composing() if nfc else set()
    for i, code in enumerate(codes):
        char = chr(code)
        apart = (3 * i + 1 in starts, 3 * i + 2 in starts)
        if nfc and (code in composing or unicodedata.combining(char) or not unicodedata.is_normalized("NFC", char)):
            continue
        if char in "\r\n":
            kinds[code] = Kind.NEWLINE
        elif is_blank(char.encode()):
            expected = (True, char != " ")
            kinds[code] = (Kind.SPACE if char == " " else Kind.BLANK) if apart == expected else Kind.UNKNOWN
        elif apart == (False, True):
            kinds[code] = Kind.LETTER
        elif apart == (True, False):
            kinds[code] = Kind.OTHER
        elif apart == (True, True) and unicodedata.category(char).startswith("N"):
            kinds[code] = Kind.NUMBER
    kinds[0x17F] = Kind.UNKNOWN  # "ſ" is an s where case does not matter
    return kinds


def _composing() -> set[int]:
    """Characters that compose with one before them."""
    decomposed = (unicodedata.decomposition(chr(c)).split() for c in range(0x110000))
    jamo = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # by rule, not by table
    return jamo | {int(parts[1], 16) for parts in decomposed if len(parts) == 2 and not parts[0].startswith("<")}
