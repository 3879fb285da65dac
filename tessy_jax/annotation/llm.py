"""A language model on our engine as an annotator."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from tessy_jax.annotation.annotator import Outcome, Outcomes, Refused, judge_reply
from tessy_jax.annotation.prompt import TASK_HASH, task
from tessy_jax.config.annotate import LlmConfig
from tessy_jax.config.sections import NO_THINKING, Budgets, RoleConfig
from tessy_jax.data.records import Problem
from tessy_jax.data.segments import Segment
from tessy_jax.devices import compilation_cache
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.engine.rows import Job
from tessy_jax.engine.sizes import pool_of
from tessy_jax.engine.solo import DirectChat, answer_job, solo_engine
from tessy_jax.text.chat import Chat

_K = 20
"""Tokens generated per turn; no reply depends on it."""


class Llm:
    """Asks the model about many segments at a time, which take turns in the engine's slots.

    A model that thinks is given an empty thinking, or room for one; any other model answers its plain prompt.
    """

    def __init__(self, config: LlmConfig, writer: ModelSource):
        """Use `open`."""
        self.name = f"llm:{writer.folder.name}"
        self._config, self._writer = config, writer

    @classmethod
    def open(cls, config: LlmConfig) -> "Llm":
        """Reads what is small, as `ModelSource.open` does; raises what it raises. `annotate` loads the weights."""
        pool_of(config.engine, make_mesh(config.mesh, config.engine.batch))
        role = RoleConfig(
            model=config.model,
            prompt=config.prompt,
            thinking=config.thinking or NO_THINKING,
            sampling=config.sampling,
        )
        return cls(config, ModelSource.open(role, "annotator.model", Chat if config.thinking else DirectChat))

    def identity(self) -> dict[str, Any]:
        values = self._config.model_dump(include={"max_think_tokens", "max_answer_tokens", "seed"})
        engine = self._config.engine
        return values | self._writer.identity() | {"dtype": engine.dtype, "context": engine.context, "task": TASK_HASH}

    def preview(self, segment: Segment) -> str:
        ids = self._writer.chat.prompt_ids(task(segment.text))
        return f"{self._writer.chat.reference.decode(ids)}\n{len(ids)} ids: {ids}"

    def annotate(self, segments: Iterator[Segment]) -> Outcomes:
        engine = self.load()
        asked: dict[str, Segment] = {}

        def job(segment: Segment) -> Job:
            problem = Problem(id=repr(segment.key), messages=task(segment.text))
            asked[problem.id] = segment
            return Job(problem, 0) if self._config.max_think_tokens else answer_job(engine.models[0], problem)

        for dispatch in engine.run(map(job, segments)):
            outcomes: list[Outcome] = []
            for record in dispatch.finished:
                outcomes.append(judge_reply(asked.pop(record.problem.id), record.answer))
            for failed, reason in dispatch.rejected:
                outcomes.append(Refused(asked.pop(failed.problem.id), reason))
            yield outcomes

    def load(self) -> Engine:
        """Loads the weights onto the mesh and builds the engine.

        Raises:
            WeightsError, ShardingError: with the file and what to do. ConfigError: a reply alone fills the context.
        """
        config = self._config
        compilation_cache.use(config.engine)
        mesh = make_mesh(config.mesh, config.engine.batch)
        model = self._writer.load(mesh, jnp.dtype(config.engine.dtype))
        budgets = Budgets(max_think_tokens=max(1, config.max_think_tokens), max_answer_tokens=config.max_answer_tokens)
        return solo_engine(model, budgets, _K, config.engine, config.seed, mesh)
