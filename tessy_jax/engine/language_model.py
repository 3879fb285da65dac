"""A language model with its text side, as the loop needs it; and the same before its weights are loaded."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import DTypeLike

from tessy_jax import models
from tessy_jax.config.sections import RoleConfig
from tessy_jax.cooperate.host_callback import HostTokenizer, TokenEdits
from tessy_jax.cooperate.params import Vocab
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.cooperate.state import Finish
from tessy_jax.data.hashing import hash_folder
from tessy_jax.data.records import Message
from tessy_jax.models import Cache, DecoderConfig, Model, Pool, init_cache
from tessy_jax.models.hub import model_folder
from tessy_jax.text.chat import PROBES, Chat, with_system
from tessy_jax.text.retokenize import Retokenizer, change
from tessy_jax.text.templates import possible_hashes
from tessy_jax.text.thinking import thinking_of
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.text.utf8 import INVALID, STATES, byte_matrix, utf8_table
from tessy_jax.text_jax.canonical import Canonical

_SPACES = b" \t\r\n\v\f"


class Prompt(NamedTuple):
    """What a model reads before the text.

    Attributes:
        ids: tokens that stand whatever follows.
        opening: the bytes behind those; they and the text are tokenised as one string.
        size: tokens of it all, no text behind it.
    """

    ids: list[int]
    opening: bytes
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model that writes: the student or the teacher.

    Attributes:
      graph, params: the model, split by `nnx.split`.
      config: its architecture.
      chat: its prompts, markers and control tokens.
      sampling: how it chooses tokens.
      system: a system message put before problems that bring none.
      cache: dtype of its cache; None: that of the engine.
    """

    graph: nnx.GraphDef
    params: Any
    config: DecoderConfig
    chat: Chat
    sampling: Sampling
    system: str | None = None
    cache: str | None = None

    @classmethod
    def of(
        cls, model: Model, chat: Chat, sampling: Sampling, system: str | None = None, cache: str | None = None
    ) -> "LanguageModel":
        graph, params = nnx.split(model)
        return cls(graph, params, model.config, chat, sampling, system, cache)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt of a problem, up to where the trace begins."""
        return prompt_ids(self.chat, self.system, messages)

    def prompt(self, messages: Sequence[Message], one_string: bool = False) -> Prompt:
        """The prompt of a problem; `one_string`: whether it is tokenised as one string with the text behind it."""
        if not one_string:
            ids = self.prompt_ids(messages)
            return Prompt(ids, b"", len(ids))
        ids, end = self.chat.prompt_parts(with_system(self.system, messages))
        fixed = self.retokenizer.sync_before(end, len(end))
        tokens = self.retokenizer.encode(end, 0, len(end))[0]
        behind = self.retokenizer.encode(end, fixed, len(end))[0]
        return Prompt(ids + tokens[: len(tokens) - len(behind)], end[fixed:], len(ids) + len(tokens))

    def init_cache(
        self, batch: int, length: int, slack: int, dtype: DTypeLike, mesh: Mesh | None, pool: Pool | None = None
    ) -> Cache:
        """An empty cache for `batch` rows of at most `length` tokens; `slack` and `pool`: see `models.init_cache`."""
        return init_cache(self.config, batch, length, slack, self.cache or dtype, pool=pool, mesh=mesh)

    @cached_property
    def retokenizer(self) -> Retokenizer:
        """Canonical tokens of a text's end."""
        return Retokenizer(self.chat.tokenizer)

    @cached_property
    def host_tokenizer(self) -> HostTokenizer:
        """The same in the loop's arrays."""
        return HostTokenizer(self.retokenizer)

    @cached_property
    def canonical(self) -> Canonical | None:
        """How its vocabulary encodes text, for the device; None if that is not known."""
        return Canonical.of(self.chat.tokenizer)

    @property
    def open_text(self) -> str:
        """What stands before the trace in the assistant's message."""
        return self.chat.thinking.open

    @cached_property
    def _allowed(self) -> np.ndarray:
        """`Vocab.next_utf8`: thinking allows text and all events, the answer text and the end of the turn."""
        token_bytes = self.token_bytes
        text = utf8_table(token_bytes)
        text[:, [not b for b in token_bytes]] = INVALID
        thinking, answer = text, text.copy()
        for ids in (self.chat.eos_ids, self.chat.end_ids, self.chat.channel_ids):
            thinking[0, sorted(i for i in ids if i < len(token_bytes))] = 0
        answer[0, sorted(i for i in self.chat.eos_ids if i < len(token_bytes))] = 0
        return np.concatenate([thinking, answer])

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Bytes of each row of the model's vocabulary; none for padding rows and control tokens."""
        known = self.chat.tokenizer.token_bytes()
        size = self.config.vocab_size
        return [*known[:size], *[b""] * (size - len(known))]

    @cached_property
    def vocab(self) -> Vocab:
        """The vocabulary on the device."""
        matrix, lengths = byte_matrix(self.token_bytes)
        event = np.full(len(lengths), Finish.NONE, np.int32)
        for ids, what in (
            (self.chat.eos_ids, Finish.EOS),
            (self.chat.channel_ids, Finish.CHANNEL),
            (self.chat.end_ids, Finish.END),
        ):
            event[[i for i in ids if i < len(lengths)]] = what
        return Vocab(jnp.asarray(self._allowed), jnp.asarray(matrix), jnp.asarray(lengths), jnp.asarray(event))

    def utf8_after(self, tokens: Sequence[int]) -> int:
        """State of the UTF-8 automaton after `tokens`, from between two characters."""
        state = 0
        for token in tokens:
            state = int(self._allowed[state, token])
        return state % STATES

    def close(self, text: np.ndarray, kept: int, begin: int = 0) -> TokenEdits:
        """The edit that ends the thinking: from the tokens of `text[:kept]` to those of the closed trace, which begins
        at byte `begin`.

        White space at the end of the trace goes, so that the marker always has the student's own newlines around it.
        """
        data = text[:kept].tobytes()
        trace = data[:begin] + data[begin:].rstrip(_SPACES)
        start = self.retokenizer.sync_before(data, len(trace))
        covered = len(trace) + len(self.chat.close_text)
        after = self.chat.closed_ids(trace, start=start)
        before = self.retokenizer.encode(data, start, len(data))[0]
        tail = change((before, [0] * len(before)), (after, [0] * len(after)))
        if len(tail.ids) > self.host_tokenizer.width:
            raise ValueError(f"the end of thinking takes {len(tail.ids)} tokens; limit {self.host_tokenizer.width}")
        return TokenEdits(tail.drop, tail.ids, [covered] * len(tail.ids), len(tail.ids), covered)


