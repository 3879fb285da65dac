"""Repetition: when a text goes round in a circle."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Repetition:
    """Says when a text is in a loop: it ends with `repeats` or more copies of one unit, `min_bytes` or more in all.

    With `repeats=4` and `min_bytes=24`, "so it is so it is so it is so it is " is one: four copies of "so it is ".
    Units with few letters (rows of zeros, rulers, number grids, drawings) make no loop: good answers contain them.

    Attributes:
        repeats: copies of the unit, at least.
        min_bytes: total length of the copies, at least.
        max_unit: longest unit, bytes.
    """

    repeats: int = 8
    min_bytes: int = 64
    max_unit: int = 512

    @property
    def probe_bytes(self) -> int:
        """How many of a loop's last bytes surely stand in it once more, a unit earlier."""
        return max(1, self.min_bytes * (self.repeats - 1) // self.repeats)

    def loops(self, text: bytes, end: int) -> bool:
        """Whether `text[:end]` ends in a loop. Reads its last `max(repeats * max_unit, min_bytes)` bytes."""
        tail = text[max(0, end - max(self.repeats * self.max_unit, self.min_bytes)) : end]
        # A unit is a distance back to the same bytes.
        probe = tail[-self.probe_bytes :]
        at = len(tail) - len(probe)
        while probe and (at := tail.rfind(probe, 0, at + len(probe) - 1)) >= 0:
            unit = len(tail) - len(probe) - at
            if unit > self.max_unit:
                return False
            total = max(self.repeats * unit, self.min_bytes)
            if total <= len(tail) and tail[-total:-unit] == tail[-total + unit :]:
                return _wordy(tail[-2 * unit :])
        return False


def _wordy(repeated: bytes) -> bool:
    """Whether at least half of the visible characters are letters, of two kinds or more."""
    visible = [c for c in repeated.decode(errors="ignore") if not c.isspace()]
    letters = [c for c in visible if c.isalpha()]
    return len(set(letters)) >= 2 and 2 * len(letters) >= len(visible)
