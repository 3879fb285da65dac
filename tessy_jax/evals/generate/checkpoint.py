"""Responses of a model on our engine, with continuous batching over all benchmarks."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from tessy_jax.config.evaluate import CheckpointConfig
from tessy_jax.config.sections import Budgets
from tessy_jax.data import records
from tessy_jax.devices import compilation_cache
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import ModelSource, prompt_ids
from tessy_jax.engine.rows import Job
from tessy_jax.engine.sizes import pool_of, prompt_room
from tessy_jax.engine.solo import DirectChat, answer_job, solo_engine
from tessy_jax.evals.generate.base import Group, Groups, Refused, Request, Written
from tessy_jax.evals.records import Finish, Problem, Response
from tessy_jax.text.chat import Chat

_CUT = ("length", "loop")
"""Why the engine, and not the model, ended the thinking."""


class Checkpoint:
    """A model of a checkpoint folder. One that thinks is prompted as `synthesize` prompts the student."""

    def __init__(self, config: CheckpointConfig, source: ModelSource, seed: int):
        """Use `open`."""
        self.name = source.folder.name
        self._config, self._source, self._seed = config, source, seed

    @classmethod
    def open(cls, config: CheckpointConfig, seed: int) -> "Checkpoint":
        """Reads what is small, as `ModelSource.open` does; raises what it raises. `write` loads the weights."""
        pool_of(config.engine, make_mesh(config.mesh, config.engine.batch))
        prompt_room(_budgets(config), config.engine, config.budgets.k)
        chat = DirectChat if config.thinking is None else Chat
        return cls(config, ModelSource.open(config.role, "model.model", chat), seed)

    def identity(self) -> dict[str, Any]:
        config, engine = self._config, self._config.engine
        budgets = config.budgets.model_dump(mode="json", exclude={"k"})
        thinks = {"thinking": config.thinking is not None}
        return self._source.identity() | thinks | {"budgets": budgets, "dtype": engine.dtype, "context": engine.context}

    def preview(self, problem: Problem) -> str:
        ids = prompt_ids(self._source.chat, self._config.prompt.system, problem.messages)
        return f"{self._source.chat.reference.decode(ids)}\n{len(ids)} ids: {ids}"

    def write(self, requests: Iterator[Request]) -> Groups:
        engine = self.load()
        asked: dict[tuple[str, int], Request] = {}

        def job(request: Request) -> Job:
            asked[request.id, request.sample_index] = request
            problem = records.Problem(id=request.id, messages=request.problem.messages)
            if request.begun is None and self._config.thinking is None:
                return answer_job(engine.models[0], problem, request.sample_index)
            return Job(problem, request.sample_index, request.begun)

        for dispatch in engine.run(map(job, requests)):
            done = [(asked.pop((record.problem.id, record.sample_index)), record) for record in dispatch.finished]
            failed = [(asked.pop((one.problem.id, one.sample_index)), reason) for one, reason in dispatch.rejected]
            yield Group(
                written=[Written(request, _response(request, record)) for request, record in done],
                refused=[Refused(request, reason) for request, reason in failed],
                active=dispatch.active,
                in_flight=len(dispatch.active),
            )

    def load(self) -> Engine:
        """Loads the weights onto the mesh and builds the engine.

        Raises:
            WeightsError, ShardingError: with the file and what to do. ConfigError: the budgets fill the context.
        """
        config = self._config
        compilation_cache.use(config.engine)
        mesh = make_mesh(config.mesh, config.engine.batch)
        model = self._source.load(mesh, jnp.dtype(config.engine.dtype))
        return solo_engine(model, _budgets(config), config.budgets.k, config.engine, self._seed, mesh)


def _budgets(config: CheckpointConfig) -> Budgets:
    limits = config.budgets
    think = limits.max_think_tokens if config.thinking is not None else 1  # no token of it is ever written
    return Budgets(max_think_tokens=think, max_answer_tokens=limits.max_answer_tokens, loop=limits.loop)


def _response(request: Request, record: records.Record) -> Response:
    answers = [span.start for span in record.spans if span.phase == "answer"]
    cut = record.finish.think in _CUT
    finish: Finish = "truncated_thinking" if cut else "length" if record.finish.answer == "length" else "stop"
    counts = record.n_tokens
    return Response(
        problem_id=request.problem.id,
        sample_index=request.sample_index,
        response=record.content,
        finish=finish,
        n_tokens=counts.student + counts.answer,
        seed=record.seed,
        answer_start=min(answers, default=len(record.content)),
    )
