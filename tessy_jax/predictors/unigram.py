"""A table of P(style | token): the simplest predictor, and the one that needs no second model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Int

from tessy_jax.config.boundary_predictors import UnigramPredictor
from tessy_jax.data.hashing import hash_file
from tessy_jax.errors import ConfigError
from tessy_jax.predictors.base import JudgedModel, PredictorKind, Shapes
from tessy_jax.storage.copies import local
from tessy_jax.text.tokenizer import ContentTokenizer, TextError


@dataclass(frozen=True, eq=False)
class Unigram:
    """P(style) of each token of a vocabulary, whatever stands before it.

    The table is a readable word list, `{"default": p, "words": {word: p, …}}`. A token's word is its text without
    the leading space, in lower case.
    """

    tokenizer: ContentTokenizer
    params: Float[Array, " V"]
    threshold: float
    shift: int = 0
    layer: None = None

    @classmethod
    def load(cls, table: Path, tokenizer: ContentTokenizer, *, threshold: float) -> "Unigram":
        """Reads the table for the vocabulary of `tokenizer`. TextError if the file is not such a table."""
        try:
            content = json.loads(Path(table).read_text(encoding="utf-8"))
            words, default = content["words"], float(content["default"])
            p = [float(words.get(word_of(token), default)) for token in tokenizer.token_bytes()]
        except FileNotFoundError:
            raise TextError(f"{table}: there is no such word list; `predictors.*.table` names it") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TextError(
                f'{table}: not a word list of the form {{"default": p, "words": {{word: p}}}}: {error!r}'
            ) from None
        return cls(tokenizer, jnp.asarray(np.asarray(p, np.float32)), threshold)

    def init_cache(self, batch: int, length: int, slack: int, mesh: Mesh | None) -> tuple[()]:
        return ()

    def style(
        self, params: Float[Array, " V"], tokens: Int[Array, "B C"], positions: Int[Array, "B C"], cache: Any
    ) -> tuple[Float[Array, "B C"], Any]:
        return params[tokens], cache

    def window(
        self, params: Float[Array, " V"], tokens: Int[Array, "B C"], positions: Int[Array, "B C"]
    ) -> Float[Array, "B C"]:
        return params[tokens]


def word_of(token: bytes) -> str:
    """The word a token is looked up by."""
    return token.decode("utf-8", errors="replace").strip().lower()


def _identify(config: UnigramPredictor, key: str = "") -> dict[str, Any]:
    return config.model_dump(mode="json") | {"table": hash_file(local(config.table).expanduser())}


@dataclass(frozen=True)
class _Source:
    config: UnigramPredictor
    table: Path
    tokenizer: ContentTokenizer
    own_model: None = None

    def identity(self) -> dict[str, Any]:
        return _identify(self.config)

    def load(self, mesh: Mesh | None, dtype: DTypeLike) -> Unigram:
        return Unigram.load(self.table, self.tokenizer, threshold=self.config.threshold)


def _open(config: UnigramPredictor, key: str, judged: JudgedModel) -> _Source:
    table = local(config.table).expanduser()
    if not table.is_file():
        raise ConfigError(f"{key}.table: there is no file '{config.table}'")
    return _Source(config, table, judged.tokenizer)


def _abstract(config: UnigramPredictor, key: str, judged: JudgedModel, shapes: Shapes) -> Unigram:
    table: Any = jax.ShapeDtypeStruct((judged.config.vocab_size,), jnp.float32)
    return Unigram(judged.tokenizer, table, config.threshold)


UNIGRAM = PredictorKind(UnigramPredictor, _open, _abstract, _identify)
