"""The segments that a predictor is trained on, and those held out."""

from collections.abc import Iterator
from dataclasses import dataclass

from tessy_jax.config.train_predictor import TrainPredictorConfig
from tessy_jax.storage.copies import local
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.train.data.batches import Batches
from tessy_jax.train.data.examples import CAPABILITY, STYLE
from tessy_jax.train.data.labels import Segments, class_weights
from tessy_jax.train.data.packing import BatchPlan, Groups, pack


@dataclass(frozen=True)
class PredictorData:
    """The batches of all steps, and those of an evaluation.

    Attributes:
        train: of the run.
        held_out: every held-out segment once.
        every: all segments, of both sides.
    """

    train: Batches[Segments]
    held_out: Batches[Segments]
    every: Segments

    @classmethod
    def open(cls, config: TrainPredictorConfig, tokenizer: ContentTokenizer) -> "PredictorData":
        """Reads and labels the segments, splits them by prompt and plans all steps.

        Raises:
            InputError: a source cannot be read, or has too little in it.
        """
        data, paths = config.data, [local(source) for source in config.data.train]
        every = Segments.read(paths, tokenizer, data.length, config.shift)
        train, held_out = every.split(data.held_out)
        ways = config.mesh.data * config.mesh.fsdp
        rows = Groups.rows_needed(
            *(train.lengths, data.length, config.batch),
            seed=config.seed,
            epochs=config.epochs,
            unit=ways * config.accumulate,
        )
        plan = BatchPlan(
            *(train.lengths, data.length, rows),
            epochs=config.epochs,
            seed=config.seed,
            max_steps=config.max_steps,
            arrange=Groups(config.batch, rows),
        )
        weights = class_weights(config.class_weights, train.counts)
        needed = -(-len(pack(held_out.lengths, data.length, 0, 0)) // ways) * ways
        once = BatchPlan(held_out.lengths, data.length, min(rows // config.accumulate, needed), epochs=1, seed=0)
        return cls(Batches(train, plan, weights, accumulate=config.accumulate), Batches(held_out, once, weights), every)

    @property
    def rejected(self) -> int:
        """Rows that could not be used."""
        return len(self.every.rejects)

    def rejects(self) -> Iterator[str]:
        """Where each of them stands and why it could not be used, for people."""
        for reject in self.every.rejects:
            yield f"{reject.file}:{reject.line}: {reject.reason}"

    def summary(self) -> str:
        """Counts, for people."""
        every, plan = self.every, self.train.plan
        style, capability = (int(every.counts[:, code].sum()) for code in (STYLE, CAPABILITY))
        left_out = {"cut off": every.cut, "rows rejected": len(every.rejects)}
        counts = "".join(f", {count} {what}" for what, count in left_out.items() if count)
        weights = self.train.weights
        return (
            f"{len(every)} segments of {prompts(every)} prompts{counts}; labels: style {style:,}, capability "
            f"{capability:,} (weights {weights.style:.3g}, {weights.capability:.3g})\n"
            f"plan: {len(self.train.corpus)} segments to train on and {len(self.held_out.corpus)} held out "
            f"({prompts(self.held_out.corpus)} prompts); {plan.steps} steps of {plan.rows} rows of {plan.length} tokens"
        )


def prompts(segments: Segments) -> int:
    """How many prompts the segments come from."""
    return len({item.source.segment.id for item in segments.items})
