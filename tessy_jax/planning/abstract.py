"""What the loop is built from, as shapes: parameters without values, and text that is never read.

A program that is only compiled never visits the host, so its callbacks may hold any tokenizer. Here that is one of
bytes; sizes that do go into the program (vocabulary, marker) are the model's.
"""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import DTypeLike

from tessy_jax import models
from tessy_jax.config.sections import RoleConfig
from tessy_jax.cooperate.params import Vocab
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.planning.shapes import read_shapes
from tessy_jax.text.chat import Chat, Thinking
from tessy_jax.text.tokenizer import BYTE_OF, ContentTokenizer
from tessy_jax.text.utf8 import STATES
from tessy_jax.text_jax.canonical import Canonical
from tessy_jax.text_jax.characters import CODES
from tessy_jax.text_jax.merges import Merges
from tessy_jax.text_jax.pretokens import QwenPretokens

LONGEST_TOKEN = 128
"""Bytes of the longest token: 128 in the vocabularies of Qwen3, GPT-OSS, DeepSeek and Llama 3."""


@dataclasses.dataclass(frozen=True, eq=False)
class AbstractModel(LanguageModel):
    """A model whose parameters and vocabulary are shapes."""

    @cached_property
    def vocab(self) -> Vocab:
        size = self.config.vocab_size
        allowed, of_tokens = _shape(jnp.uint8, 2 * STATES, size), _shape(jnp.uint8, size, LONGEST_TOKEN)
        return Vocab(allowed, of_tokens, _shape(jnp.int32, size), _shape(jnp.int32, size))

    @cached_property
    def canonical(self) -> Canonical:
        """As large as Qwen3's, of which there are two merges in a bucket on average and 9 at most."""
        size = self.config.vocab_size
        one = _shape(jnp.int32, size)
        buckets = _shape(jnp.int32, 1 << (size // 2).bit_length(), 9, 3)
        merges = Merges(buckets, one, one, one, _shape(jnp.bool_, size))
        return Canonical(QwenPretokens(_shape(jnp.uint8, CODES)), merges)


def _shape(dtype: DTypeLike, *sizes: int) -> Any:
    return jax.ShapeDtypeStruct(sizes, dtype)


def abstract_model(config: RoleConfig, key: str, dtype: DTypeLike, mesh: Mesh) -> AbstractModel:
    """The model of a role, which the configuration names at `key`. Raises what `read_shapes` does."""
    facts = dataclasses.replace(read_shapes(config.model, key), **config.loading)
    try:
        model = models.shapes(facts, dtype, mesh)
    except models.ModelConfigError as error:
        raise models.ModelConfigError(f"{key}: {error}") from None
    thinking = Thinking(**config.thinking.model_dump(exclude_none=True))
    tokenizer = bytes_tokenizer(thinking.marker, facts.vocab_size)
    chat = Chat(Path(), tokenizer, reference=None, template="", thinking=thinking, options={})
    sampling = Sampling(**config.sampling.model_dump())
    return AbstractModel(*nnx.split(model), model.config, chat, sampling, cache=config.cache)


class PlannedShapes(NamedTuple):
    """Where predictors take their shapes from; see `predictors.base.Shapes`."""

    mesh: Mesh
    dtype: DTypeLike

    def read(self, model: str, key: str) -> models.DecoderConfig:
        return read_shapes(model, key)

    def tokenizer(self, vocabulary: int) -> ContentTokenizer:
        return bytes_tokenizer("", vocabulary)


def bytes_tokenizer(marker: str, size: int) -> ContentTokenizer:
    """A vocabulary of the 256 bytes and the end of thinking; another one for each size of a model's."""
    token = {"id": len(BYTE_OF), "content": marker, "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    spec = {
        "model": {"type": "BPE", "vocab": BYTE_OF | {f"of{size}": len(BYTE_OF) + 1}, "merges": []},
        "pre_tokenizer": split,
        "decoder": split,
        "added_tokens": [token | flags],
    }
    return ContentTokenizer(spec, (marker,), "stand-in")
