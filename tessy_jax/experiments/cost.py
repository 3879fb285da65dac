"""What an experiment would cost at most: `--dry-run`. No model is loaded; absent files are named."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tessy_jax.config.evaluate import CheckpointConfig, EvaluateConfig
from tessy_jax.config.schema import Config
from tessy_jax.config.sections import TraceRunConfig
from tessy_jax.config.sft import SftConfig
from tessy_jax.data.inputs import read_rows
from tessy_jax.data.records import Problem
from tessy_jax.errors import DONE, ERROR, UserError
from tessy_jax.evals.benchmark import open_benchmarks
from tessy_jax.experiments.marks import Marks
from tessy_jax.experiments.notes import notes_on
from tessy_jax.experiments.stages import Stage
from tessy_jax.models.hub import is_hub_id
from tessy_jax.storage.copies import state
from tessy_jax.storage.paths import StorageError, is_stored


@dataclass(frozen=True)
class Cost:
    """Of a stage, at most.

    Attributes:
        count: of records, steps or responses; None where a file that says so is absent.
        unit: which of these.
        tokens: that are generated and kept, or places that are trained on.
    """

    count: int | None
    unit: str
    tokens: int | None


@dataclass
class _Costs:
    """Looks at what stages read, each file once, and collects what is not there.

    Attributes:
        absent: what is wrong, in words, in the order in which it was met.
    """

    absent: dict[str, None] = field(default_factory=dict)
    _counts: dict[str, int | None] = field(default_factory=dict)

    def of(self, stage: Stage) -> Cost:
        config = stage.config
        if isinstance(config, TraceRunConfig):
            return self._traces(config)
        if isinstance(config, SftConfig):
            return self._training(config, stage)
        assert isinstance(config, EvaluateConfig)
        return self._responses(config)

    def _traces(self, config: TraceRunConfig) -> Cost:
        budgets = config.cooperation  # type: ignore[attr-defined]  # of every method
        longest, problems = budgets.max_think_tokens + budgets.max_answer_tokens, self._problems(config)
        if problems is None:
            return Cost(None, "records", None)
        return Cost(problems * config.samples, "records", config.texts(problems) * longest)

    def _problems(self, config: TraceRunConfig) -> int | None:
        def count() -> int:
            return sum(isinstance(row, Problem) for row in read_rows(config.input, config.columns, config.limit))

        return self._count(f"{config.input} {config.columns} {config.limit}", count)

    def _training(self, config: SftConfig, stage: Stage) -> Cost:
        [data] = stage.needs
        assert isinstance(data.config, TraceRunConfig)
        if (problems := self._problems(data.config)) is None:
            return Cost(None, "steps", None)
        records = problems * data.config.samples
        steps = config.epochs * math.ceil(records / config.batch.rows)  # an example a row: packing needs fewer
        steps = steps if config.max_steps is None else min(steps, config.max_steps)
        return Cost(steps, "steps", steps * config.batch.rows * config.data.length)

    def _responses(self, config: EvaluateConfig) -> Cost:
        assert isinstance(config.model, CheckpointConfig)
        counts = [
            self._count(str(section), partial(_count_responses, config.model_copy(update={"benchmarks": (section,)})))
            for section in config.benchmarks
        ]
        responses = None if None in counts else sum(count or 0 for count in counts)
        budgets = config.model.budgets
        thinking = budgets.max_think_tokens if config.model.thinking is not None else 0
        return Cost(responses, "responses", responses and responses * (thinking + budgets.max_answer_tokens))

    def _count(self, key: str, count: Callable[[], int]) -> int | None:
        """What `count` gives, once; None where a file is absent, which is noted."""
        if key not in self._counts:
            try:
                self._counts[key] = count()
            except UserError as error:
                self._counts[key] = None
                self.absent[str(error)] = None
        return self._counts[key]


def _count_responses(config: EvaluateConfig) -> int:
    return sum(len(each.problems) * each.runs for each in open_benchmarks(config))


def dry_run(stages: Sequence[Stage], marks: Marks) -> int:
    """Prints all stages, which are done, and what each would cost at most; returns the exit code.

    It is 1 where a file or model is not there: all of them are named.
    """
    out = Console(highlight=False, markup=False, soft_wrap=True)
    costs = _Costs()
    to_download = _look_for_models(stages, costs.absent)
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "state", "at most", "tokens at most"):
        table.add_column(column, justify="right" if column == "tokens at most" else "left", no_wrap=True)
    left: dict[str, list[int | None]] = {"synthesize": [], "sft": [], "evaluate": []}
    for stage in stages:
        cost, done = costs.of(stage), marks.is_done(stage)
        if not done:
            left[stage.command].append(cost.tokens)
        table.add_row(stage.name, "done" if done else "to do", f"{_shown(cost.count)} {cost.unit}", _shown(cost.tokens))
    out.print(table)
    out.rule("left, at most")
    totals = {
        command: _shown(None if None in tokens else sum(one or 0 for one in tokens)) for command, tokens in left.items()
    }
    out.print(f"synthesize: {totals['synthesize']} tokens to generate, and what is rolled back")
    out.print(f"sft: {totals['sft']} tokens to train on, padding included; fewer where several examples share a row")
    out.print(f"evaluate: {totals['evaluate']} tokens to generate")
    for line in (*notes_on(stages), *to_download):
        out.print(line)
    for line in costs.absent:
        out.print(f"error: {line}")
    return ERROR if costs.absent else DONE


def _shown(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _look_for_models(stages: Sequence[Stage], absent: dict[str, None]) -> list[str]:
    """What is said of models that are no folders here: of hub ids, which are not asked for, for that would download
    them; all others are added to `absent`.
    """
    to_download: dict[str, None] = {}
    for key, name in (found for stage in stages for found in _models(stage.config)):
        if is_stored(name):
            try:
                state(name)
            except StorageError as error:
                absent[f"{key}: {error}"] = None
            continue
        if Path(name).expanduser().exists():
            continue
        if is_hub_id(name):
            to_download[
                f"{key}: no folder '{name}' is here: as a hub id, the first stage that needs it downloads it"
            ] = None
        else:
            absent[f"{key}: there is no file or folder '{name}', and it is no hub id (owner/name) either"] = None
    return list(to_download)


def _models(config: Config) -> Iterator[tuple[str, str]]:
    """The models and tables that a configuration of synthesize names, with their keys; none in other configurations."""
    if not isinstance(config, TraceRunConfig):
        return
    unused = getattr(config, "unused", [])  # sections that the method has no use for
    values = {key: value for key, value in config.model_dump(mode="json").items() if key not in unused}
    for key in ("student", "teacher"):
        if isinstance(section := values.get(key), dict):
            yield f"{key}.model", section["model"]
    for key, section in (values.get("predictors") or {}).items():
        yield from ((f"predictors.{key}.{name}", section[name]) for name in ("model", "table") if name in section)
