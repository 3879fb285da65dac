r"""Where a tokenizer's regular expression splits a text, on the device.

Two expressions are known: Qwen's and GPT-2's (SmolLM2). Both match from left to right without look-behind, so a text
may be looked at from any place where a match is sure to begin; from there on, whether a match begins at a character
follows from the kinds of the characters around it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, UInt8

from tessy_jax.text.sync import GPT2, splits_of
from tessy_jax.text.tokenizer import ContentTokenizer, parts_of
from tessy_jax.text_jax.arrays import Leaf, ahead, behind, gather
from tessy_jax.text_jax.characters import CharClass, is_lead, is_solid, is_white, kind_table, kinds_in, next_kind

QWEN = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+",
    r"\s+(?!\S)", r"\s+",
]  # fmt: skip


class Pretokens(struct.PyTreeNode):
    """The pieces of a text. What the expressions share is here; subclasses say where they differ.

    Attributes:
      table: the `CharClass` of each character.
    """

    table: UInt8[Leaf, " U"]

    @staticmethod
    def of(tokenizer: ContentTokenizer) -> "Pretokens | None":
        """None for a tokenizer whose pieces are not known here."""
        normalizers = [part["type"] for part in parts_of(tokenizer.spec.get("normalizer"), "normalizers")]
        if normalizers not in ([], ["NFC"]) or tokenizer.spec["added_tokens"]:
            return None
        splits = splits_of(tokenizer)
        kind = QwenPretokens if splits == [QWEN] else Gpt2Pretokens if splits == [GPT2] else None
        return None if kind is None else kind(kind_table(tokenizer, nfc=normalizers == ["NFC"]))

    def kinds(self, text: UInt8[Array, "B X"], inside: Bool[Array, "B X"]) -> UInt8[Array, "B X"]:
        """The kind of the character that each byte belongs to; see `kinds_in`."""
        return kinds_in(jnp.asarray(self.table), text, inside)

    def sure(self, kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Places before which a match ends, whatever follows the character there: no alternative goes from a character
        that is not white space to white space, newlines aside, nor from a letter to anything but letters.
        """
        before = behind(kind, 1)
        after_letter = (before == CharClass.LETTER) & (kind > CharClass.LETTER) & (kind < CharClass.UNKNOWN)
        return (is_solid(before) & _in(kind, CharClass.SPACE, CharClass.BLANK)) | after_letter

    def begin(self, text: UInt8[Array, "B X"], kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Whether a match begins at each byte behind a place of `sure`, in a text that ends with its last known byte.

        What stands between UNKNOWN characters and the next sure place means nothing.
        """
        before, after = behind(kind, 1), next_kind(text, kind)
        other = ~_in(before, CharClass.OTHER, CharClass.SPACE)
        opening = (kind == CharClass.OTHER) & other
        after_contraction, in_contraction = _contractions(self._folded(text), opening)
        joined = (before == CharClass.LETTER) | self._joins_letters(before, _previous(text, opening))
        letter = (~joined | after_contraction) & ~in_contraction
        # The last character of white space begins a match of its own if something else follows.
        last = ~is_white(after) & (after != CharClass.OUTSIDE)
        begins = jnp.select(
            [kind == CharClass.LETTER, kind == CharClass.NUMBER, kind == CharClass.OTHER, is_white(kind)],
            [letter, self._number(before), other, self._white(kind, before, last)],
            True,
        )
        return begins & is_lead(text)

    def stable(self, kind: UInt8[Array, "B X"], text: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Places before which the text, ending there, has the matches that it has when it goes on as it does."""
        before = behind(kind, 1)
        quoted = (behind(text, 1) == ord("'")) | (behind(text, 2) == ord("'"))  # a contraction may be cut
        word = is_solid(before) & ((kind == CharClass.SPACE) | ~quoted)
        return (word | ((before == CharClass.NEWLINE) & self._line(kind))) & is_lead(text)

    def _folded(self, text: UInt8[Array, "B X"]) -> UInt8[Array, "B X"]:
        """The text as contractions are looked for in it."""
        raise NotImplementedError

    def _joins_letters(self, before: UInt8[Array, "B X"], opening: Bool[Array, "B X"]) -> Bool[Array, "B X"]:
        """Whether letters belong to the match of the character before them, of kind `before` and no letter; `opening`:
        a match begins at that, and it is of kind OTHER.
        """
        raise NotImplementedError

    def _number(self, before: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Whether a match begins at a number behind a character of kind `before`."""
        raise NotImplementedError

    def _white(
        self, kind: UInt8[Array, "B X"], before: UInt8[Array, "B X"], last: Bool[Array, "B X"]
    ) -> Bool[Array, "B X"]:
        """Whether a match begins at white space; `last`: it is the last of it, and something else follows."""
        raise NotImplementedError

    def _line(self, kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Whether a place behind a newline is `stable`."""
        raise NotImplementedError


class QwenPretokens(Pretokens):
    """Numbers stand alone; one blank or other character joins the letters behind it; newlines end a match."""

    def _folded(self, text: UInt8[Array, "B X"]) -> UInt8[Array, "B X"]:
        return jnp.where((text >= ord("A")) & (text <= ord("Z")), text + 32, text)

    def _joins_letters(self, before: UInt8[Array, "B X"], opening: Bool[Array, "B X"]) -> Bool[Array, "B X"]:
        return _in(before, CharClass.SPACE, CharClass.BLANK) | opening

    def _number(self, before: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        return jnp.ones(before.shape, bool)

    def _white(
        self, kind: UInt8[Array, "B X"], before: UInt8[Array, "B X"], last: Bool[Array, "B X"]
    ) -> Bool[Array, "B X"]:
        # Newlines right behind an OTHER character belong to its match; all else, as far as the last newline, is one.
        newline = kind == CharClass.NEWLINE
        at = jnp.arange(kind.shape[1])
        last_not = jax.lax.cummax(jnp.where(newline, -1, at), axis=1)
        after_other = newline & (gather(kind, last_not) == CharClass.OTHER)
        inside = jnp.where(
            _newline_follows(kind), behind(after_other, 1) & ~newline, (before == CharClass.NEWLINE) | last
        )
        return jnp.where(is_white(before), inside, ~(newline & (before == CharClass.OTHER)))

    def _line(self, kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        return ~_newline_follows(kind)


class Gpt2Pretokens(Pretokens):
    """A space joins the letters, numbers or other characters behind it; newlines are white space like any other."""

    def _folded(self, text: UInt8[Array, "B X"]) -> UInt8[Array, "B X"]:
        return text

    def _joins_letters(self, before: UInt8[Array, "B X"], opening: Bool[Array, "B X"]) -> Bool[Array, "B X"]:
        return before == CharClass.SPACE

    def _number(self, before: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        return ~_in(before, CharClass.NUMBER, CharClass.SPACE)

    def _white(
        self, kind: UInt8[Array, "B X"], before: UInt8[Array, "B X"], last: Bool[Array, "B X"]
    ) -> Bool[Array, "B X"]:
        return ~is_white(before) | last

    def _line(self, kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        return ~is_white(kind) & ~is_white(behind(kind, 2))


def _contractions(
    text: UInt8[Array, "B X"], opening: Bool[Array, "B X"]
) -> tuple[Bool[Array, "B X"], Bool[Array, "B X"]]:
    """What stands right behind 's, 't, 're, 've, 'm, 'll and 'd where a match begins; and the letters of those."""
    first, second = ahead(text, 1), ahead(text, 2)
    quote = opening & (text == ord("'"))
    short = quote & _in(first, *b"stmd")
    long = quote & ((_in(first, *b"rv") & (second == ord("e"))) | ((first == ord("l")) & (second == ord("l"))))
    return behind(short, 2) | behind(long, 3), behind(short | long, 1) | behind(long, 2)


def _newline_follows(kind: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
    """Whether white space goes on, from each place, to a newline."""
    at = jnp.arange(kind.shape[1])
    return is_white(kind) & (_next(kind == CharClass.NEWLINE, at) < _next(~is_white(kind), at))


def _next(where: Bool[Array, "B X"], at: Int[Array, " X"]) -> Int[Array, "B X"]:
    """The first place at or behind each where it holds; the window's size if there is none."""
    return jax.lax.cummin(jnp.where(where, at, len(at)), axis=1, reverse=True)


def _previous(text: UInt8[Array, "B X"], at_lead: Bool[Array, "B X"]) -> Bool[Array, "B X"]:
    """What holds at the first byte of the character before each."""
    held = at_lead
    for back in (3, 2, 1):
        held = jnp.where(~is_lead(text) & behind(is_lead(text), back), behind(at_lead, back), held)
    return behind(held, 1)


def _in(kind: UInt8[Array, "B X"], *kinds: Any) -> Bool[Array, "B X"]:
    return functools.reduce(jnp.logical_or, (kind == k for k in kinds))
