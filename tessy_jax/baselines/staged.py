"""Methods in several steps: what is written first lies in folders of the run directory and resumes as any run does.

OUTPUT/reference/     teacher_reference: the teacher's answers
OUTPUT/candidates/    teacher_score: what the student wrote
OUTPUT/scores/        teacher_score: what the teacher thinks of it
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from tessy_jax.baselines.seated import Seated, shared_identity, student_only, teacher_only
from tessy_jax.baselines.stored import StoredRun
from tessy_jax.config.methods import BaselineConfig, TeacherReferenceConfig, TeacherScoreConfig
from tessy_jax.cooperate.turn import WorkCount
from tessy_jax.data.inputs import Reject
from tessy_jax.data.records import Message, Problem, Record
from tessy_jax.devices.processes import anywhere
from tessy_jax.engine.engine import Dispatch
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.engine.rows import NAMES, Job
from tessy_jax.engine.sizes import PromptRoom
from tessy_jax.engine.writers import JobRunner, Stage, WithoutPredictors
from tessy_jax.errors import ConfigError

_CHUNK = 64
"""Records that are chosen at a time."""
_FIELDS = {"score", "scores"}
"""Of a record, for the best score and that of each candidate."""
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_SCORE = re.compile(rf"score\W{{1,5}}({_NUMBER})", re.IGNORECASE)


@dataclass(frozen=True)
class Staged(WithoutPredictors):
    """A method that the student and the teacher do in turn, one model loaded at a time.

    Attributes:
        parts: the student alone and the teacher alone.
        first: what is written first.
        who: what each of them writes, for the user.
        keys: of the configuration, on which records depend besides.
        open: what writes the records, when the stages are done.
    """

    config: BaselineConfig
    parts: tuple[Seated, Seated]
    first: tuple[Stage, ...]
    who: str
    keys: frozenset[str]
    open: Callable[[Mesh | None], JobRunner]

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """Of both."""
        return tuple(source for part in self.parts for source in part.sources)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return NAMES

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is written first, in order."""
        return self.first

    @property
    def plan(self) -> str:
        """What decides a trace, for the user."""
        return f"method {self.config.method}: {self.who}, one model loaded at a time; {self.config.cooperation}"

    @property
    def rooms(self) -> list[PromptRoom]:
        """The room for each prompt; raises ConfigError where there is none."""
        return [part.rooms[0] for part in self.parts]

    def identity(self) -> dict[str, Any]:
        """What the records depend on, for the manifest."""
        values = shared_identity(self.config) | self.config.model_dump(mode="json", include=set(self.keys))
        for part in self.parts:
            values |= part.models_identity()
        return values

    def load(self, mesh: Mesh | None = None) -> JobRunner:
        """Loads what writes the records."""
        return self.open(mesh)


def _within(config: BaselineConfig, folder: str, samples: int) -> Any:
    """The configuration of a stage."""
    return config.model_copy(update={"output": config.output / folder, "samples": samples})


def _filled(template: str, texts: dict[str, str]) -> str:
    """The template with `{name}` replaced, all at once: what is put in may hold braces."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in texts), lambda found: texts[found[0][1:-1]], template)


def _question(messages: Sequence[Message]) -> str:
    return str(messages[-1]["content"])


# -- Teacher-Reference -------------------------------------------------------------------------------------------------


def teacher_reference(config: TeacherReferenceConfig) -> Staged:
    """The teacher answers; the student thinks and answers with that answer in its prompt."""
    student, teacher = student_only(config), teacher_only(config)
    first = dataclasses.replace(teacher, config=_within(config, "reference", 1))

    def open_(mesh: Mesh | None) -> JobRunner:
        return WithReference(StoredRun.open(config.output / "reference"), config.reference_template, student.load(mesh))

    return Staged(
        config,
        (student, teacher),
        (Stage("reference", first, lambda rows: rows),),
        "first the teacher thinks and answers each problem once, then the student, given that answer",
        frozenset({"reference_template"}),
        open_,
    )


@dataclass(frozen=True)
class WithReference:
    """Gives the student the teacher's answer. The record has the prompt without it."""

    references: StoredRun
    template: str
    student: JobRunner

    def run(self, jobs: Iterator[Job]) -> Iterator[Dispatch]:
        """Runs all `jobs`; those without an answer of the teacher are rejected, last of all."""
        given: dict[str, Problem] = {}
        refused: list[tuple[Job, str]] = []

        def helped() -> Iterator[Job]:
            for job in jobs:
                record = self.references.read(job.problem.id, 0)
                if record is None:
                    why = self.references.reason(job.problem.id, 0)
                    refused.append((job, f"the teacher wrote no reference answer: {why}"))
                    continue
                given[job.problem.id] = job.problem
                yield dataclasses.replace(job, problem=self._help(job.problem, record))

        for dispatch in self.student.run(helped()):
            finished = [dataclasses.replace(one, problem=given[one.problem.id]) for one in dispatch.finished]
            yield dataclasses.replace(dispatch, finished=finished)
        if anywhere(bool(refused)):
            yield _without_work([], refused)

    def _help(self, problem: Problem, reference: Record) -> Problem:
        question = problem.messages[-1]
        texts = {"problem": _question(problem.messages), "reference": reference.answer}
        content = _filled(self.template, texts)
        return dataclasses.replace(problem, messages=[*problem.messages[:-1], question | {"content": content}])


