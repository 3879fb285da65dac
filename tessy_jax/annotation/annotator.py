"""What an annotator is: segments in, spans or refusals out."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tessy_jax.annotation.align import AlignError, locate
from tessy_jax.annotation.reply import ReplyError, read_reply
from tessy_jax.data.segments import Annotated, Segment, merge
from tessy_jax.errors import UserError

_MAX_REPLY = 2000
"""Characters of an unusable reply that the rejects keep."""


@dataclass(frozen=True)
class Refused:
    """A segment that could not be annotated, and why; with what the model replied, if it did."""

    segment: Segment
    reason: str
    reply: str | None = None

    def to_row(self, annotator: str) -> dict[str, Any]:
        """The line of the rejects."""
        row = {
            "id": self.segment.id,
            "sample_index": self.segment.sample_index,
            "segment": self.segment.index,
            "text": self.segment.text,
            "reason": self.reason,
            "annotator": annotator,
        }
        return row if self.reply is None else row | {"reply": self.reply[:_MAX_REPLY]}


Outcome = Annotated | Refused
Outcomes = Generator[Sequence[Outcome], None, None]


class AnnotatorError(UserError, RuntimeError):
    """The annotator cannot go on; the message is for the user. Segments without an outcome are still to be done."""


class Annotator(Protocol):
    """Finds the style phrases of segments.

    Attributes:
        name: stands in each record.
    """

    @property
    def name(self) -> str: ...

    def identity(self) -> dict[str, Any]:
        """What the spans depend on, for manifests."""
        ...

    def preview(self, segment: Segment) -> str:
        """What it would do with a segment, for a dry run."""
        ...

    def annotate(self, segments: Iterator[Segment]) -> Outcomes:
        """One outcome per segment, in any order, a few at a time; an empty group says that work goes on.

        Raises:
            AnnotatorError: after all outcomes that there are.
        """
        ...


def judge_reply(segment: Segment, reply: str) -> Outcome:
    """The outcome of a reply that should list the phrases of `segment`."""
    try:
        found = read_reply(reply)
        return Annotated(segment, merge(locate(segment.text, found.phrases)), found.truncated)
    except (ReplyError, AlignError) as error:
        return Refused(segment, str(error), reply)
