"""The planner: which plan, for which budget, at what cost."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import gradients, rate, same_bits, small_law, small_start

import atheria_lab as al
from atheria_lab import plans
from atheria_lab.memory import track_peak

STEP = al.Step(small_law("MLP"))
PSI = small_start(STEP, (8, 8)).psi
SAVE_AT = al.SaveAt.at_most(3)


def plan_for(steps, budget=None, step=STEP, psi=PSI, save_at=SAVE_AT):
    return al.plan_rollout(step, psi, steps, budget, save_at, loss=rate)


def train(steps, **options):
    """A budgeted rollout, its loss and its backward pass, and what they added, probes included."""
    STEP.law.zero_grad()
    with track_peak() as peak:
        out = al.rollout(STEP, PSI, steps, SAVE_AT, loss=rate, **options)
        rate(out.states).backward()
    return out, peak.peak_bytes


@settings(max_examples=20)
@given(data=st.data(), steps=st.integers(1, 40))
def test_whatever_the_budget_the_peak_stays_within(data, steps):
    costs = plan_for(steps)
    roomy = max(cost.peak_bytes for cost in costs.costs)
    budget = data.draw(st.integers(costs.smallest_bytes, roomy + 1000), "budget")
    out, peak = train(steps, budget=budget)
    assert peak <= out.predicted_bytes <= budget


@settings(max_examples=8)
@given(st.integers(1, 40))
def test_the_smallest_budget_works_and_one_byte_less_is_refused(steps):
    smallest = plan_for(steps).smallest_bytes
    out, peak = train(steps, budget=smallest)
    assert peak <= smallest
    assert out.plan.exact
    with pytest.raises(al.BudgetError) as refusal:
        train(steps, budget=smallest - 1)
    assert refusal.value.smallest_bytes == smallest


def test_a_refusal_comes_before_the_rollout_and_teaches():
    made = []

    def step(psi, i):
        made.append(i)
        return STEP(psi, i)

    with pytest.raises(al.BudgetError) as refusal:
        al.rollout(step, PSI, 10_000, SAVE_AT, budget="10 KiB", loss=rate)
    assert len(made) < 20
    assert isinstance(refusal.value, ValueError)
    text = str(refusal.value)
    assert "budget: got 10.0 KiB, and no exact plan makes 10000 steps within it" in text
    assert al.memory.format_size(refusal.value.smallest_bytes) in text
    assert "save fewer states, or make the lattice smaller" in text
    reaches = re.findall(r"(\w+\(.*\)) needs .* and gets (\d+) steps far", text)
    assert {"StoreAll()", "Binomial(slots=1)"} <= {plan for plan, _ in reaches}
    for plan, reach in reaches[:3]:
        if int(reach):
            plan = eval(plan, vars(plans))
            al.rollout(STEP, PSI, int(reach), SAVE_AT, plan, budget="10 KiB", loss=rate)


def test_a_given_plan_must_fit():
    cost = next(cost for cost in plan_for(50).costs if cost.plan == plans.StoreAll())
    out, peak = train(50, budget=cost.needs_bytes, plan=plans.StoreAll())
    assert out.plan == plans.StoreAll()
    assert peak <= cost.peak_bytes
    with pytest.raises(al.BudgetError, match=r"StoreAll\(\) needs .* for 50 steps.*leave out the"):
        train(50, budget=cost.needs_bytes - 1, plan=plans.StoreAll())


def test_the_fastest_exact_plan_that_fits_is_taken():
    assert plan_for(200, "1 GiB").plan == plans.StoreAll()
    for budget in ("400 kB", "100 kB", "60 kB"):
        table = plan_for(200, budget)
        fitting = [cost for cost in table.costs if cost.fits and cost.plan.exact]
        assert table.chosen == min(fitting, key=lambda cost: cost.seconds)
        assert table.chosen.fits == (table.predicted_bytes <= table.budget)
    assert plan_for(200).plan == plans.StoreAll()


def test_times_are_in_order():
    """More recomputation takes longer, and less memory."""
    costs = {cost.plan: cost for cost in plan_for(300).costs}
    assert list(costs.values()) == sorted(costs.values(), key=lambda cost: cost.seconds)
    assert costs[plans.StoreAll()].forward_steps == 300
    exact = [cost for cost in costs.values() if cost.plan.exact]
    fewest = min(exact, key=lambda cost: cost.seconds)
    assert fewest.plan == plans.StoreAll()
    slots = sorted(
        (cost for cost in exact if isinstance(cost.plan, plans.Binomial)),
        key=lambda cost: cost.plan.slots,
    )
    assert len(slots) >= 4
    for fewer, more in zip(slots, slots[1:], strict=False):
        assert fewer.seconds >= more.seconds
        assert fewer.peak_bytes <= more.peak_bytes
        assert fewer.forward_steps > more.forward_steps
    # One slot keeps the initial state only: half of all pairs of steps are made, of those between
    # two saved states.
    ends = [0, *SAVE_AT.resolve(300)]
    lengths = [end - start for start, end in zip(ends, ends[1:], strict=False)]
    between = sum(length * (length - 1) / 2 for length in lengths) - (lengths[-1] - 1)
    assert slots[0].forward_steps == 2 * 300 + between


def test_reversible_is_offered_where_there_is_an_inverse():
    step = al.Step(small_law("Brickwork"))
    assert plans.Reversible() in {cost.plan for cost in plan_for(50, step=step).costs}
    assert plans.Reversible() not in {cost.plan for cost in plan_for(50).costs}


def test_planning_leaves_nothing_behind():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with track_peak() as peak:
        plan_for(50, "1 MiB")
    assert peak.live_bytes == 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in STEP.law.parameters())


def test_a_budgeted_rollout_is_exact():
    wanted = list(STEP.law.parameters())
    got = gradients(STEP, PSI, 40, save_at=SAVE_AT, wanted=wanted, budget="50 kB")
    assert got[2].plan != plans.StoreAll()
    assert same_bits(got[1], gradients(STEP, PSI, 40, save_at=SAVE_AT, wanted=wanted)[1])


def test_the_table_reads_well():
    table = plan_for(400, "100 kB")
    lines = repr(table).splitlines()
    assert lines[0] == (
        f"400 steps, a budget of 97.7 KiB: {table.plan!r}, "
        f"{al.memory.format_size(table.predicted_bytes)} at its peak"
    )
    assert len({len(line) for line in lines[1:]}) == 1  # columns in line
    assert [line for line in lines if "→" in line] == [
        line for line in lines[1:] if f" {table.plan!r} " in line
    ]
    assert any(line.endswith(" no") and "StoreAll()" in line for line in lines)
    assert any("approximate" in line for line in lines)
    assert "no budget" in repr(plan_for(400)).splitlines()[0]


def test_the_table_reads_well_in_a_notebook():
    page = plan_for(400, "100 kB")._repr_html_()
    rows = re.findall("<tr.*?</tr>", page)
    assert len(rows) == 1 + len(plan_for(400, "100 kB").costs)
    assert all(row.count("<td") == 6 for row in rows[1:])
    assert sum("font-weight:600" in row for row in rows) == 1
    assert "<p>400 steps, a budget of 97.7 KiB" in page


def test_the_main_number():
    """400 steps of 128x128, d_state 8, hidden 32, ten states in the loss: within 64 MiB."""
    law = al.laws.MLP(8, hidden=32)
    step, psi, save_at = al.Step(law), al.lattice.random(128, 8), al.SaveAt.at_most(10)
    table = al.plan_rollout(step, psi, 400, "64 MiB", save_at, loss=rate)
    everything = next(cost for cost in table.costs if cost.plan == plans.StoreAll())
    assert everything.peak_bytes > 2 * 2**30
    assert table.chosen.forward_steps <= 3 * 400
    with track_peak() as peak:
        out = al.rollout(step, psi, 400, save_at, budget="64 MiB", loss=rate)
        rate(out.states).backward()
    assert len(out.states) == 10
    assert peak.peak_bytes <= 64 * 2**20
    assert peak.peak_bytes == pytest.approx(out.predicted_bytes, rel=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in law.parameters())
