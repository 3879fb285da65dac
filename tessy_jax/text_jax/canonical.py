"""Tables for the device that decide a vocabulary's canonical tokens: how a text is split, and what merges then."""

import functools
from typing import Self

from flax import struct

from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.text_jax.merges import Merges
from tessy_jax.text_jax.pretokens import Pretokens


class Canonical(struct.PyTreeNode):
    """What decides a vocabulary's canonical tokens.

    Attributes:
        pretokens: where the regular expression splits a text.
        merges: which tokens the bytes between two splits become.
    """

    pretokens: Pretokens
    merges: Merges

    @classmethod
    @functools.lru_cache(maxsize=4)  # about a second each, and engines of one process often share their tokenizers
    def of(cls, tokenizer: ContentTokenizer) -> Self | None:
        """The tables of a vocabulary; None where they would not decide all (another expression, or not just merges)."""
        pretokens = Pretokens.of(tokenizer)
        merges = None if pretokens is None else Merges.of(tokenizer)
        return None if pretokens is None or merges is None else cls(pretokens, merges)
