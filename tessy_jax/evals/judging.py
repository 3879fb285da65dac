"""The second stage: every response to the judge of its benchmark, the verdicts into run directories."""

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from tessy_jax.config.evaluate import CheckpointConfig, EvaluateConfig, ModelConfig
from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import say, tell
from tessy_jax.console.progress import View, duration
from tessy_jax.data.run_rows import RunDir
from tessy_jax.errors import DONE, ERROR, INTERRUPTED
from tessy_jax.evals.answers import find_answer
from tessy_jax.evals.benchmark import Benchmark
from tessy_jax.evals.folders import open_judgements, read_refusals, read_responses
from tessy_jax.evals.judges.choice import IDENTITY as CHOICE
from tessy_jax.evals.judges.choice import judge_choice
from tessy_jax.evals.judges.code import CodeJudge, TargetError
from tessy_jax.evals.judges.light_cp_verifier import LightCPVerifier
from tessy_jax.evals.judges.math import MathJudge
from tessy_jax.evals.records import Judgement, Problem, Response, Verdict
from tessy_jax.evals.targets import ChoiceTarget, CodeTarget, MathTarget
from tessy_jax.evals.tasks.lcb_pro import LcbProTask
from tessy_jax.evals.tasks.rows import TaskError
from tessy_jax.text.thinking import Thinking

MAX_EXTRACTED = 20_000
"""Characters of an answer that a judgement keeps."""
SHOWN_ERRORS = 5


class Judges:
    """The judges of an evaluation; each is opened when it is first needed, or by `open`. For threads.

    Raises (when one is opened):
        SandboxError, MathJudgeError: it cannot work here; the message says why and what to do.
    """

    def __init__(self, config: EvaluateConfig, benchmarks: Sequence[Benchmark]):
        self.workers = config.judge.workers or os.cpu_count() or 1
        self._on_truncated, self._thinking = config.judge.on_truncated, thoughts(config.model)
        self._lock, self._local = threading.Lock(), threading.local()
        self._code: CodeJudge | None = None
        self._math: list[MathJudge] = []
        self._languages = sorted({language for each in benchmarks for language in each.languages})
        self._formulas = any(each.formulas for each in benchmarks)

    def __enter__(self) -> "Judges":
        return self

    def __exit__(self, *error: object) -> None:
        if self._code is not None:
            self._code.close()
        for judge in self._math:
            judge.close()

    def open(self) -> dict[str, str]:
        """Opens all that these benchmarks need, and returns the versions of what runs their programs, by language."""
        if self._formulas:
            self.math.start()
        return {language: tool.version for language, tool in self.code.tools.items()} if self._languages else {}

    @property
    def code(self) -> CodeJudge:
        with self._lock:
            if self._code is None:
                self._code = CodeJudge.open(self._languages, workers=self.workers)
            return self._code

    @property
    def math(self) -> MathJudge:
        """This thread's own."""
        if not hasattr(self._local, "math"):
            self._local.math = MathJudge()
            with self._lock:
                self._math.append(self._local.math)
        return self._local.math

    def judge(self, benchmark: Benchmark, problem: Problem, response: Response) -> Judgement:
        """The judgement of a response; JUDGE_ERROR where the judge itself failed."""
        key = (response.problem_id, response.sample_index)
        answer = find_answer(response, self._thinking, self._on_truncated)
        if answer is None:
            return Judgement(*key, Verdict.TRUNCATED, detail="the thinking never ended")
        extracted = benchmark.task.extract(problem, answer)
        if extracted is None:
            return Judgement(*key, Verdict.NO_ANSWER, detail="no answer was found in the response")
        found = self._judge(benchmark, problem, extracted)
        return Judgement(*key, extracted=extracted[:MAX_EXTRACTED], **found)

    def _judge(self, benchmark: Benchmark, problem: Problem, extracted: str) -> dict[str, Any]:
        """The fields of the judgement that the judge decides."""
        task = benchmark.task
        if isinstance(task, LcbProTask) and task.config.verifier is not None:
            client = LightCPVerifier(task.config.verifier)
            verdict = client.judge(problem.id, task.language(problem), extracted)
            return asdict(verdict) | {"judge": client.identity()}
        try:
            target = task.target(problem)
            if isinstance(target, CodeTarget):
                return asdict(self.code.judge(target, extracted)) | {"judge": self.code.identity(target)}
        except (TaskError, TargetError) as error:  # of one problem: the others go on
            return {"verdict": Verdict.JUDGE_ERROR, "detail": str(error)}
        if isinstance(target, MathTarget):
            return asdict(self.math.judge(target, extracted)) | {"judge": self.math.identity()}
        if isinstance(target, ChoiceTarget):
            return {"verdict": judge_choice(target, extracted), "judge": dict(CHOICE)}
        return {"verdict": Verdict.SKIPPED, "detail": "the benchmark does not judge this problem"}


