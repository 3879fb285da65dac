"""The stages of an experiment: ordinary runs of ordinary commands, each in a folder of its own.

    OUTPUT/<arm>/seed-<n>/synthesize    of an arm with a method
    OUTPUT/<arm>/seed-<n>/sft           on its data, or on those of the arm that it names
    OUTPUT/<arm>/seed-<n>/evaluate      of the student that sft exports
    OUTPUT/base/seed-<n>/evaluate       of the student before training; one seed where it is greedy

A stage is `python -m tessy_jax.<command> <words>`: whoever types the same gets the same run.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from tessy_jax.config.evaluate import CheckpointConfig, EvaluateConfig
from tessy_jax.config.experiment import BASE, ExperimentConfig
from tessy_jax.config.methods import METHODS
from tessy_jax.config.schema import Config, Variants, load_as, read_yaml
from tessy_jax.config.sft import SftConfig
from tessy_jax.data.hashing import hash_file, hash_text
from tessy_jax.errors import ConfigError
from tessy_jax.storage.copies import state
from tessy_jax.storage.paths import StorePath, as_path, is_stored
from tessy_jax.storage.spool import work_folder

Command = Literal["synthesize", "sft", "evaluate"]

_SET = {"synthesize": ("method", "seed", "output"), "sft": ("model", "data.train", "seed", "output")}
"""Keys that the experiment gives a value, so that an arm cannot."""
_ELSEWHERE = frozenset({"output", "compilation_cache"})
"""Keys whose files a stage writes: what is there decides nothing."""


@dataclass(frozen=True)
class Stage:
    """One run of one command.

    Attributes:
        arm: or "base".
        words: what stands behind `python -m tessy_jax.<command>`.
        config: what these words mean.
        folder: its run directory.
        needs: what must be done before.
        root: the experiment's folder.
    """

    arm: str
    seed: int
    command: Command
    words: tuple[str, ...]
    config: Config
    folder: Path
    root: Path
    needs: tuple["Stage", ...] = ()

    @property
    def name(self) -> str:
        return f"{self.arm}/seed-{self.seed}/{self.command}"

    @property
    def typed(self) -> str:
        """The command as a user would type it."""
        return shlex.join(["python", "-m", f"tessy_jax.{self.command}", *self.words])

    @property
    def log_name(self) -> str:
        """The name in the experiment's folder of what its process prints."""
        return f"{self.name}.log"

    @property
    def log(self) -> Path:
        """What its process prints, on this machine."""
        root = work_folder(self.root) if isinstance(self.root, StorePath) else self.root
        return root / self.log_name

    @cached_property
    def hash(self) -> str:
        """Of what its result depends on, as far as this machine shows it: configuration, files, the stages before.

        The experiment's own folder is not in it: it may be moved.
        """
        values = self.config.model_dump(mode="json")
        files = {path: _hash_path(path) for path in _paths(values) if not as_path(path).is_relative_to(self.root)}
        text = json.dumps([self.command, values, files, [stage.hash for stage in self.needs]], sort_keys=True)
        return hash_text(text.replace(json.dumps(str(self.root))[1:-1], "OUTPUT"))


