"""Packing: every example once, no row too full, as good as a plain best fit; and the steps of a run."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy_jax.train.data.packing import BatchPlan, one_each, pack

LENGTHS = st.lists(st.integers(1, 24), max_size=60).map(lambda sizes: np.array(sizes, np.int32))


def plain_best_fit(sizes, length):
    """Room left in each row, without any data structure."""
    rooms = []
    for size in sizes:
        fitting = [i for i, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= size
        else:
            rooms.append(length - size)
    return rooms


@given(LENGTHS, st.integers(24, 40), st.integers(0, 99))
def test_rows_are_those_of_best_fit(lengths, length, seed):
    rows = pack(lengths, length, seed, epoch=0)
    assert sorted(chain.from_iterable(rows)) == list(range(len(lengths)))
    assert all(rows)
    order = np.random.default_rng([seed, 0]).permutation(len(lengths))
    rooms = [length - int(lengths[row].sum()) for row in rows]
    assert sorted(rooms) == sorted(plain_best_fit(lengths[order].tolist(), length))
    assert min(rooms, default=0) >= 0


@given(LENGTHS, st.integers(0, 99))
def test_unpacked_is_one_example_a_row(lengths, seed):
    rows = one_each(lengths, 24, seed, epoch=0)
    assert all(len(row) == 1 for row in rows)
    assert sorted(chain.from_iterable(rows)) == list(range(len(lengths)))


@pytest.mark.parametrize("arrange", [pack, one_each])
def test_the_order_is_of_seed_and_epoch_alone(arrange):
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    once = arrange(lengths, 64, 1, 0)
    assert arrange(lengths, 64, 1, 0) == once
    assert arrange(lengths, 64, 1, 1) != once
    assert arrange(lengths, 64, 2, 0) != once
    with pytest.raises(ValueError, match=r"an example of 49 tokens does not fit into a row of 48"):
        arrange(lengths, 48, 1, 0)


def test_rows_of_many_examples_are_nearly_full():
    lengths = np.minimum(np.random.default_rng(0).lognormal(6, 1, 20_000).astype(int) + 1, 2048)
    rows = pack(lengths, 2048, 0, 0)
    assert lengths.sum() / (len(rows) * 2048) > 0.97


def test_a_plan_has_all_examples_of_each_epoch():
    lengths = np.random.default_rng(1).integers(5, 20, 47)
    plan = BatchPlan(lengths, 32, 4, epochs=3, seed=5)
    per_epoch = [-(-len(pack(lengths, 32, 5, epoch)) // 4) for epoch in range(3)]
    assert plan.steps == sum(per_epoch) == len(list(plan))
    for epoch in range(3):
        steps = [step for step in range(plan.steps) if plan.epoch(step) == epoch]
        assert len(steps) == per_epoch[epoch]
        rows = [row.tolist() for step in steps for row in plan[step]]
        assert len(rows) == 4 * len(steps)
        packed = pack(lengths, 32, 5, epoch)
        assert rows == packed + [[]] * (len(rows) - len(packed))
    with pytest.raises(IndexError, match=f"step {plan.steps} of {plan.steps}"):
        plan[plan.steps]


def test_a_plan_can_end_early():
    lengths = np.full(10, 4)
    whole = BatchPlan(lengths, 8, 2, epochs=4, seed=0)
    assert whole.steps == 12
    for end in (2, 3, 4, 20):
        short = BatchPlan(lengths, 8, 2, epochs=4, seed=0, max_steps=end)
        assert short.steps == min(end, 12)
        for step in range(short.steps):
            assert [r.tolist() for r in short[step]] == [r.tolist() for r in whole[step]]
    with pytest.raises(ValueError, match="no examples to plan steps for"):
        BatchPlan(lengths[:0], 8, 2, epochs=1, seed=0)