def thoughts(model: ModelConfig) -> Thinking | None:
    """The marks of thinking in the text of a server or file; our engine says itself where the answer begins."""
    if isinstance(model, CheckpointConfig) or model.thoughts is None:
        return None
    return Thinking(model.thoughts.open, "", model.thoughts.marker, "")


@dataclass
class JudgingProgress:
    """Running totals over all benchmarks, those of earlier commands included."""

    total: int
    done: int
    resumed: int
    verdicts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def cells(self, _: float) -> dict[str, str]:
        """The panel's values."""
        seconds, new = max(time.monotonic() - self.started, 1e-9), self.done - self.resumed
        return {
            "judged": f"{self.done}/{self.total}",
            "verdicts": " ".join(f"{name} {count}" for name, count in self.verdicts.most_common()) or "-",
            "judge errors": str(len(self.errors)),
            "responses/s": f"{new / seconds:.1f}",
            "elapsed": duration(seconds),
            "eta": duration((self.total - self.done) * seconds / new) if new else "?",
        }


def judge(config: EvaluateConfig, benchmarks: Sequence[Benchmark], overwrite: bool, console: Console) -> int:
    """Judges every response that has no judgement, and returns the exit code.

    A failure of the judge itself is not stored: the same command tries such a response again.

    Raises:
        UserError: a judge cannot work here, or a benchmark's tests cannot be used.
    """
    with Judges(config, benchmarks) as judges:
        for each in benchmarks:
            code = _judge_benchmark(config, each, judges, overwrite, console)
            if code != DONE:
                return code
    return DONE


def _judge_benchmark(
    config: EvaluateConfig, benchmark: Benchmark, judges: Judges, overwrite: bool, console: Console
) -> int:
    identity = {"benchmark": benchmark.task.identity(), "on_truncated": config.judge.on_truncated}
    with open_judgements(config, benchmark.folder, identity, overwrite) as run:
        asked = benchmark.keys
        keys = {key for each in read_responses(config, benchmark.folder) if (key := each.key) in asked}
        for refusal in read_refusals(config, benchmark.folder):
            if refusal.key in asked:
                run.append(asdict(refusal))
        progress = JudgingProgress(total=len(keys), done=len(run.done & keys), resumed=len(run.done & keys))
        if progress.done == progress.total:
            tell(console, f"judge: {benchmark.label}: all {progress.total} responses are judged")
            return DONE
        tell(console, f"judge: {benchmark.label}: {progress.total - progress.done} of {progress.total} responses")
        left = (
            response
            for response in read_responses(config, benchmark.folder)
            if response.key in keys and response.key not in run.done
        )
        with Interrupt(console, "the programs that run") as stop, View("judge", progress.cells, console) as view:
            todo = itertools.takewhile(lambda _: not stop.asked, left)
            for judgement in _in_parallel(judges, benchmark, todo, view):
                _store(run, judgement, progress)
                run.keep()
                view.update()
    return _summarize(benchmark, progress, stop.asked, config, console)


def _in_parallel(
    judges: Judges, benchmark: Benchmark, responses: Iterator[Response], view: View
) -> Iterator[Judgement]:
    """The judgements as they come; at most two responses a worker are held."""
    running: set[Future[Judgement]] = set()
    with ThreadPoolExecutor(judges.workers) as pool:
        try:
            while True:
                for response in itertools.islice(responses, 2 * judges.workers - len(running)):
                    problem = benchmark.by_id[response.problem_id]
                    running.add(pool.submit(judges.judge, benchmark, problem, response))
                if not running:
                    return
                done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                view.update()
                for future in done:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


def _store(run: RunDir, judgement: Judgement, progress: JudgingProgress) -> None:
    if judgement.verdict is Verdict.JUDGE_ERROR:
        progress.errors.append(f"{judgement.problem_id}, sample {judgement.sample_index}: {judgement.detail}")
        return
    run.append(asdict(judgement))
    progress.done += 1
    progress.verdicts[judgement.verdict.value] += 1


def _summarize(
    benchmark: Benchmark, progress: JudgingProgress, stopped: bool, config: EvaluateConfig, console: Console
) -> int:
    """Says how far judging is; returns the exit code."""
    for error in progress.errors[:SHOWN_ERRORS]:
        tell(console, f"judge error: {error}")
    if progress.errors:
        tell(
            console,
            f"{benchmark.label}: {len(progress.errors)} responses could not be judged, which is not their fault: run "
            "the same command again, or score without them with judge.allow_judge_errors=true",
        )
        return DONE if config.judge.allow_judge_errors else ERROR
    if stopped and progress.done < progress.total:
        say(console, "stopped; the same command goes on from here")
        return INTERRUPTED
    return DONE
