"""SaveAt: which states are returned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab import SaveAt

COUNTS = st.integers(1, 500)


@given(COUNTS, COUNTS)
def test_at_most_spreads_evenly_and_ends_at_the_end(n, steps):
    picked = SaveAt.at_most(n).resolve(steps)
    gaps = np.diff([0, *picked])
    assert len(picked) == min(n, steps)
    assert picked[-1] == steps
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@given(COUNTS, COUNTS)
def test_every_picks_the_multiples(k, steps):
    if k > steps:
        with pytest.raises(ValueError, match="save_at: .* picks no state"):
            SaveAt.every(k).resolve(steps)
    else:
        assert SaveAt.every(k).resolve(steps) == tuple(range(k, steps + 1, k))


@given(st.lists(st.integers(0, 500), min_size=1), COUNTS)
def test_indices_come_in_order_each_once(indices, steps):
    rule = SaveAt.indices(indices)
    if max(indices) > steps:
        with pytest.raises(ValueError, match=f"save_at: got index {max(indices)}"):
            rule.resolve(steps)
    else:
        assert rule.resolve(steps) == tuple(sorted(set(indices)))


@given(COUNTS)
def test_last_and_all(steps):
    assert SaveAt.last().resolve(steps) == (steps,)
    assert SaveAt.all().resolve(steps) == tuple(range(steps + 1))


def test_numpy_numbers_are_whole_numbers_too():
    assert SaveAt.indices(np.array([3, 1])).resolve(4) == (1, 3)
    assert SaveAt.at_most(np.int64(2)).resolve(4) == (2, 4)


@pytest.mark.parametrize("number", [0, -1])
def test_numbers_below_one_are_refused(number):
    with pytest.raises(ValueError, match=f"k: got {number}"):
        SaveAt.every(number)
    with pytest.raises(ValueError, match=f"n: got {number}"):
        SaveAt.at_most(number)
    with pytest.raises(ValueError, match=f"steps: got {number}"):
        SaveAt.last().resolve(number)


@pytest.mark.parametrize("number", [1.5, "3", True, None])
def test_what_is_no_whole_number_is_refused(number):
    with pytest.raises(TypeError, match="n: got"):
        SaveAt.at_most(number)
    with pytest.raises(TypeError, match="indices: got"):
        SaveAt.indices([number])


def test_bad_indices_are_refused():
    with pytest.raises(ValueError, match="indices: got -1"):
        SaveAt.indices([-1, 2])
    with pytest.raises(ValueError, match="indices: got none"):
        SaveAt.indices([])


def test_a_rule_reads_as_it_is_written():
    assert repr(SaveAt.last()) == "SaveAt.last()"
    assert repr(SaveAt.at_most(10)) == "SaveAt.at_most(10)"
    assert repr(SaveAt.indices([2, 1])) == "SaveAt.indices([1, 2])"
    assert len(repr(SaveAt.indices(range(1000)))) < 60
