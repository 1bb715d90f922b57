"""Plans for a device that is not here: from shapes alone."""

import html

import pytest
import torch
from small import LAWS, rate, small_law, small_start
from torch.utils._pytree import tree_map

import atheria_lab as al
from atheria_lab.memory import process

SAVE_AT = al.SaveAt.at_most(3)


def peaks(plan):
    return {cost.plan: cost.peak_bytes for cost in plan.costs}


@pytest.mark.parametrize("name", LAWS)
def test_without_data_the_bytes_are_those_that_are_measured(name):
    step = al.Step(small_law(name), noise=al.Noise(phase=0.1))
    start = small_start(step, (16, 16))
    measured = al.plan_rollout(step, start, 40, None, SAVE_AT, loss=rate)
    told = al.plan_rollout(step, start, 40, None, SAVE_AT, loss=rate, device="cpu")
    assert set(peaks(told)) == set(peaks(measured))
    for plan, peak in peaks(measured).items():
        assert peaks(told)[plan] == pytest.approx(peak, rel=0.01), plan


def test_a_card_that_is_not_here_and_a_lattice_that_does_not_fit_here():
    """Would 4096 x 4096 cells fit on an 8 GiB card? No byte of them is made."""
    step = al.Step(al.laws.MLP(8, hidden=32))
    psi = torch.empty(1, 4096, 4096, 8, dtype=torch.complex64, device="meta")
    before = process.heap_in_use()
    with pytest.raises(al.BudgetError) as refusal:
        al.plan_rollout(step, psi, 400, "8 GiB", device="cuda")
    smaller = psi[:, :512, :512].contiguous()
    plan = al.plan_rollout(step, smaller, 400, "8 GiB", device="cuda")
    if before is not None:
        assert process.heap_in_use() - before < 64 * 2**20
    assert refusal.value.smallest_bytes > 8 * 2**30
    assert plan.predicted_bytes <= 8 * 2**30
    assert plan.plan != al.plans.StoreAll()
    text, page = repr(plan), plan._repr_html_()
    assert "unknown" in text
    for assumption in plan.assumptions:
        assert f"assumed: {assumption}" in text
        assert html.escape(assumption) in page
    assert any("cuda" in assumption for assumption in plan.assumptions)


def test_a_measured_plan_assumes_nothing():
    step = al.Step(small_law("MLP"))
    plan = al.plan_rollout(step, small_start(step, (8, 8)), 10)
    assert plan.assumptions == ()
    assert "assumed" not in repr(plan)


def test_nothing_is_changed_by_it():
    step = al.Step(small_law("Conv"))
    start = small_start(step, (8, 8))
    before = tree_map(torch.clone, (start, list(step.law.parameters())))
    state = torch.get_rng_state()
    al.plan_rollout(step, start, 20, loss=rate, device="cuda")
    after = (start, list(step.law.parameters()))
    for a, b in zip(*map(torch.utils._pytree.tree_leaves, (before, after)), strict=True):
        assert type(b) is not type(None) and torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in step.law.parameters())


def test_a_step_that_looks_at_its_numbers_is_refused():
    law = torch.nn.Linear(4, 4)

    def step(x, i):
        return law(x) if x.sum() > 0 else x - law(x)

    with pytest.raises(ValueError, match="device: the step or the loss looks at the numbers"):
        al.plan_rollout(step, torch.ones(4), 10, device="cuda")
    assert al.plan_rollout(step, torch.ones(4), 10).plan == al.plans.StoreAll()
