"""What an engine is made of, from its configuration: rows, parameters, caches, and the room for prompts."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from tessy_jax.config.sections import Budgets, EngineConfig
from tessy_jax.config.synthesize import ReleasedCodeCooperation
from tessy_jax.cooperate.params import Params
from tessy_jax.cooperate.state import ROOM_SHARE
from tessy_jax.cooperate.turn import RoleCaches, Schedule
from tessy_jax.engine.language_model import LanguageModel, same_vocab
from tessy_jax.engine.pages import Pages, RowPages
from tessy_jax.engine.rows import AS_NAMED, NOTHING_MORE, Keeps, Rows, Seats
from tessy_jax.errors import ConfigError
from tessy_jax.models.cache import Pool
from tessy_jax.models.pallas_tpu import LANES
from tessy_jax.predictors.base import Predictor, reads_text
from tessy_jax.text.retokenize import Retokenizer
from tessy_jax.text.words import LONG_WORD

MARGIN = 64
"""Tokens a row may run past its budgets: an undecided word (48 bytes) and the end-of-thinking marker."""

PREFILL_TOKENS = 2048
"""Tokens per pass of prefill: enough to be bound by arithmetic, while what it holds of them stays small."""

PAGES, ACCELERATOR_PAGE = {"cpu": 64, "gpu": 128}, 256
"""Tokens of a page by platform. A kernel reads a page of a row at a time (models/pallas_gpu.py: 128 at most), and so
does a loop on CPUs; on other platforms a loop reads several (models/by_length.py).
"""

ROLLBACK_DEPTH = 256
"""Deepest rollback that the rings of caches hold, in tokens; a deeper one reads the row again from its start."""


def pass_bytes(model: LanguageModel, rows: int) -> float:
    """Bytes of the weights that a forward pass reads for one token of each of so many rows.

    Of an embedding table that is not the output matrix as well a few rows are read: left out. Of routed experts those
    are read that a token goes to, here at random.
    """
    reached = 1 - (1 - model.config.expert_share) ** rows
    read = 0.0
    for path, leaves in nnx.to_flat_state(model.params):
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(leaves))
        looked_up = "embed_tokens" in path and not model.config.tie_word_embeddings
        read += 0 if looked_up else size * reached if "experts" in path else size
    return read


class PrefillRows(NamedTuple):
    """Rows that a call of prefill reads: when few rows are new, and when many are; both divide by `ways`, the shards of
    the batch.
    """

    few: int
    many: int
    ways: int

    def width(self, new: int) -> int:
        """Rows of each call for so many new ones: few, unless those compute more than half as much as calls of many."""
        few, many = (-(-new // width) * width for width in (self.few, self.many))
        return self.few if 2 * few <= many else self.many


def prefill_rows(config: EngineConfig, chunk: int, mesh: Mesh | None) -> PrefillRows:
    """At most `PREFILL_TOKENS` in all, where the mesh lets it be so little; `chunk`: tokens of a row."""
    ways = shards(mesh)
    many = min(config.batch, max(1, PREFILL_TOKENS // (chunk * ways)) * ways)
    few = max(1, config.batch // (16 * ways)) * ways
    return PrefillRows(min(many, few), many, ways)


def prefill_piece(longest: int, buckets: Sequence[int]) -> int:
    """Tokens of the pieces in which a prompt is read: the first bucket that holds it, or the last; a smaller one where
    that computes at most half as much. Example: 90 tokens, buckets 64 and 512: two pieces of 64.
    """
    bucket = next((size for size in buckets if size >= longest), buckets[-1])
    computed = {size: -(-longest // size) * size for size in buckets if size <= bucket}
    return max((size for size in computed if 2 * computed[size] <= computed[bucket]), default=bucket)


def by_shard(slots: np.ndarray, batch: int, width: int, ways: int) -> Iterator[np.ndarray]:
    """Lists of `width` slots that hold all `slots`, filled up with `batch`.

    The batch lies on `ways` shards, and each shard's slots are in its own part of a list: it reads them itself.
    Example: slots 0, 1 and 5 of a batch of 8 on 2 shards, 2 at a time: [0 5], [1 8].
    """
    shards = [slots[slots * ways // batch == shard] for shard in range(ways)]
    each = width // ways
    for start in range(0, max(map(len, shards)), each):
        parts = [shard[start : start + each] for shard in shards]
        yield np.concatenate([np.pad(part, (0, each - len(part)), constant_values=batch) for part in parts])


class PromptRoom(NamedTuple):
    """Tokens that there are for a prompt, and what limits them."""

    tokens: int
    limit: str


def prompt_room(budgets: Budgets, config: EngineConfig, k: int) -> list[PromptRoom]:
    """The room for the student's and the teacher's prompt; `k`: tokens of a turn, at most.

    Raises:
        ConfigError: there is none for the student's.
    """
    margin = MARGIN + k
    if isinstance(budgets, ReleasedCodeCooperation):
        return [_released_room(budgets, config, margin)] * 2
    needed = (budgets.max_think_tokens + budgets.max_answer_tokens + margin, budgets.max_think_tokens + margin)
    if config.context <= needed[0]:
        raise ConfigError(
            f"engine.context {config.context} holds no prompt: the token budgets need {needed[0]} tokens; "
            "raise engine.context or lower max_think_tokens or max_answer_tokens"
        )
    rooms = [config.context - tokens for tokens in needed]
    return [
        PromptRoom(room, f"engine.context {config.context} leaves room for {room} beside the token budgets")
        for room in rooms
    ]


def open_room(config: EngineConfig, k: int) -> list[PromptRoom]:
    """The same where each row has a budget of its own, which whoever asks for it compares with what is left.

    Raises:
        ConfigError: there is none.
    """
    room = config.context - MARGIN - k
    if room <= 1:
        raise ConfigError(f"engine.context {config.context} is too small: give at least {MARGIN + k + 2}")
    return [PromptRoom(room - 1, f"engine.context {config.context} leaves room for {room - 1} and one more")] * 2


def _released_room(budgets: Budgets, config: EngineConfig, margin: int) -> PromptRoom:
    """The budgets are for the prompt as well; with it and one token they may not be spent yet."""
    total = budgets.max_think_tokens + budgets.max_answer_tokens
    if config.context < total + margin:
        raise ConfigError(
            f"engine.context {config.context} is too small: the token budgets and a turn need {total + margin} tokens; "
            "raise engine.context or lower max_think_tokens or max_answer_tokens"
        )
    room = total - 2
    return PromptRoom(
        room, f"max_think_tokens and max_answer_tokens, which count the prompt in this preset, leave room for {room}"
    )


def too_long(sizes: Sequence[int], rooms: Sequence[PromptRoom], names: Sequence[str]) -> str | None:
    """Why prompts of these sizes, of the models of these names, do not fit into their rooms; None where they do."""
    for name, size, room in zip(names, sizes, rooms, strict=False):
        if size > room.tokens:
            return f"the prompt has {size} tokens for the {name}; {room.limit}"
    return None


def shards(mesh: Mesh | AbstractMesh | None) -> int:
    """Parts that the batch is split into."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def pool_of(config: EngineConfig, mesh: Mesh | AbstractMesh | None) -> Pool | None:
    """The pages that the configuration asks for; None: each row has its own slots. A mesh without devices stands for
    one of this machine's.

    Raises:
        ConfigError: those of one part of the batch do not hold a whole row.
    """
    if config.cache_tokens is None:
        return None
    platform = mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else jax.default_backend()
    ways, page = shards(mesh), min(config.page or PAGES.get(platform, ACCELERATOR_PAGE), config.context)
    each, least = -(-config.cache_tokens // (page * ways)), -(-config.context // page)
    if each < least:
        raise ConfigError(
            f"engine.cache_tokens {config.cache_tokens}: the rows are split into {ways} parts, and {each} pages of "
            f"{page} tokens for one do not hold a row of engine.context {config.context}: give at least "
            f"{least * page * ways}"
        )
    return Pool(each * ways, page, LANES if platform == "tpu" else 0)


def make_rows(
    models: Sequence[LanguageModel],
    predictors: Sequence[Predictor],
    budgets: Budgets,
    config: EngineConfig,
    schedule: Schedule,
    seed: int,
    seats: Seats = AS_NAMED,
    keeps: Keeps = NOTHING_MORE,
    stop_ids: int | None = None,
) -> Rows:
    """The rows of an engine; everything by role."""
    # A turn drops or judges what it has written, and the word before it that was not complete: 48 bytes and a token.
    # All words that are judged have two bytes, but for one that the end of the thinking completes.
    longest = max(model.vocab.token_bytes.shape[1] for model in models)
    most = LONG_WORD + longest * (2 + max(turn.generate.k for turn in schedule.turns))
    return Rows(
        models=tuple(models),
        predictor_vocabs=tuple(Retokenizer(p.tokenizer) if reads_text(p) else None for p in predictors),
        context=config.context,
        text_bytes=8 * config.context,
        log=schedule.spans(config.turns_per_dispatch),
        seed=seed,
        one_string=isinstance(budgets, ReleasedCodeCooperation),
        seats=seats,
        dropped_bytes=ROOM_SHARE * most if keeps.dropped else 0,
        scored_words=ROOM_SHARE * (most // 2 + 1) if keeps.scores else 0,
        stop_ids=stop_ids,
    )


def reads_alike(model: LanguageModel, predictor: Predictor) -> bool:
    """Whether a predictor reads what its model writes, without another vocabulary in between."""
    return not reads_text(predictor) or same_vocab(model.chat.tokenizer, predictor.tokenizer)


def make_params(models: Sequence[LanguageModel], predictors: Sequence[Predictor]) -> Params:
    """All that an engine's programs only read."""
    both = tuple(zip(models, predictors, strict=True))
    return Params(
        models=tuple(m.params for m in models),
        vocabs=tuple(m.vocab.replace(canonical=m.canonical if reads_alike(m, p) else None) for m, p in both),
        predictors=tuple(p.params for p in predictors),
    )


def slack(config: EngineConfig, depth: int = ROLLBACK_DEPTH) -> int:
    """Slots that rings have beyond their windows: see `models.init_cache`."""
    return depth + max(config.chunk, *config.prompt_buckets)


def make_caches(
    models: Sequence[LanguageModel],
    predictors: Sequence[Predictor],
    config: EngineConfig,
    pool: Pool | None,
    mesh: Mesh | None,
    depth: int = ROLLBACK_DEPTH,
) -> tuple[RoleCaches, ...]:
    """By role, the empty caches of the model and of its predictor; `pool`: see `pool_of`."""
    sizes = config.batch, config.context, slack(config, depth)
    return tuple(
        RoleCaches(model.init_cache(*sizes, jnp.dtype(config.dtype), mesh, pool), predictor.init_cache(*sizes, mesh))
        for model, predictor in zip(models, predictors, strict=True)
    )


def make_pages(caches: Sequence[RoleCaches], config: EngineConfig, mesh: Mesh | None) -> RowPages:
    """Whose pages they are, for the rows of this process: of each role's cache, nobody's yet."""
    ways, processes = shards(mesh), jax.process_count()

    def pages(pool: Pool | None) -> Pages | None:
        if pool is None:
            return None
        return Pages(pool, config.batch // processes, config.context, ways, max(1, ways // processes))

    return RowPages([pages(cache.model.pool) for cache in caches])
