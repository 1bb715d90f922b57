"""The binomial schedule, against a dynamic programme and another implementation."""

from collections import Counter
from functools import cache

import checkpoint_schedules
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atheria_lab import plans
from atheria_lab.rollout import binomial


@cache
def fewest_advances(length, slots):
    """Bellman's equation of the problem, without any closed form."""
    if length == 1:
        return 0
    if slots == 1:
        return length * (length - 1) // 2
    return min(work_if_split(length, slots, m) for m in range(1, length))


def work_if_split(length, slots, m):
    """With the next checkpoint m steps on: go there, reverse the rest, then reverse m steps."""
    return m + fewest_advances(length - m, slots - 1) + fewest_advances(m, slots)


def replay(length, slots, end=None):
    """Follow a schedule like a machine that can do nothing else; the counts of its actions."""
    positions = binomial.sweep(length, slots)
    assert positions[0] == 0
    assert positions == sorted(set(positions))
    stored, reversed_, counts = list(positions), [], Counter()
    here = None
    for action, position in binomial.reverse(positions, end or length, slots):
        match action:
            case "load":
                assert position == stored[-1]
                here = position
            case "advance":
                assert here < position
                counts["advanced"] += position - here
                here = position
            case "store":
                assert here == position
                stored.append(position)
            case "reverse":
                assert here == position
                reversed_.append(position)
                here = None
            case "drop":
                assert position == stored.pop()
        assert len(stored) <= slots
    assert not stored
    assert reversed_ == list(reversed(range(end or length)))
    return counts["advanced"]


@pytest.mark.parametrize("slots", range(1, 9))
def test_the_closed_form_is_the_dynamic_programme(slots):
    for length in range(1, 61):
        assert binomial.advances(length, slots) == fewest_advances(length, slots)


@pytest.mark.parametrize("slots", range(2, 9))
def test_the_split_is_an_optimal_one(slots):
    for length in range(2, 61):
        chosen = work_if_split(length, slots, binomial.split(length, slots))
        assert chosen == fewest_advances(length, slots)


@given(st.integers(1, 300), st.integers(1, 40))
def test_a_replay_reverses_every_step_once_within_its_slots(length, slots):
    walked_by_the_sweep = binomial.sweep(length, slots)[-1]
    assert walked_by_the_sweep + replay(length, slots) == binomial.advances(length, slots)


@given(st.data(), st.integers(1, 200), st.integers(1, 20))
def test_a_reversal_may_start_earlier(data, length, slots):
    replay(length, slots, end=data.draw(st.integers(1, length)))


@settings(max_examples=30)
@given(st.integers(2, 80), st.integers(1, 20))
def test_another_implementation_makes_as_many_steps(steps, slots):
    slots = min(slots, steps)
    schedule = checkpoint_schedules.Revolve(steps, slots)
    assert forward_steps_of(schedule) == plans.Binomial(slots).forward_steps(steps) - 1


def test_griewank_and_walther_on_400_steps():
    """Ours is one more: the sweep makes the last step too, for the loss wants the final state."""
    assert forward_steps_of(checkpoint_schedules.Revolve(400, 20)) == 1347
    assert plans.Binomial(20).forward_steps(400) == 1347 + 1


def test_a_hundred_thousand_steps():
    advanced = replay(100_000, 50)
    assert plans.Binomial(50).forward_steps(100_000) <= 5 * 100_000
    assert advanced < 3 * 100_000


def forward_steps_of(schedule):
    made = 0
    for action in schedule:
        if isinstance(action, checkpoint_schedules.Forward):
            made += action.n1 - action.n0
        if isinstance(action, checkpoint_schedules.EndReverse):
            return made
    raise AssertionError("the schedule has no end")
