"""`synthesize` with input, models and output on a store, killed with signal 9: no record is lost, none is there twice.

`python -m tests.kit.kill_on_store` does the same more often.
"""

import random

from tessy_jax.storage.copies import local
from tests.kit.kill_on_store import Killed, arguments
from tests.kit.run_synthesize import pair, records, whole
from tests.kit.stores import BUCKET, served

KILLS = 5


def test_killed_at_any_request(monkeypatch):
    expected = [record for record in whole() if record["sample_index"] == 0]
    with served() as server:
        killed = Killed(server, arguments(pair(), f"s3://{BUCKET}/killed"), random.Random(1))
        killed.kill(KILLS)
        for run in killed.runs:
            assert records(local(run)) == expected
    assert sum(map(len, killed.seen)) == KILLS + len(killed.runs)
