"""What `select` runs: records that the rules keep go on into a run directory, the rest to its rejects with the reason.

    OUTPUT/data/  OUTPUT/rejects.jsonl     as any run of records: `sft` takes it
    OUTPUT/judged/<benchmark>/             what the judge says, where answers must be right

The records are read twice: first what is needed for a decision, then the rows themselves.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rich.console import Console

from tessy_jax.config.evaluate import EvaluateConfig
from tessy_jax.config.schema import to_yaml
from tessy_jax.config.select import SelectConfig
from tessy_jax.console.messages import log_to, say
from tessy_jax.data.hashing import hash_file
from tessy_jax.data.inputs import Reject, read_record, row_object
from tessy_jax.data.records import Record
from tessy_jax.data.run_folder import make_manifest
from tessy_jax.data.run_rows import RunDir
from tessy_jax.data.sources import BadRow, RawRow, data_path, files, rows
from tessy_jax.errors import DONE, REJECTS, ConfigError, UserError
from tessy_jax.evals.benchmark import Benchmark, open_benchmarks
from tessy_jax.evals.folders import open_responses, read_judgements
from tessy_jax.evals.judging import judge
from tessy_jax.evals.records import Finish, Response
from tessy_jax.evals.run import try_judges
from tessy_jax.storage.copies import local

Key = tuple[str, int]
"""Id and sample."""


class SelectError(UserError, ValueError):
    """The records cannot be selected; the message is meant for the user."""


class Found(NamedTuple):
    """A row of the input: its record, or why it holds none."""

    row: RawRow
    record: Record | Reject


@dataclass
class Candidate:
    """What is known of a record.

    Attributes:
        tokens: of thinking and answer.
        score: of its field; None: it has none.
        reason: why it is not kept; None while nothing speaks against it.
    """

    key: Key
    tokens: int
    score: float | None
    reason: str | None = None


def select(config: SelectConfig, options: argparse.Namespace, console: Console) -> int:
    """Selects, and returns the exit code: `REJECTS` where a row of the input is no record.

    Args:
        config: of the command.
        options: of the command: dry_run, overwrite.
        console: for messages.

    Raises:
        UserError: one of many kinds; the text says what was wrong and what to do.
    """
    if not config.input:
        raise ConfigError("input: name the runs whose records are to be selected: python -m tessy_jax.select RUN …")
    candidates, bad = _look(config)
    benchmark = _benchmark(config, candidates)
    if options.dry_run:
        _dry_run(config, candidates, bad, benchmark)
        return REJECTS if bad else DONE
    with _open_run(config, options.overwrite) as run, log_to(run.log_path):
        if benchmark is not None:
            code = _judge(config, benchmark, candidates, options.overwrite, console)
            if code != DONE:
                return code
        _keep_n(config, candidates.values())
        _write(config, run, candidates)
        kept = sum(one.reason is None for one in candidates.values())
        say(console, f"{kept} of {len(candidates)} records kept, {bad} rows are no records; records in {run.name}/data")
        for line in _reasons(candidates):
            say(console, line)
    return REJECTS if bad else DONE


# -- what there is -----------------------------------------------------------------------------------------------------


def _read(config: SelectConfig) -> Iterator[Found]:
    for place in config.input:
        for row in rows(data_path(local(place))):
            try:
                record = read_record(row_object(row))
            except BadRow as error:
                yield Found(row, Reject.of(row, None, str(error)))
                continue
            yield Found(row, record or Reject.of(row, None, "no record of synthesize or sample"))


def _look(config: SelectConfig) -> tuple[dict[Key, Candidate], int]:
    """The records by key, judged by the rules that need no other record, and how many rows are no record.

    Raises:
        SelectError: two have one key.
    """
    found: dict[Key, Candidate] = {}
    bad = 0
    for row, record in _read(config):
        if isinstance(record, Reject):
            bad += 1
            continue
        one = _candidate(config, record)
        if one.key in found:
            raise SelectError(
                f"{row.file}:{row.line}: id {one.key[0]!r}, sample {one.key[1]} stands in the input twice: "
                "select from runs of one problem apart from each other"
            )
        one.reason = next((reason for rule in RULES if (reason := rule(config, record, one))), None)
        found[one.key] = one
    return found, bad


def _candidate(config: SelectConfig, record: Record) -> Candidate:
    counts, score = record.n_tokens, record.problem.extra.get(config.score.field)
    number = float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None
    return Candidate((record.problem.id, record.sample_index), counts.student + counts.teacher + counts.answer, number)


# -- rules -------------------------------------------------------------------------------------------------------------


def _finish(config: SelectConfig, record: Record, _: Candidate) -> str | None:
    for phase in ("think", "answer"):
        wanted, found = getattr(config.finish, phase), getattr(record.finish, phase)
        if wanted is not None and found not in wanted:
            return f"finish.{phase}: is {found}, not {' or '.join(wanted)}"
    return None


def _tokens(config: SelectConfig, _: Record, one: Candidate) -> str | None:
    least, most = config.tokens.min or 0, config.tokens.max
    if one.tokens < least:
        return f"tokens: {one.tokens} are fewer than {least}"
    return f"tokens: {one.tokens} are more than {most}" if most is not None and one.tokens > most else None


def _score(config: SelectConfig, record: Record, one: Candidate) -> str | None:
    rule = config.score
    if one.score is None:
        needed = rule.min is not None or config.prefer == "score"
        holds = f"holds no number but {record.problem.extra.get(rule.field)!r}"
        return f"score: field '{rule.field}' {holds}" if needed else None
    return None if rule.min is None or one.score >= rule.min else f"score: {one.score} is less than {rule.min}"


RULES: tuple[Callable[[SelectConfig, Record, Candidate], str | None], ...] = (_finish, _tokens, _score)
"""Each says why a record is not kept, "rule: reason", or None."""


def _keep_n(config: SelectConfig, candidates: Iterable[Candidate]) -> None:
    """Of each problem's records that are left, the first `n` in the order that is preferred."""
    order: dict[str, Callable[[Candidate], float]] = {
        "first": lambda one: one.key[1],
        "shortest": lambda one: one.tokens,
        "score": lambda one: -(one.score or 0.0),
    }
    problems: dict[str, list[Candidate]] = defaultdict(list)
    for one in candidates:
        if one.reason is None:
            problems[one.key[0]].append(one)
    for left in problems.values():
        left.sort(key=lambda one: (order[config.prefer](one), one.key[1]))
        for one in left[config.n :] if config.n else ():
            one.reason = f"n: {config.n} of this problem's {len(left)} records are kept, by {config.prefer}"


