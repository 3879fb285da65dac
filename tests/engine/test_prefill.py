"""Which slots a call of prefill reads, and on which shard."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy_jax.config.sections import EngineConfig
from tessy_jax.engine.sizes import PrefillRows, by_shard, prefill_piece, prefill_rows


def test_an_example() -> None:
    assert [part.tolist() for part in by_shard(np.array([0, 1, 5]), 8, 2, 2)] == [[0, 5], [1, 8]]


@pytest.mark.parametrize(
    ("longest", "buckets", "piece"),
    [
        (60, (64, 512), 64),
        (90, (64, 512), 64),  # two of 64 instead of one of 512
        (256, (64, 512), 64),
        (257, (64, 512), 512),  # 320 is more than half of 512
        (1100, (64, 512), 512),
        (100, (64, 128, 256), 128),  # powers of two: the one that holds it
        (129, (64, 128, 256), 256),
        (3000, (16, 512, 4096), 4096),
        (40, (16, 64, 512), 64),  # 48 is more than half of 64
        (520, (256, 2048, 4096), 256),
    ],
)
def test_prompts_are_read_in_pieces_that_waste_little(longest: int, buckets: tuple[int, ...], piece: int) -> None:
    assert prefill_piece(longest, buckets) == piece


def test_prompts_are_read_in_calls_that_waste_little() -> None:
    rows = PrefillRows(2, 16, ways=1)
    assert [rows.width(new) for new in (1, 2, 3, 8, 9, 16, 17)] == [2, 2, 2, 2, 16, 16, 16]
    assert [PrefillRows(1, 3, ways=1).width(new) for new in (1, 2, 3)] == [1, 3, 3]


@given(st.data(), st.integers(1, 4), st.integers(1, 9), st.sampled_from([32, 512, 4096]))
def test_each_slot_is_read_once_and_by_its_own_shard(data: st.DataObject, ways: int, local: int, chunk: int) -> None:
    batch = ways * local
    slots = sorted(data.draw(st.sets(st.integers(0, batch - 1), min_size=1)))
    rows = prefill_rows(EngineConfig(batch=batch), chunk, _Mesh(ways))
    assert rows.few <= rows.many <= batch
    for width in (rows.few, rows.many):
        assert width % ways == 0
        parts = np.array(list(by_shard(np.array(slots), batch, width, ways))).reshape(-1, ways, width // ways)
        assert sorted(parts[parts < batch].tolist()) == slots
        for shard in range(ways):
            read = parts[:, shard]
            assert np.all(read[read < batch] // local == shard)


class _Mesh:
    def __init__(self, ways: int):
        self.shape = {"data": ways, "fsdp": 1}
