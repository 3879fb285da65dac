"""The examples that a student is trained on, and those held out."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from tessy_jax.config.sections import MeshConfig
from tessy_jax.config.sft import SftConfig
from tessy_jax.data.fields import FieldCounts
from tessy_jax.data.jsonl import read_objects
from tessy_jax.storage.copies import local
from tessy_jax.text.chat import Chat
from tessy_jax.train.data.batches import Batches, Weights
from tessy_jax.train.data.corpus import Corpus, CorpusReport, Options
from tessy_jax.train.data.packing import BatchPlan, one_each, pack


@dataclass(frozen=True)
class SftData:
    """The batches of all steps, and those of an evaluation.

    Attributes:
        train: of the run.
        held_out: None where nothing is held out.
        reports: what became of the rows, of "train" and, where it is a source of its own, "held out".
    """

    train: Batches[Corpus]
    held_out: Batches[Corpus] | None
    reports: dict[str, CorpusReport]

    @classmethod
    def open(cls, config: SftConfig, chat: Chat, folder: Path) -> "SftData":
        """Reads the data, or what an earlier run made of it in `folder`, and plans all steps.

        Raises:
            InputError: a source cannot be read, or nothing to train on is left of it.
            RunDirError: what is in `folder` was made of other data.
        """
        data, rows = config.data, config.batch.rows
        options = Options(data.length, data.long, data.turns, config.prompt.system)
        corpus = Corpus.open(folder / "corpus", [local(source) for source in data.train], chat, options)
        reports = {"train": corpus.report}
        if isinstance(data.held_out, str):
            held_out = Corpus.open(folder / "held_out", [local(data.held_out)], chat, options)
            reports["held out"] = held_out.report
        else:
            corpus, held_out = corpus.split(data.held_out)
        corpus = corpus if data.limit is None else corpus.draw(data.limit, config.seed)
        arrange = pack if data.pack else one_each
        process = jax.process_index(), jax.process_count()
        weights = Weights(**data.weights.model_dump())
        plan = BatchPlan(
            *(corpus.lengths, data.length, rows),
            epochs=config.epochs,
            seed=config.seed,
            max_steps=config.max_steps,
            arrange=arrange,
        )
        train = Batches(corpus, plan, weights, accumulate=config.batch.accumulate, process=process)
        if not len(held_out):
            return cls(train, None, reports)
        needed = len(arrange(held_out.lengths, data.length, 0, 0))
        at_once = min(rows // config.batch.accumulate, _up(needed, _ways(config.mesh)))
        plan = BatchPlan(held_out.lengths, data.length, at_once, epochs=1, seed=0, arrange=arrange)
        return cls(train, Batches(held_out, plan, weights, process=process), reports)

    @property
    def rejected(self) -> int:
        """Rows that could not be used."""
        return sum(report.rejected for report in self.reports.values())

    def rejects(self) -> Iterator[str]:
        """Where each of them stands and why it could not be used, for people."""
        corpora = [self.train.corpus, *([] if self.held_out is None else [self.held_out.corpus])]
        for folder in dict.fromkeys(corpus.folder for corpus in corpora):
            for _, row in read_objects(folder / "rejects.jsonl"):
                if row is not None:
                    yield f"{row['file']}:{row['line']}: {row['reason']}"

    def summary(self) -> str:
        """Counts, for people: one line per source, and one for the plan."""
        lines = []
        for name, report in self.reports.items():
            left_out = {
                "truncated": report.truncated,
                "too long": report.dropped,
                "nothing to learn within the length": report.cut,
                "rejected": report.rejected,
            }
            parts = ", ".join(f"{part} {count:,}" for part, count in report.tokens.items() if count)
            counts = "".join(f", {count} {what}" for what, count in left_out.items() if count)
            lines.append(f"{name}: {report.rows} rows, {report.examples} examples{counts}; tokens: {parts}")
            if report.unread:
                lines.append(f"{name}: fields that nothing here reads: {FieldCounts(Counter(report.unread))}")
        plan, corpus = self.train.plan, self.train.corpus
        held_out = 0 if self.held_out is None else len(self.held_out.corpus)
        used = corpus.lengths.sum() / (plan.rows * plan.length * self.steps_per_epoch)
        lines.append(
            f"plan: {len(corpus)} examples to train on and {held_out} held out; {plan.steps} steps of {plan.rows} rows "
            f"of {plan.length} tokens, {self.steps_per_epoch} an epoch, {used:.0%} of the places used"
        )
        return "\n".join(lines)

    @property
    def steps_per_epoch(self) -> int:
        """Of the first epoch; packing makes others differ a little."""
        plan = self.train.plan
        return next((step for step in range(plan.steps) if plan.epoch(step)), plan.steps)


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _ways(mesh: MeshConfig) -> int:
    return math.lcm(mesh.data * mesh.fsdp, jax.process_count())