def _paths(value: Any) -> Iterator[str]:
    """The texts in a configuration that name a file or folder which is there, or is on a store."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in _ELSEWHERE:
                yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)
    elif isinstance(value, str) and (is_stored(value) or _is_there(value)):
        yield value


def _is_there(text: str) -> bool:
    return bool(text) and len(text) < 1000 and "\n" not in text and Path(text).exists()


def _hash_path(path: str) -> str:
    """Of a file, whole; of a folder, which may be a model of hundreds of gigabytes, names and lengths; of what is on a
    store, its state there.
    """
    if is_stored(path):
        return state(path)
    place = Path(path)
    if place.is_file():
        return _hash_file(place, place.stat().st_mtime_ns)
    files = sorted(file for file in place.rglob("*") if file.is_file())
    return hash_text("\n".join(f"{file.relative_to(place)} {file.stat().st_size}" for file in files))


@cache
def _hash_file(path: Path, changed: int) -> str:
    """Of all stages that name a file, the first reads it."""
    return hash_file(path)


def plan_stages(config: ExperimentConfig) -> list[Stage]:
    """All stages, each after those that it needs; the first seed of every arm comes before the second of any.

    Raises:
        ConfigError: a configuration, or an override of an arm, is wrong; every problem of every stage is named.
    """
    return _Planner(config).plan()


class _Planner:
    """Makes the stages of one experiment, and collects what is wrong with their configurations."""

    def __init__(self, config: ExperimentConfig):
        self._config = config
        self._root = config.output
        self._problems: dict[str, None] = {}
        self._evaluates = True
        self._students: dict[str, str] = {}  # arm -> the student that it trains

    def plan(self) -> list[Stage]:
        config = self._config
        self._check_overrides()
        self._check_evaluated()
        stages: list[Stage] = []
        for seed in config.seeds:
            written = {arm: self._synthesize(arm, seed) for arm in config.arms if config.arms[arm].data is None}
            self._check_student()
            stages += self._base(seed)
            for arm in config.arms:
                data = written[config.source(arm)]
                own = [data] if data is not None and data.arm == arm else []
                stages += [*own, *self._train(arm, seed, data)]
        if self._problems:
            raise ConfigError("\n".join(self._problems))
        return stages

    # -- the stages of a seed ------------------------------------------------------------------------------------------

    def _synthesize(self, arm: str, seed: int) -> Stage | None:
        own = self._config.arms[arm]
        stage = self._stage(
            *(arm, seed, "synthesize", METHODS, self._config.synthesize, own.synthesize),
            {"method": own.method, "seed": seed},
        )
        if stage is not None:
            self._students[arm] = stage.config.student.model  # type: ignore[attr-defined]
        return stage

    def _train(self, arm: str, seed: int, data: Stage | None) -> Iterator[Stage]:
        """Training on the data, and the evaluation of what comes of it. What cannot be checked without the data's
        configuration, where that is wrong, is checked as far as it goes.
        """
        source = self._config.source(arm)
        folder = data.folder if data is not None else self._folder(source, seed, "synthesize")
        student = self._students.get(source, "student")
        sft = self._stage(
            *(arm, seed, "sft", SftConfig, self._config.sft, self._config.arms[arm].sft),
            {"model": student, "data.train": [str(folder)], "seed": seed},
            needs=data,
        )
        if sft is not None:
            yield sft
            yield from self._evaluate(arm, seed, str(sft.folder / "export"), sft)

    def _base(self, seed: int) -> Iterator[Stage]:
        if not self._students:
            return
        for stage in self._evaluate(BASE, seed, next(iter(self._students.values())), None):
            config = stage.config
            assert isinstance(config, EvaluateConfig)
            assert isinstance(config.model, CheckpointConfig)
            if seed == self._config.seeds[0] or config.model.sampling.temperature > 0:
                yield stage

    def _evaluate(self, arm: str, seed: int, model: str, needs: Stage | None) -> Iterator[Stage]:
        if self._config.evaluate is not None and self._evaluates:
            values = {"model.kind": "checkpoint", "model.model": model, "seed": seed}
            stage = self._stage(arm, seed, "evaluate", EvaluateConfig, self._config.evaluate, (), values, needs=needs)
            if stage is not None:
                yield stage

    def _stage(
        self,
        arm: str,
        seed: int,
        command: Command,
        schema: type[Config] | Variants[Any],
        file: str,
        own: Sequence[str],
        values: dict[str, Any],
        *,
        needs: Stage | None = None,
    ) -> Stage | None:
        """A stage with its configuration; None, and its problems are noted, where that is wrong.

        Args:
            own: the arm's overrides.
            values: those of the experiment, by key.
        """
        folder = self._folder(arm, seed, command)
        given = [*own, *(f"{key}={json.dumps(value)}" for key, value in values.items())]
        try:
            config = load_as(schema, file, [*given, f"output={json.dumps(str(folder))}"])
        except ConfigError as error:
            for line in str(error).splitlines():
                of_arm = any(f"override '{override}'" in line for override in own)
                self._problems[f"arms.{arm}.{command}: {line}" if of_arm else line] = None
            return None
        words = (file, *given, "--output", str(folder))
        return Stage(arm, seed, command, words, config, folder, self._root, () if needs is None else (needs,))

    def _folder(self, arm: str, seed: int, command: Command) -> Path:
        return self._root / arm / f"seed-{seed}" / command

    # -- what no configuration alone can say ---------------------------------------------------------------------------

    def _check_overrides(self) -> None:
        for name, arm in self._config.arms.items():
            for command, overrides in (("synthesize", arm.synthesize), ("sft", arm.sft)):
                for override in overrides:
                    key = override.partition("=")[0]
                    if any(key == own or key.startswith(f"{own}.") for own in _SET[command]):
                        self._problems[
                            f"arms.{name}.{command}: '{key}' in override '{override}' is set by the experiment: leave "
                            "it out"
                        ] = None

    def _check_evaluated(self) -> None:
        """Notes where the models that are to be evaluated would not be checkpoints."""
        if (file := self._config.evaluate) is None:
            return
        section = read_yaml(as_path(file)).get("model")
        kind = section.get("kind", "checkpoint") if isinstance(section, dict) else "checkpoint"
        if kind != "checkpoint":
            self._evaluates = False
            self._problems[
                f"'model.kind' in {file} should be checkpoint, got {kind!r}: an experiment evaluates the students that "
                "it trains"
            ] = None

    def _check_student(self) -> None:
        (first, model), *others = self._students.items() or [("", "")]
        for arm, other in others:
            if other != model:
                self._problems[
                    f"arms.{arm}: its student is {other}, that of {first} is {model}; an experiment has one student, "
                    "with which all arms are compared before training"
                ] = None
