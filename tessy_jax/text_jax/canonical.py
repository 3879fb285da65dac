"""What decides a vocabulary's canonical tokens, as tables for the device."""

import functools
from typing import Self

from flax import struct

from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.text_jax.merges import Merges
from tessy_jax.text_jax.pretokens import Pretokens


class Canonical(struct.PyTreeNode):
    """What decides a vocabulary's canonical tokens."""

    pieces: Pretokens
    merges: Merges

    @classmethod
    @functools.lru_cache(maxsize=4)  # about a second each, and engines of one process often share their tokenizers
    def of(cls, tokenizer: ContentTokenizer) -> Self | None:
        """None for a vocabulary whose encoding is not known here."""
        pieces = Pretokens.of(tokenizer)
        merges = None if pieces is None else Merges.of(tokenizer)
        return None if pieces is None or merges is None else cls(pieces, merges)