# -- Teacher-Score -----------------------------------------------------------------------------------------------------


def teacher_score(config: TeacherScoreConfig) -> Staged:
    """The student writes candidates, the teacher scores them, the best is kept."""
    if config.candidates > 1 and config.student.sampling.temperature == 0:
        raise ConfigError(
            "student.sampling.temperature: at 0 all candidates of method teacher_score are the same text: raise it, or "
            "set candidates to 1"
        )
    student, teacher = student_only(config), teacher_only(config)
    candidates = dataclasses.replace(student, config=_within(config, "candidates", config.candidates * config.samples))
    scores = dataclasses.replace(teacher, config=_within(config, "scores", 1))

    def tasks(rows: Sequence[Problem | Reject]) -> list[Problem | Reject]:
        written = StoredRun.open(config.output / "candidates")

        def task(problem: Problem, record: Record) -> Problem:
            texts = {"problem": _question(problem.messages), "response": record.content}
            question = {"role": "user", "content": _filled(config.score_template, texts)}
            return Problem(_task_id(record), [question], file=problem.file, line=problem.line)

        return [
            task(problem, record)
            for problem in _scorable(rows)
            for sample in range(config.candidates * config.samples)
            if (record := written.read(problem.id, sample)) is not None
        ]

    def open_(mesh: Mesh | None) -> JobRunner:
        written, judged = (StoredRun.open(stage.config.output) for stage in (candidates, scores))
        return Chooser(written, judged, config.candidates)

    return Staged(
        config,
        (student, teacher),
        (Stage("candidates", candidates, _scorable), Stage("scores", scores, tasks)),
        f"first the student writes {config.candidates} candidates, then the teacher scores each, and the best is kept",
        frozenset({"candidates", "score_template"}),
        open_,
    )


def _scorable(rows: Sequence[Problem | Reject]) -> list[Problem]:
    """Problems whose records have room for the scores."""
    return [row for row in rows if isinstance(row, Problem) and not _FIELDS & row.extra.keys()]


def _task_id(record: Record) -> str:
    return f"{record.problem.id}#{record.sample_index}"


def parse_score(reply: str) -> float | None:
    """The number of a reply: the last one behind the word "score", or the reply itself; None where there is none."""
    if found := _SCORE.findall(reply):
        return float(found[-1])
    return float(reply) if re.fullmatch(rf"\s*{_NUMBER}\s*", reply) else None


@dataclass(frozen=True)
class Chooser:
    """Keeps the best of `n` candidates, of equals the first; loads no model."""

    candidates: StoredRun
    scores: StoredRun
    n: int

    def run(self, jobs: Iterator[Job]) -> Iterator[Dispatch]:
        """Chooses for all `jobs`."""
        while anywhere(bool(chunk := list(itertools.islice(jobs, _CHUNK)))):
            outcomes = [(job, self._choose(job)) for job in chunk]
            finished = [found for _, found in outcomes if isinstance(found, Record)]
            yield _without_work(finished, [(job, found) for job, found in outcomes if isinstance(found, str)])

    def _choose(self, job: Job) -> Record | str:
        """The record, or why there is none."""
        if taken := sorted(_FIELDS & job.problem.extra.keys()):
            return f"the row has a field {taken[0]!r}, which method teacher_score writes: rename it"
        name, first = job.problem.id, self.n * job.sample_index
        scores: list[float | None] = []
        why = ""
        for sample in range(first, first + self.n):
            if self.candidates.has(name, sample):
                score, said = self._score(f"{name}#{sample}")
            else:
                score, said = None, f"the student wrote none: {self.candidates.reason(name, sample)}"
            scores.append(score)
            why = why or (said if score is None else "")
        known = [score for score in scores if score is not None]
        if not known:
            return f"none of {self.n} candidates has a score; the first: {why}"
        best = self.candidates.read(name, first + scores.index(max(known)))
        assert best is not None
        extra = job.problem.extra | {"score": max(known), "scores": scores}
        problem = dataclasses.replace(job.problem, extra=extra)
        return dataclasses.replace(best, problem=problem, sample_index=job.sample_index)

    def _score(self, task: str) -> tuple[float | None, str]:
        record = self.scores.read(task, 0)
        if record is None:
            return None, f"the teacher did not score it: {self.scores.reason(task, 0)}"
        reply = record.answer
        return parse_score(reply), f"the teacher's reply is no number: {reply.strip()[:80]!r}"


def _without_work(finished: list[Record], rejected: list[tuple[Job, str]]) -> Dispatch:
    """What no model had to do anything for."""
    none = (0, 0)
    return Dispatch(finished, rejected, [], WorkCount.filled(none), none, none, 0, 0, {})
