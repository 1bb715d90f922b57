"""What stays in memory when a rollout is done, forgotten, or interrupted: nothing."""

import gc

import pytest
import torch
from small import rate, same_bits, small_law, small_start

import atheria_lab as al
from atheria_lab import plans
from atheria_lab.memory import track_peak

PLANS = [
    plans.StoreAll(),
    plans.Segmented(3),
    plans.Binomial(2),
    plans.Tiered(device=1, host=1, disk=1),
    plans.Truncated(4),
    plans.Reversible(),
]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=repr)


@pytest.fixture(autouse=True, scope="module")
def no_garbage_collector():
    """What is freed, is freed at once: there are no cycles to collect."""
    # What a process does for the first time imports parts of torch, whose frames are such cycles.
    with track_peak():
        step = step_for(plans.StoreAll())
        rate(al.rollout(step, small_start(step), 2).states).backward()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def step_for(plan):
    law = small_law("Brickwork" if isinstance(plan, plans.Reversible) else "ConvLSTMUNet")
    return al.Step(law)


@every_plan
def test_nothing_after_a_rollout_and_its_backward_pass(plan):
    step = step_for(plan)
    start = small_start(step)
    with track_peak() as peak:
        out = al.rollout(step, start, 10, al.SaveAt.at_most(3), plan)
        rate(out.states).backward()
        step.law.zero_grad()
        assert peak.live_bytes > 0
        del out
    assert peak.live_bytes == 0


@every_plan
def test_only_the_saved_states_after_a_backward_pass(plan):
    step = step_for(plan)
    start = small_start(step)
    with track_peak() as peak:
        out = al.rollout(step, start, 10, al.SaveAt.at_most(3), plan)
        rate(out.states).backward()
        step.law.zero_grad()
    state = sum(leaf.nbytes for leaf in (start.psi, *start.hidden))
    assert peak.live_bytes == 3 * state
    del out
    assert peak.live_bytes == 0


@every_plan
def test_nothing_of_a_rollout_that_is_forgotten(plan):
    step = step_for(plan)
    start = small_start(step)
    with track_peak() as peak:
        out = al.rollout(step, start, 10, al.SaveAt.at_most(3), plan)
        del out
    assert peak.live_bytes == 0


class Interrupted:
    """A step that raises when it is made for the n-th time."""

    def __init__(self, step, error):
        self.step = step
        self.error = error
        self.left = -1

    def __call__(self, state, i):
        self.left -= 1
        if self.left == 0:
            raise self.error("in the middle")
        return self.step(state, i)

    @property
    def inverse(self):
        return self.step.inverse


@every_plan
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("when", [1, 4, 12, 20])
def test_nothing_after_an_interruption(when, error, plan):
    """In the look at the first step, the forward sweep, or at a step that is made again."""
    step = Interrupted(step_for(plan), error)
    start = small_start(step.step)
    parameters = list(step.step.law.parameters())

    def gradient():
        out = al.rollout(step, start, 10, al.SaveAt.at_most(3), plan, parameters=parameters)
        return torch.autograd.grad(rate(out.states), parameters)

    step.left = when
    with track_peak() as peak:
        try:
            gradient()
        except error as interruption:
            assert "in the middle" in str(interruption)
            interrupted = True
        else:
            interrupted = False
    # Plain autograd, and cuts without a saved state, make fewer steps.
    assert interrupted or (when > 10 and isinstance(plan, plans.StoreAll | plans.Truncated))
    assert peak.live_bytes == 0
    step.left = -1
    assert same_bits(gradient(), gradient())


@pytest.mark.parametrize("plan", PLANS[1:], ids=repr)
def test_a_backward_pass_may_be_tried_again(plan):
    """After an interruption, if the graph was to be retained."""
    step = Interrupted(step_for(plan), KeyboardInterrupt)
    parameters = list(step.step.law.parameters())
    out = al.rollout(step, small_start(step.step), 10, al.SaveAt.all(), plan, parameters=parameters)
    loss = rate(out.states)
    step.left = 4
    with pytest.raises(KeyboardInterrupt):
        torch.autograd.grad(loss, parameters, retain_graph=True)
    again = torch.autograd.grad(loss, parameters)
    out = al.rollout(step, small_start(step.step), 10, al.SaveAt.all(), plan, parameters=parameters)
    assert same_bits(again, torch.autograd.grad(rate(out.states), parameters))


def test_many_rollouts_end_where_the_first_ended():
    step = al.Step(small_law("MLP"))
    start = small_start(step, (2, 2))
    with track_peak() as peak:
        for _ in range(30):
            out = al.rollout(step, start, 5, plan=plans.Binomial(2))
            rate(out.states).backward()
            step.law.zero_grad()
        del out
    assert peak.live_bytes == 0
