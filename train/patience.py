"""Early stopping: a run ends where its score has not risen for some evaluations."""

from dataclasses import dataclass
from pathlib import Path

from tessy_jax.data.jsonl import read_objects
from tessy_jax.train.trainer import StopRequest


class Patience:
    """Says when F1 has not risen for so many evaluations.

    With a patience of 2, scores of 0.3, 0.5, 0.5, 0.4 end a run: the best, 0.5, is two evaluations old.
    """

    def __init__(self, evaluations: int | None):
        """`evaluations`: how many may pass without a better score; None: any number."""
        self._allowed = evaluations
        self._best, self._since = -1.0, 0

    @classmethod
    def resumed(cls, evaluations: int | None, metrics: Path, step: int) -> "Patience":
        """As it was after `step` of a run with these metrics."""
        patience = cls(evaluations)
        for _, row in read_objects(metrics) if metrics.exists() else ():
            if row is not None and "held_out" in row and row["step"] <= step:
                patience.take(row["step"], row["held_out"]["style"]["f1"])
        return patience

    def take(self, step: int, f1: float) -> None:
        """Takes the score of an evaluation; one before the first step does not count."""
        if step > 0:
            self._since = 0 if f1 > self._best else self._since + 1
            self._best = max(self._best, f1)

    @property
    def over(self) -> bool:
        """Whether the run is to end."""
        return self._allowed is not None and self._since >= self._allowed


@dataclass(frozen=True)
class StopOrPatience:
    """Whether the user wants to end the run, or the patience is over."""

    stop: StopRequest
    patience: Patience

    @property
    def asked(self) -> bool:
        return self.stop.asked or self.patience.over
