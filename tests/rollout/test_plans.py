"""Plans: their numbers, their work, and what they say of themselves."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab import SaveAt, plans, rollout
from atheria_lab.rollout import checkpoints


class Counting:
    """A step with an inverse that knows how often it was made."""

    def __init__(self):
        self.made = 0

    def __call__(self, x, i):
        self.made += 1
        return x * 1.01

    def inverse(self, x, i):
        return x / 1.01


CHECKPOINTED = (
    st.builds(plans.Segmented, st.integers(1, 70))
    | st.builds(plans.Binomial, st.integers(1, 70))
    | st.builds(plans.Tiered, st.integers(1, 3), st.integers(0, 3), st.integers(0, 3))
)


def steps_made(plan, steps, kept=()):
    """How often the step is made for a gradient, without the look at the first one."""
    step = Counting()
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    out = rollout(step, x, steps, SaveAt.indices([*kept, steps]), plan)
    sum(state.sum() for state in out.states).backward()
    return step.made - (0 if plan == plans.StoreAll() else 1)


@given(CHECKPOINTED, st.integers(1, 60))
def test_a_plan_knows_its_work(plan, steps):
    made = steps_made(plan, steps)
    if steps % plan.block(steps) == 0:
        assert made == plan.forward_steps(steps)
    else:  # the last block is shorter
        assert made <= plan.forward_steps(steps) < made + plan.block(steps) * plan.blocks(steps)


@given(st.integers(1, 20), st.integers(1, 60), st.sets(st.integers(0, 59)))
def test_saved_states_save_work(slots, steps, kept):
    plan, kept = plans.Binomial(slots), sorted(index for index in kept if index < steps)
    assert steps_made(plan, steps, kept) == plan.forward_steps(steps, kept)
    assert plan.forward_steps(steps, kept) <= plan.forward_steps(steps)
    assert plan.forward_steps(steps, range(steps)) == 2 * steps


@pytest.mark.parametrize("plan", [plans.StoreAll(), plans.Segmented(7), plans.Binomial(100)])
def test_plain_autograd_makes_each_step_once_and_segments_twice(plan):
    times = 1 if plan == plans.StoreAll() else 2
    assert steps_made(plan, 30) == plan.forward_steps(30) == 30 * times


def test_reversible_makes_each_step_twice_beside_its_inverse():
    assert plans.Reversible().forward_steps(30) == 3 * 30
    assert steps_made(plans.Reversible(), 30) == 2 * 30


def test_truncated_does_not_recompute_what_nobody_saved():
    assert steps_made(plans.Truncated(7), 30) == 30 + 7


@given(st.integers(1, 40), st.integers(1, 200))
def test_more_slots_mean_less_work(slots, steps):
    fewer, more = plans.Binomial(slots), plans.Binomial(slots + 1)
    assert more.forward_steps(steps) <= fewer.forward_steps(steps)
    assert more.forward_steps(steps) >= 2 * steps


def test_tiers_fill_from_the_disk_up():
    plan = plans.Tiered(device=2, host=1, disk=2)
    assert [plan.tier(slot) for slot in range(5)] == ["device", "disk", "disk", "host", "device"]
    assert plan.capacity(100) == 5


def test_tiered_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.tempfile, "tempdir", str(tmp_path))
    x = torch.ones(3, requires_grad=True)
    seen = []

    def step(x, i):
        seen.append(len(list(tmp_path.glob("*/*.bin"))))
        return x.sin()

    out = rollout(step, x, 20, plan=plans.Tiered(device=1, host=1, disk=2))
    assert len(list(Path(tmp_path).glob("*/*.bin"))) == 2
    out.final.sum().backward()
    assert max(seen) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_forgotten_rollout_leaves_no_file_either(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(checkpoints.tempfile, "tempdir", str(tmp_path))
    x = torch.ones(3, requires_grad=True)
    out = rollout(lambda x, i: x.sin(), x, 20, plan=plans.Tiered(device=1, disk=2))
    assert len(list(tmp_path.iterdir())) == 1
    del out
    assert list(tmp_path.iterdir()) == []
    assert not recwarn.list


def test_an_approximation_says_so():
    assert "approximate" in repr(plans.Truncated(3))
    assert "APPROXIMATION" in plans.Truncated.__doc__
    assert not plans.Truncated.exact
    assert all(
        plan.exact
        for plan in (
            plans.StoreAll,
            plans.Segmented,
            plans.Binomial,
            plans.Tiered,
            plans.Reversible,
        )
    )


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda n: plans.Segmented(n), "k"),
        (lambda n: plans.Truncated(n), "k"),
        (lambda n: plans.Binomial(n), "slots"),
        (lambda n: plans.Tiered(device=n), "device"),
        (lambda n: plans.Tiered(host=n), "host"),
        (lambda n: plans.Tiered(disk=n), "disk"),
    ],
)
def test_bad_numbers_are_refused_by_name(make, name):
    with pytest.raises(ValueError, match=f"{name}: got -1"):
        make(-1)
    with pytest.raises(TypeError, match=f"{name}: got 2.5"):
        make(2.5)
    with pytest.raises(TypeError, match=f"{name}: got 'many'"):
        make("many")


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_bad_tolerance_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance: got"):
        plans.Reversible(tolerance)