def same_vocab(a: ContentTokenizer, b: ContentTokenizer) -> bool:
    """Whether two vocabularies write text alike."""
    return a is b or a.fingerprint == b.fingerprint


def prompt_ids(chat: Chat, system: str | None, messages: Sequence[Message]) -> list[int]:
    """The chat's prompt for `messages`, with `system` first unless they bring a system message of their own."""
    return chat.prompt_ids(with_system(system, messages))


def _identity(config: RoleConfig, folder: Path, template_hash: str) -> dict[str, Any]:
    return {
        "model": hash_folder(folder),
        "template": template_hash,
        "system": config.prompt.system,
        "sampling": config.sampling.model_dump(),
    } | config.model_dump(include={"weights", "cache"}, exclude_none=True)


@dataclass(frozen=True)
class ModelSource:
    """The folder and the chat of a model that writes, checked against its template."""

    config: RoleConfig
    folder: Path
    chat: Chat

    @classmethod
    def open(cls, config: RoleConfig, key: str, chat: type[Chat] = Chat) -> "ModelSource":
        """Reads the tokenizer, runs the conformance gate, and reads the headers of the weights.

        Args:
          key: where the configuration names the model, for messages.
          chat: how it is talked to.

        Raises:
          ConfigError: the model is not there. TextError: its tokenizer or template cannot be used, or does not conform.
            WeightsError, models.ModelConfigError: the checkpoint is incomplete, damaged or of an unknown kind.
        """
        folder = model_folder(config.model, key)
        thinking = thinking_of(folder, **config.thinking.model_dump(exclude_none=True))
        loaded = chat.load(folder, thinking=thinking, **config.prompt.model_dump(exclude={"system"}))
        loaded.check()
        loaded.prompt_ids(PROBES[0])  # or every row would be refused
        source = cls(config, folder, loaded)
        shapes = source.shapes
        try:
            models.describe(shapes)
        except models.ModelConfigError as error:
            raise models.ModelConfigError(f"{folder}: {error}") from None
        loaded.check_fits(shapes.vocab_size)
        models.check_weights(shapes, folder)
        return source

    def identity(self) -> dict[str, Any]:
        """What the model's text depends on, for manifests."""
        return _identity(self.config, self.folder, self.chat.template_hash)

    @staticmethod
    def identity_as(stored: Mapping[str, Any], config: RoleConfig, key: str) -> dict[str, Any] | None:
        """The identity of what `open` would give, told from files without a tokenizer, by one that is `stored`.

        None where it cannot be told so, or certainly is another.
        """
        folder = model_folder(config.model, key)
        possible = possible_hashes(
            folder,
            config.thinking.model_dump(exclude_none=True),
            **config.prompt.model_dump(exclude={"system"}),
        )
        return _identity(config, folder, stored["template"]) if stored["template"] in possible else None

    @property
    def checkpoint_config(self) -> models.DecoderConfig:
        """The model as the checkpoint has it."""
        return models.read_config(self.folder)

    @property
    def shapes(self) -> models.DecoderConfig:
        """The model as it will be loaded: with the weights and kernels that the configuration asks for."""
        return dataclasses.replace(self.checkpoint_config, **self.config.loading)

    def load(self, mesh: Mesh | None, dtype: jnp.dtype) -> LanguageModel:
        """Loads the weights onto the mesh.

        Raises:
          WeightsError, ShardingError: with the file and what to do.
        """
        try:
            model = models.load(self.folder, mesh=mesh, dtype=dtype, **self.config.loading)
        except models.ShardingError as error:
            raise models.ShardingError(f"{self.folder}: {error}") from None
        sampling = Sampling(**self.config.sampling.model_dump())
        return LanguageModel.of(model, self.chat, sampling, self.config.prompt.system, self.config.cache)
