r"""Pre-tokens on the device: where a tokenizer's regular expression splits a text, before bytes are merged to tokens.

Two expressions are known: Qwen's and GPT-2's (SmolLM2's too). Both match from left to right without look-behind, so a
text may be looked at from any place where a match is sure to begin. From there on, whether a match begins at a
character follows from the classes of the characters around it: no expression is run.

    "it's 42"  in Qwen's pre-tokens:  it|'s| |4|2        in GPT-2's:  it|'s| 42
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, UInt8

from tessy_jax.text.sync import GPT2, QWEN, splits_of
from tessy_jax.text.tokenizer import ContentTokenizer, parts_of
from tessy_jax.text_jax.arrays import Leaf, ahead, behind, gather
from tessy_jax.text_jax.characters import CharClass, class_table, classes_of, is_lead, is_solid, is_white, next_class


class Pretokens(struct.PyTreeNode):
    """The pre-tokens of one vocabulary's texts. What the expressions share is here; subclasses say where they differ.

    A window of bytes comes with its `classes`: the `CharClass` of the character that each byte belongs to.

    Attributes:
        table: the `CharClass` of each character.
    """

    table: UInt8[Leaf, " U"]

    @staticmethod
    def of(tokenizer: ContentTokenizer) -> "Pretokens | None":
        """None for a tokenizer whose pre-tokens are not known here."""
        normalizers = [part["type"] for part in parts_of(tokenizer.spec.get("normalizer"), "normalizers")]
        if normalizers not in ([], ["NFC"]) or tokenizer.spec["added_tokens"]:
            return None
        splits = splits_of(tokenizer)
        found = QwenPretokens if splits == [QWEN] else Gpt2Pretokens if splits == [GPT2] else None
        return None if found is None else found(class_table(tokenizer, nfc=normalizers == ["NFC"]))

    def classes_of(self, text: UInt8[Array, "B X"], inside: Bool[Array, "B X"]) -> UInt8[Array, "B X"]:
        """The class of the character that each byte belongs to; see `characters.classes_of`."""
        return classes_of(jnp.asarray(self.table), text, inside)

    def sure_boundaries(self, classes: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Places where one pre-token ends and the next begins, whatever stands before and behind these two characters.

        No alternative of the expressions goes from a character that is not white space on to white space, newlines
        aside, nor from a letter on to anything but letters: "x y" and "x." surely split behind the x.
        """
        before = behind(classes, 1)
        after_letter = (before == CharClass.LETTER) & (classes > CharClass.LETTER) & (classes < CharClass.UNKNOWN)
        return (is_solid(before) & _in(classes, CharClass.SPACE, CharClass.BLANK)) | after_letter

    def boundaries(self, text: UInt8[Array, "B X"], classes: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Whether a pre-token begins at each byte, where the text ends with the last byte that is known.

        This holds behind the first sure boundary. From an UNKNOWN character to the next sure boundary it means nothing.
        """
        before, after = behind(classes, 1), next_class(text, classes)
        other = ~_in(before, CharClass.OTHER, CharClass.SPACE)
        opening = (classes == CharClass.OTHER) & other

        after_contraction, in_contraction = _contractions(self._folded(text), opening)
        joined = (before == CharClass.LETTER) | self._joins_letters(before, _previous(text, opening))
        letter = (~joined | after_contraction) & ~in_contraction

        # The last character of white space begins a match of its own if something else follows.
        last = ~is_white(after) & (after != CharClass.OUTSIDE)
        found = jnp.select(
            [classes == CharClass.LETTER, classes == CharClass.NUMBER, classes == CharClass.OTHER, is_white(classes)],
            [letter, self._number(before), other, self._white(classes, before, last)],
            True,
        )
        return found & is_lead(text)

    def stable_ends(self, text: UInt8[Array, "B X"], classes: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Places where a text may end without changing its pre-tokens: cut there, it has those that it has uncut.

        So it is between "one" and " two", but not inside "don't": cut behind its "'", that has the pre-token "'" where
        the whole has "'t".
        """
        before = behind(classes, 1)
        quoted = (behind(text, 1) == ord("'")) | (behind(text, 2) == ord("'"))  # a contraction may be cut
        word = is_solid(before) & ((classes == CharClass.SPACE) | ~quoted)
        return (word | ((before == CharClass.NEWLINE) & self._line(classes))) & is_lead(text)

    def _folded(self, text: UInt8[Array, "B X"]) -> UInt8[Array, "B X"]:
        """The text as contractions are looked for in it: in lower case, where case does not matter."""
        raise NotImplementedError

    def _joins_letters(self, before: UInt8[Array, "B X"], opening: Bool[Array, "B X"]) -> Bool[Array, "B X"]:
        """Whether letters belong to the match of the character before them.

        Args:
            before: class of that character, which is no letter.
            opening: whether it is OTHER, and a match begins at it.
        """
        raise NotImplementedError

    def _number(self, before: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Whether a match begins at a number behind a character of class `before`."""
        raise NotImplementedError

    def _white(
        self, classes: UInt8[Array, "B X"], before: UInt8[Array, "B X"], last: Bool[Array, "B X"]
    ) -> Bool[Array, "B X"]:
        """Whether a match begins at white space; `last`: it is the last of it, and something else follows."""
        raise NotImplementedError

    def _line(self, classes: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        """Whether a place behind a newline is a stable end."""
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
        self, classes: UInt8[Array, "B X"], before: UInt8[Array, "B X"], last: Bool[Array, "B X"]
    ) -> Bool[Array, "B X"]:
        # Newlines right behind an OTHER character belong to its match; all else, as far as the last newline, is one.
        newline = classes == CharClass.NEWLINE
        at = jnp.arange(classes.shape[1])
        last_not = jax.lax.cummax(jnp.where(newline, -1, at), axis=1)
        after_other = newline & (gather(classes, last_not) == CharClass.OTHER)
        inside = jnp.where(
            _newline_follows(classes), behind(after_other, 1) & ~newline, (before == CharClass.NEWLINE) | last
        )
        return jnp.where(is_white(before), inside, ~(newline & (before == CharClass.OTHER)))

    def _line(self, classes: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        return ~_newline_follows(classes)


class Gpt2Pretokens(Pretokens):
    """A space joins the letters, numbers or other characters behind it; newlines are white space like any other."""

    def _folded(self, text: UInt8[Array, "B X"]) -> UInt8[Array, "B X"]:
        return text

    def _joins_letters(self, before: UInt8[Array, "B X"], opening: Bool[Array, "B X"]) -> Bool[Array, "B X"]:
        return before == CharClass.SPACE

    def _number(self, before: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        return ~_in(before, CharClass.NUMBER, CharClass.SPACE)

    def _white(
        self, classes: UInt8[Array, "B X"], before: UInt8[Array, "B X"], last: Bool[Array, "B X"]
    ) -> Bool[Array, "B X"]:
        return ~is_white(before) | last

    def _line(self, classes: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
        return ~is_white(classes) & ~is_white(behind(classes, 2))


def _contractions(
    text: UInt8[Array, "B X"], opening: Bool[Array, "B X"]
) -> tuple[Bool[Array, "B X"], Bool[Array, "B X"]]:
    """Finds 's, 't, 're, 've, 'm, 'll and 'd where a match begins (`opening`).

    Returns whether each byte stands right behind one of them, and whether it is one of their letters.
    """
    first, second = ahead(text, 1), ahead(text, 2)
    quote = opening & (text == ord("'"))
    short = quote & _in(first, *b"stmd")
    long = quote & ((_in(first, *b"rv") & (second == ord("e"))) | ((first == ord("l")) & (second == ord("l"))))
    return behind(short, 2) | behind(long, 3), behind(short | long, 1) | behind(long, 2)


def _newline_follows(classes: UInt8[Array, "B X"]) -> Bool[Array, "B X"]:
    """Whether white space goes on, from each place, to a newline."""
    at = jnp.arange(classes.shape[1])
    return is_white(classes) & (_next(classes == CharClass.NEWLINE, at) < _next(~is_white(classes), at))


def _next(where: Bool[Array, "B X"], at: Int[Array, " X"]) -> Int[Array, "B X"]:
    """The first place at or behind each where it holds; the window's size if there is none."""
    return jax.lax.cummin(jnp.where(where, at, len(at)), axis=1, reverse=True)


def _previous(text: UInt8[Array, "B X"], at_lead: Bool[Array, "B X"]) -> Bool[Array, "B X"]:
    """For the first byte of each character, what holds at the first byte of the character before it."""
    held = at_lead
    for back in (3, 2, 1):
        held = jnp.where(~is_lead(text) & behind(is_lead(text), back), behind(at_lead, back), held)
    return behind(held, 1)


def _in(values: UInt8[Array, "B X"], *among: Any) -> Bool[Array, "B X"]:
    """Whether each value is one of `among`."""
    return functools.reduce(jnp.logical_or, (values == one for one in among))
