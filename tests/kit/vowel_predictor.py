"""A kind of boundary predictor that the package does not know: style is what has many vowels. One file, all of it."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Int
from pydantic import Field

from tessy_jax.config.boundary_predictors import PredictorConfig
from tessy_jax.predictors.base import JudgedModel, PredictorKind, Shapes
from tessy_jax.text.tokenizer import ContentTokenizer


class VowelPredictor(PredictorConfig):
    kind: Literal["vowel"] = Field(description="Style is what has many vowels.")
    share: float = Field(default=0.4, description="Share of vowels from which a token counts as style.")


def vowels(token: bytes) -> float:
    """The share of vowels in a token's bytes."""
    return sum(byte in b"aeiouAEIOU" for byte in token) / max(1, len(token))


@dataclass(frozen=True, eq=False)
class Vowel:
    """A `TextPredictor`."""

    tokenizer: ContentTokenizer
    params: Float[Array, " V"]
    threshold: float
    shift: int = 0
    layer: None = None

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


@dataclass(frozen=True)
class Source:
    """A `PredictorSource`."""

    config: VowelPredictor
    tokenizer: ContentTokenizer
    own_model: None = None

    def identity(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")

    def load(self, mesh: Mesh | None, dtype: DTypeLike) -> Vowel:
        shares = np.array([vowels(token) for token in self.tokenizer.token_bytes()], np.float32)
        return Vowel(self.tokenizer, jnp.asarray(shares), self.config.share)


def _open(config: VowelPredictor, key: str, judged: JudgedModel) -> Source:
    return Source(config, judged.tokenizer)


def _abstract(config: VowelPredictor, key: str, judged: JudgedModel, shapes: Shapes) -> Vowel:
    return _open(config, key, judged).load(None, jnp.float32)


VOWEL = PredictorKind(VowelPredictor, _open, _abstract)
