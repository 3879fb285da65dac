"""The task of the paper's annotation, in our words: list the style phrases of a segment, verbatim and in order."""

from tessy_jax.data.hashing import hash_text
from tessy_jax.data.records import Message

INSTRUCTIONS = """\
Below is a piece of the private reasoning of a language model. It may begin and end in the middle of a sentence.

Its words are of two kinds. Content words solve the problem: facts, numbers, formulas, code, names, deductions and \
their results. Style words only give the reasoning its manner: openers (Okay, Alright), transitions (next, on the \
other hand), fillers and hesitation (hmm, well), hedges (maybe, I think), talk of the writer to itself (wait, let me \
double-check), and remarks that set a tone (interestingly, that makes sense).

List the style phrases of the piece:
- Copy each one exactly as it stands in the piece: same letters, same capitals, same punctuation.
- Keep the order of the piece. A phrase that occurs twice is listed twice.
- Make each phrase as long as the style goes on, and never let it reach into content, code or a formula.
- If there are none, give an empty list.

Answer with a JSON array of strings and nothing else. For the piece

Okay, so the sum is 12. Hmm, wait, let me check that: 5 + 7 = 12, which is even.

the answer is

["Okay, so", "Hmm, wait, let me check that"]

The piece:

"""

TASK_HASH = hash_text(INSTRUCTIONS)
"""Which task an annotation was made with, for manifests."""


def task(text: str) -> list[Message]:
    """The messages that ask for the style phrases of a segment."""
    return [{"role": "user", "content": INSTRUCTIONS + text}]