def _reasons(candidates: dict[Key, Candidate]) -> list[str]:
    """How many records each rule takes out, the most first, as lines of text."""
    rules = Counter(one.reason.partition(":")[0] for one in candidates.values() if one.reason)
    return [f"{count:>8}  {rule}" for rule, count in rules.most_common()]


# -- right answers -----------------------------------------------------------------------------------------------------


def _benchmark(config: SelectConfig, candidates: dict[Key, Candidate]) -> Benchmark | None:
    """The benchmark that knows right answers. Records of other problems are not kept."""
    if config.correct is None:
        return None
    runs = 1 + max((sample for _, sample in candidates), default=0)
    [benchmark] = open_benchmarks(_evaluation(config, runs))
    for one in candidates.values():
        if one.reason is None and one.key[0] not in benchmark.by_id:
            one.reason = f"correct: {config.correct.path} has no problem {one.key[0]!r}"
    return benchmark


def _evaluation(config: SelectConfig, runs: int) -> EvaluateConfig:
    """The evaluation that would judge these records."""
    assert config.correct is not None
    values: dict[str, Any] = {
        "model": {"kind": "responses", "path": config.input[0], "model": "records"},
        "benchmarks": [config.correct.model_copy(update={"runs": runs})],
        "judge": config.judge,
        "output": config.output / "judged",
    }
    return EvaluateConfig.model_validate(values)


def _judge(
    config: SelectConfig, benchmark: Benchmark, candidates: dict[Key, Candidate], overwrite: bool, console: Console
) -> int:
    """Judges what the other rules keep, going on from what is judged already; returns the exit code."""
    evaluation = _evaluation(config, benchmark.runs)
    with open_responses(evaluation, benchmark.folder, {"input": _hashes(config)}, overwrite) as run:
        for _, record in _read(config):
            if isinstance(record, Record) and candidates[record.problem.id, record.sample_index].reason is None:
                run.append(asdict(_response(record)))
    code = judge(evaluation, [benchmark], overwrite, console)
    if code != DONE:
        return code
    verdicts = {one.key: one for one in read_judgements(evaluation, benchmark.folder)}
    for key, one in candidates.items():
        if one.reason is not None or ((found := verdicts.get(key)) and found.passed):
            continue
        one.reason = "correct: the judge failed on it"
        if found is not None:
            one.reason = f"correct: {found.verdict.name.lower().replace('_', ' ')}"
    return DONE


def _response(record: Record) -> Response:
    answers = [span.start for span in record.spans if span.phase == "answer"]
    cut = record.finish.think in ("length", "loop")
    finish: Finish = "truncated_thinking" if cut else "length" if record.finish.answer == "length" else "stop"
    return Response(
        record.problem.id,
        record.sample_index,
        record.content,
        finish=finish,
        answer_start=min(answers, default=len(record.content)),
    )


# -- what becomes of it ------------------------------------------------------------------------------------------------


def _open_run(config: SelectConfig, overwrite: bool) -> RunDir:
    rules = config.model_dump(mode="json", exclude={"output", "input"})
    del rules["judge"]["workers"]
    identity = {"select": rules, "input": _hashes(config)}
    return RunDir.open(
        config.output, config_yaml=to_yaml(config), manifest=make_manifest(identity, []), overwrite=overwrite
    )


def _hashes(config: SelectConfig) -> list[str]:
    """Of the records, in order."""
    return [hash_file(file) for place in config.input for file in files(data_path(local(place)))]


def _write(config: SelectConfig, run: RunDir, candidates: dict[Key, Candidate]) -> None:
    """Stores every record or its reject; what earlier commands stored is left as it is."""
    for row, record in _read(config):
        if isinstance(record, Reject):
            run.reject(record.to_row())
            continue
        key = record.problem.id, record.sample_index
        reason = candidates[key].reason
        if reason is None:
            run.append(row.value)
        else:
            place = {"file": row.file.name, "line": row.line, "reason": reason}
            run.reject({"id": key[0], "sample_index": key[1]} | place)


def _dry_run(config: SelectConfig, candidates: dict[Key, Candidate], bad: int, benchmark: Benchmark | None) -> None:
    if benchmark is not None:
        try_judges(_evaluation(config, benchmark.runs), [benchmark])
    out = Console(highlight=False, markup=False, soft_wrap=True)
    out.print(f"{len(candidates)} records, {bad} rows are no records")
    for line in _reasons(candidates):
        out.print(line)
    left = sum(one.reason is None for one in candidates.values())
    then = "" if config.n is None else f"; then at most {config.n} of a problem, by {config.prefer}"
    judged = "" if benchmark is None else f", whose answers would be judged against {benchmark.label}"
    out.print(f"{left} left{judged}{then}")
