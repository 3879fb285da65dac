"""The judge of multiple choice."""

from tessy_jax.evals.records import Verdict
from tessy_jax.evals.targets import ChoiceTarget

IDENTITY: dict[str, str | int] = {"name": "choice", "version": 1}


def judge_choice(target: ChoiceTarget, letter: str) -> Verdict:
    """Whether it is the right letter. One that was no choice is as wrong as another."""
    return Verdict.ACCEPTED if letter == target.letter else Verdict.WRONG_ANSWER
