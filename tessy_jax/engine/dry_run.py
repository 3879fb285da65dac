"""What a run would do, from its input and the models' shapes: prompts, plan and memory. Loads no weights."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType
from rich.console import Console

from tessy_jax.config.sections import EngineConfig, MeshConfig
from tessy_jax.data.inputs import Reject
from tessy_jax.data.messages import why
from tessy_jax.data.records import Problem
from tessy_jax.devices.mesh import AXES, shape_of
from tessy_jax.engine.language_model import prompt_ids
from tessy_jax.engine.sizes import pool_of, slack, too_long
from tessy_jax.engine.writers import Writers
from tessy_jax.models import DecoderConfig, init_cache, parameter_bytes, read_config
from tessy_jax.models.mask import Mask

GIB = 2**30
_SHOWN = 3
"""Problems whose prompts are shown."""


def dry_run(models: Writers, rows: Sequence[Problem | Reject]) -> bool:
    """Prints the rows that cannot be used, each model's prompts of the first problems, the plan and the memory.

    Returns whether rows would be rejected.
    """
    config = models.config
    out = Console(highlight=False, markup=False, soft_wrap=True)
    found = [_look(models, row) for row in rows]
    rejects = [row for row in found if isinstance(row, Reject)]
    usable = [row for row in found if isinstance(row, _Prompts)]
    for reject in rejects:
        out.print(f"reject: {reject.file}:{reject.line}: {reject.reason}")
    for role, (name, source) in enumerate(zip(models.names, models.sources, strict=True)):
        out.rule(f"{name}: {source.config.model}")
        for prompts in usable[:_SHOWN]:
            ids = prompts.ids[role]
            out.print(f"{prompts.id}:")
            out.print(source.chat.reference.decode(ids))
            out.print(f"{len(ids)} ids: {ids}")
        out.print(f"sampling: {source.config.sampling}")
    out.rule("plan")
    problems = sum(isinstance(row, Problem) for row in rows)
    out.print(f"{problems} problems x {config.samples} samples, {config.engine.batch} slots; {models.plan}")
    out.rule("memory, GiB over all devices")
    total = 0.0
    for part in parts(models):
        memory = part.memory(config.engine, config.mesh)
        out.print(f"{part.name + ' weights':<28}{memory.weights / GIB:8.2f}")
        out.print(f"{part.name + ' cache':<28}{memory.cache / GIB:8.2f}")
        total += memory.weights / GIB + memory.cache / GIB
    out.print(f"{'sum, without temporaries':<28}{total:8.2f}")
    return bool(rejects)


class _Prompts(NamedTuple):
    """The prompts of a row that can be done, in the tokens of each model."""

    id: str
    ids: list[list[int]]


def _look(models: Writers, row: Problem | Reject) -> _Prompts | Reject:
    """What an engine makes of a row: its prompts, or why it rejects it."""
    if isinstance(row, Reject):
        return row
    try:
        ids = [prompt_ids(source.chat, source.config.prompt.system, row.messages) for source in models.sources]
    except Exception as error:
        reason: str | None = why(error)
    else:
        reason = too_long([len(each) for each in ids], models.rooms, models.names)
    return _Prompts(row.id, ids) if reason is None else Reject(row.id, row.file, row.line, reason, "")


class Memory(NamedTuple):
    """Bytes over all devices."""

    weights: int
    cache: int


class Part(NamedTuple):
    """A model that the engine would hold.

    Attributes:
        name: for people.
        shapes: its architecture.
        cache: dtype of keys and values; None: the engine's.
        mask: what its tokens see, where the architecture does not say.
    """

    name: str
    shapes: DecoderConfig
    cache: str | None = None
    mask: Mask | None = None

    def memory(self, engine: EngineConfig, mesh: MeshConfig) -> Memory:
        """Its weights, and a cache with all pages or, without pages, of full rows."""
        laid_out = AbstractMesh(shape_of(mesh), AXES, axis_types=(AxisType.Explicit,) * len(AXES))
        sizes, dtype, pool = (engine.batch, engine.context, slack(engine)), self.cache or engine.dtype, None
        if self.mask is None:
            pool = pool_of(engine, laid_out)
        empty = partial(init_cache, self.shapes, *sizes, dtype, mask=self.mask, pool=pool, mesh=laid_out)
        cache = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(jax.eval_shape(empty)))
        return Memory(parameter_bytes(self.shapes, engine.dtype), cache)


def parts(models: Writers) -> Iterator[Part]:
    """All models that are to be held."""
    for name, source in zip(models.names, models.sources, strict=True):
        yield Part(name, source.shapes, cache=source.config.cache)
    for title, own in models.predictor_models.items():
        yield Part(title, read_config(own.folder), mask=own.mask)
