"""A pair in the shapes of large models without their checkpoints: weights drawn at random on the devices.

The folders of the configuration need `config.json` and the tokenizer. Only tokens of printable ASCII are ever written
(the rows of the others in the output matrix are zero), so that words are judged where they are for English text; and
random probes on the models' last layers cut spans of given lengths.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tessy_jax import models
from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.cooperate.state import Role
from tessy_jax.engine.build import build_engine
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.engine.rows import NAMES
from tessy_jax.models.build import named_parameters, with_parameters
from tessy_jax.predictors.probe import Probe, ProbeParams
from tessy_jax.text.chat import Chat
from tessy_jax.text.thinking import thinking_of

THRESHOLD = 0.5


@dataclass(frozen=True)
class DummyPair:
    """As `Pair`: both chats, no weights; `spans`: mean tokens of a span of the student and of the teacher."""

    config: SynthesisConfig
    folders: tuple[Path, ...]
    chats: tuple[Chat, ...]
    spans: tuple[float, ...]

    @classmethod
    def open(cls, config: SynthesisConfig, spans: Sequence[float]) -> "DummyPair":
        """Raises what reading a tokenizer or a template raises."""
        roles = [getattr(config, name) for name in NAMES]
        folders = tuple(Path(role.model) for role in roles)
        chats = tuple(
            Chat.load(
                folder,
                thinking=thinking_of(folder, **role.thinking.model_dump(exclude_none=True)),
                **role.prompt.model_dump(exclude={"system"}),
            )
            for role, folder in zip(roles, folders, strict=True)
        )
        return cls(config, folders, chats, tuple(spans))

    def load(self, mesh: Mesh | None = None) -> Engine:
        """Draws all weights and builds the engine."""
        config, writers = self.config, [self._model(role, mesh) for role in Role]
        probes = [self._probe(role, writers[role]) for role in Role]
        more = config.cooperation, config.engine, config.seed
        return build_engine(writers, probes, *more, mesh, schedule=config.schedule)

    def _model(self, role: Role, mesh: Mesh | None) -> LanguageModel:
        settings, chat = getattr(self.config, NAMES[role]), self.chats[role]
        shapes = dataclasses.replace(models.read_config(self.folders[role]), **settings.loading)
        model = models.from_config(shapes, jax.random.key(role), jnp.dtype(self.config.engine.dtype), mesh=mesh)
        params = dict(named_parameters(model))
        name = "model.embed_tokens.weight" if shapes.tie_word_embeddings else "lm_head.weight"
        written = np.zeros((shapes.vocab_size, 1), bool)
        written[_printable(chat)] = True
        params[name] = jnp.where(written, params[name], 0)
        model = with_parameters(shapes, params, mesh)
        sampling = Sampling(**settings.sampling.model_dump())
        return LanguageModel.of(model, chat, sampling, settings.prompt.system, settings.cache)

    def _probe(self, role: Role, model: LanguageModel) -> Probe:
        """Of the student's tokens one in `spans` is no style, of the teacher's one in `spans` is."""
        size, rng = model.config.vocab_size, np.random.default_rng(role)
        style = rng.random(size) < 1 / self.spans[role]
        if role == Role.STUDENT:
            style = ~style
        biases = np.where(style, 9.0, -9.0).astype(np.float32)
        weight = jnp.zeros(model.config.hidden_size, jnp.float32)
        params = ProbeParams(weight, jnp.zeros((), jnp.float32), jnp.asarray(biases))
        return Probe(model.chat.tokenizer, params, model.config.num_hidden_layers - 1, THRESHOLD)


def _printable(chat: Chat) -> list[int]:
    return [i for i, b in enumerate(chat.tokenizer.token_bytes()) if b and all(32 <= x < 127 for x in b)]
