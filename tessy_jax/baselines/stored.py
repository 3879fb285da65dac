"""Records of a finished run, found by id and sample without holding them all."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.records import Record
from tessy_jax.storage.copies import local


class _Place(NamedTuple):
    file: Path
    offset: int


@dataclass(frozen=True)
class StoredRun:
    """The records of a run directory, whichever process wrote them, and why others are not there."""

    _places: dict[tuple[str, int], _Place]
    _reasons: dict[tuple[str, int], str]

    @classmethod
    def open(cls, run: Path) -> "StoredRun":
        """Reads where each record stands; of a run on a store, in a copy."""
        run = local(run)
        places: dict[tuple[str, int], _Place] = {}
        for file in sorted(run.glob("data/part-*.jsonl")):
            offset = 0
            with file.open("rb") as lines:
                for line in lines:
                    row = json.loads(line)
                    places[row["id"], row["sample_index"]] = _Place(file, offset)
                    offset += len(line)
        found = (row for file in sorted(run.glob("rejects*.jsonl")) for _, row in read_objects(file) if row is not None)
        return cls(places, {(row["id"], row.get("sample_index", 0)): row["reason"] for row in found})

    def has(self, record: str, sample: int) -> bool:
        """Whether it was written."""
        return (record, sample) in self._places

    def read(self, record: str, sample: int) -> Record | None:
        """The record; None where it was not written."""
        if not self.has(record, sample):
            return None
        place = self._places[record, sample]
        with place.file.open("rb") as lines:
            lines.seek(place.offset)
            return Record.from_row(json.loads(lines.readline()))

    def reason(self, record: str, sample: int) -> str:
        """Why it was not written."""
        return self._reasons.get((record, sample), "it is not in the run")
