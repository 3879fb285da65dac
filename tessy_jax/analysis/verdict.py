"""Does the data suit the student? A sentence, the numbers behind it, and what was measured of other data sets.

The measure is the excess: how much more surprised the student is, in nats per token, by the data than by text of its
own. What followed from an excess was measured twice with small models: in the laboratory (docs/lab.md) and with SmolLM2
(docs/effect.md). That is all that the thresholds rest on.
"""

from typing import Any, NamedTuple

CLOSE, FAR = 0.2, 2.0
"""Excesses up to which no measured set did harm, and from which on most did."""


class Measured(NamedTuple):
    """A data set whose student was trained on it and tested.

    Attributes:
        excess: nats per token at the first step, less those of the student's own text.
        harm: whether the student was worse for it than before, beyond the interval; None: not clear.
        what: came out.
    """

    where: str
    name: str
    excess: float
    harm: bool | None
    what: str


MEASURED = (
    Measured("lab", "TESSY, perfect predictors", 0.00, False, "+24 points on easy problems, +38 on hard ones"),
    Measured("lab", "Teacher-Answer", 0.00, False, "no clear change"),
    Measured("lab", "TESSY, trained probes", 0.01, False, "+26 points, +41"),
    Measured("effect", "TESSY", 0.13, False, "its own text likelier, by 0.04 nats per token"),
    Measured("effect", "Teacher-Only", 0.32, True, "its own text less likely, by 0.02 nats per token"),
    Measured("lab", "TESSY, 10 % of the words judged wrongly", 0.63, None, "no clear change"),
    Measured("lab", "TESSY, 25 % judged wrongly", 2.23, True, "-53 points on easy problems, -40 on hard ones"),
    Measured("lab", "TESSY, useless predictors", 2.94, True, "-37 points, -31"),
    Measured("lab", "Teacher-Mix", 3.73, None, "no clear change"),
    Measured("lab", "Teacher-Think", 7.80, True, "no clear change on easy problems, -9 points on hard ones"),
    Measured("lab", "Teacher-Only", 8.85, True, "-8 points, -11"),
)
"""In the order of the excess. The laboratory's are means of three seeds at the first step; the points are accuracy, and
harm is an interval of 95 % over seeds and problems below zero.
"""

LIMITS = (
    "This is calibrated on eleven sets for two small students, with a few hundred traces, and on nothing else. It says "
    "how foreign the text is, not whether the answers are right: in the laboratory, traces with wrong answers did more "
    "harm than foreign ones with right answers at a third of the excess."
)


def verdict(loss: float, reference: float | None) -> dict[str, Any]:
    """What the numbers say of one data set.

    Args:
        loss: mean -log p per token to learn, in nats.
        reference: the same of the student's own text; None: there is none to compare with.
    """
    if reference is None:
        return {
            "verdict": "unknown",
            "excess": None,
            "words": f"The student needs {loss:.2f} nats per token for this data; what that means is known beside text "
            "of its own only: let it write some (--draw 100), or give some as --reference.",
            "limits": LIMITS,
            "nearest": [],
        }
    excess = loss - reference
    kind = "suits" if excess <= CLOSE else "foreign" if excess >= FAR else "doubtful"
    compared = f"{loss:.2f} nats per token, {excess:+.2f} to its own text ({reference:.2f})"
    nearest = sorted(MEASURED, key=lambda one: abs(one.excess - excess))[:3]
    return {
        "verdict": kind,
        "excess": excess,
        "words": f"{_WORDS[kind]}: {compared}.",
        "limits": LIMITS,
        "nearest": [one._asdict() for one in nearest],
    }


_WORDS = {
    "suits": "Reads like the student's own text; no measured set as close as this did harm",
    "doubtful": "In between; of the measured sets here one did harm slightly and one changed nothing. Train on a part "
    "of it first, and watch the loss on the student's own text",
    "foreign": "Foreign to the student; four of five measured sets as far as this did harm",
}
