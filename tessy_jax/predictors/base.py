"""Boundary predictors: P(style) of each token of the text, in the predictor's own tokens.

Kinds behind one interface: `Checkpoint`, a token classifier with its own small cache, and `Unigram`, a table.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tessy_jax import models
from tessy_jax.text.tokenizer import ContentTokenizer, TextError


class Predictor(Protocol):
    """What a boundary rule needs of a predictor.

    Attributes:
      tokenizer: the vocabulary that it reads.
      threshold: a token is style if P(style) is at least this.
      shift: 1 if the prediction for a token stands at the token before it (the released checkpoints), 0 if at the
        token itself.
      params: its parameters, a pytree, handed back to `style`.
    """

    @property
    def tokenizer(self) -> ContentTokenizer: ...
    @property
    def threshold(self) -> float: ...
    @property
    def shift(self) -> int: ...
    @property
    def params(self) -> Any: ...

    def init_cache(self, batch: int, length: int, slack: int, mesh: Mesh | None) -> Any: ...

    def style(
        self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], cache: Any
    ) -> tuple[Float[Array, "B C"], Any]:
        """P(style) predicted at each token, and the cache with these tokens read; position -1 is padding."""
        ...

    def window(self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"]) -> Float[Array, "B C"]:
        """P(style) predicted at each token of a text that is these tokens and no more (preset `released_code`)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A Hugging Face `…ForTokenClassification` checkpoint with two labels; label 1 is style, as in the released
    predictors.

    `context` bounds what a token sees: `models.Blocks(W)` is trace.md's context blocks, so that the cache stays small.
    """

    tokenizer: ContentTokenizer
    graph: nnx.GraphDef
    params: Any
    config: Any
    threshold: float
    shift: int
    block: int

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        threshold: float,
        shift: int,
        block: int,
        mesh: Mesh | None,
        dtype: jnp.dtype = jnp.float32,
    ) -> "Checkpoint":
        model = models.load(folder, mesh=mesh, dtype=dtype)
        labels = len(model.config.labels)
        if labels != 2:
            raise TextError(
                f"{folder}: a boundary predictor has 2 labels (capability, style), this checkpoint has "
                f"{labels or 'no token-classification head'}"
            )
        graph, params = nnx.split(model)
        return cls(ContentTokenizer.load(folder), graph, params, model.config, threshold, shift, block)

    def init_cache(self, batch: int, length: int, slack: int, mesh: Mesh | None) -> Any:
        """An empty cache for `batch` rows of at most `length` tokens; `slack` is the largest chunk + the deepest
        rollback.
        """
        dtype = jax.tree.leaves(self.params)[0].dtype
        return models.init_cache(self.config, batch, length, slack, dtype, context=models.Blocks(self.block), mesh=mesh)

    def style(
        self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], cache: Any
    ) -> tuple[Float[Array, "B C"], Any]:
        model = nnx.merge(self.graph, params)
        hidden, cache = model(tokens, positions, cache)
        return jax.nn.softmax(model.scores(hidden), axis=-1)[..., 1], cache

    def window(self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"]) -> Float[Array, "B C"]:
        whole = models.Packed(jnp.zeros_like(tokens), tuple(self.config.contexts))
        return self.style(params, tokens, positions, whole)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Unigram:
    """A table of P(style | token): the simplest predictor, and the one that needs no second model.

    The table is a readable word list, `{"default": p, "words": {word: p, …}}`. A token's word is its text without
    the leading space, in lower case.
    """

    tokenizer: ContentTokenizer
    params: Float[Array, " V"]
    threshold: float
    shift: int = 0

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

    def init_cache(self, batch: int, length: int, slack: int, mesh: Mesh | None) -> Any:
        return ()

    def style(
        self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], cache: Any
    ) -> tuple[Float[Array, "B C"], Any]:
        return params[tokens], cache

    def window(self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"]) -> Float[Array, "B C"]:
        return params[tokens]


def word_of(token: bytes) -> str:
    """The word a token is looked up by."""
    return token.decode("utf-8", errors="replace").strip().lower()
