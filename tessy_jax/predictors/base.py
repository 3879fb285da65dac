"""What a boundary predictor is to the loop and to a configuration, whatever its kind.

A predictor gives P(style) of each token: how likely the token is one that the student should write (paper, §3.2). The
loop asks in one of two ways, and `layer` says in which:

    layer None     the predictor reads the text in tokens of its own     TextPredictor          checkpoint, unigram
    layer 7        it reads what the writing model's layer 7 puts out    HiddenStatePredictor   probe

A new kind is one file beside this one and one entry in `registry.KINDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard

from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Int

from tessy_jax.config.boundary_predictors import PredictorConfig
from tessy_jax.models import DecoderConfig
from tessy_jax.models.mask import Mask
from tessy_jax.text.tokenizer import ContentTokenizer

# -- in the loop -------------------------------------------------------------------------------------------------------


class Predictor(Protocol):
    """What all kinds have in common.

    Attributes:
        tokenizer: the vocabulary whose tokens it labels.
        params: its parameters, a pytree; the loop hands it back, so that it may lie on a mesh and is compiled once.
        threshold: a token is style if P(style) is at least this.
        layer: the layer of the writing model, from 0, whose hidden states it reads; None: it reads the text.
    """

    @property
    def tokenizer(self) -> ContentTokenizer: ...
    @property
    def params(self) -> Any: ...
    @property
    def threshold(self) -> float: ...
    @property
    def layer(self) -> int | None: ...

    def init_cache(self, batch: int, length: int, slack: int, mesh: Mesh | None) -> Any:
        """What it keeps of `batch` rows of at most `length` tokens, a pytree; () if nothing.

        Args:
            slack: tokens of the largest chunk and of the deepest rollback together.
        """
        ...


class TextPredictor(Predictor, Protocol):
    """Reads the text of the trace, without the prompt.

    Attributes:
        shift: 1 if the prediction for a token stands at the token before it (the released checkpoints), 0 if at the
            token itself.
    """

    @property
    def shift(self) -> int: ...

    def style(
        self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"], cache: Any
    ) -> tuple[Float[Array, "B C"], Any]:
        """P(style) predicted at each token, and the cache with these tokens read; position -1 is padding."""
        ...

    def window(self, params: Any, tokens: Int[Array, "B C"], positions: Int[Array, "B C"]) -> Float[Array, "B C"]:
        """P(style) predicted at each token of a text that is these tokens and no more (preset `released_code`)."""
        ...


class HiddenStatePredictor(Predictor, Protocol):
    """Reads the hidden states that the writing model has anyway: no second model, no second tokenisation."""

    def style(self, params: Any, hidden: Float[Array, "B D"], tokens: Int[Array, " B"]) -> Float[Array, " B"]:
        """P(style) of `tokens`, sampled at positions where the layer put out `hidden`."""
        ...


def reads_text(predictor: Predictor) -> TypeGuard[TextPredictor]:
    """Whether it reads the text in tokens of its own."""
    return predictor.layer is None


def reads_hidden_states(predictor: Predictor) -> TypeGuard[HiddenStatePredictor]:
    """Whether it reads the writing model's hidden states."""
    return predictor.layer is not None


# -- in a configuration ------------------------------------------------------------------------------------------------


class JudgedModel(NamedTuple):
    """The model whose words a predictor judges, as far as predictors care."""

    tokenizer: ContentTokenizer
    config: DecoderConfig


class PredictorSource(Protocol):
    """A predictor named in a configuration: its files are found and checked, its weights are not loaded yet."""

    @property
    def own_model(self) -> "OwnModel | None":
        """The model that it brings along, for estimates of memory; None if it has none."""
        ...

    def identity(self) -> dict[str, Any]:
        """What its predictions depend on, for manifests."""
        ...

    def load(self, mesh: Mesh | None, dtype: DTypeLike) -> Predictor:
        """Loads the weights onto the mesh.

        Raises:
            WeightsError, ShardingError, TextError: with the file and what to do.
        """
        ...


class OwnModel(NamedTuple):
    """The folder of a predictor's own model, and what its tokens see."""

    folder: Path
    mask: Mask


class Shapes(Protocol):
    """What is known where a program is only planned: shapes instead of files.

    Attributes:
        mesh, dtype: where and as what parameters would lie.
    """

    @property
    def mesh(self) -> Mesh: ...
    @property
    def dtype(self) -> DTypeLike: ...

    def read(self, model: str, key: str) -> DecoderConfig:
        """The shapes of a model that the configuration names at `key`."""
        ...

    def tokenizer(self, vocabulary: int) -> ContentTokenizer:
        """A vocabulary of that size whose text is never read."""
        ...


@dataclass(frozen=True)
class PredictorKind:
    """A kind of predictor: how its section of a configuration becomes one.

    Attributes:
        section: the configuration's class; its `kind` is a literal that names the kind.
        open: `(section, key, judged)` finds and checks the files. Raises ConfigError, TextError or what reading a
            checkpoint raises; `key` says where the configuration has the section, for messages.
        abstract: the same predictor with shapes for parameters, for `plan`.
        identify: `(section, key)` gives the identity of what `open` gives, without a tokenizer; None: it needs one, and
            a finished run is recognised more slowly.
    """

    section: type[PredictorConfig]
    open: Callable[[Any, str, JudgedModel], PredictorSource]
    abstract: Callable[[Any, str, JudgedModel, Shapes], Predictor]
    identify: Callable[[Any, str], dict[str, Any]] | None = None
