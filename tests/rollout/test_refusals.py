"""What a rollout refuses, and in which words."""

import itertools
import random

import pytest
import torch
from small import rate, small_law, small_start
from torch import nn

import atheria_lab as al
from atheria_lab import plans

PLANS = [
    plans.StoreAll(),
    plans.Segmented(3),
    plans.Binomial(1),
    plans.Binomial(3),
    plans.Tiered(device=1, host=1, disk=1),
    plans.Truncated(3),
]
RECOMPUTING = PLANS[1:]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=repr)
every_recomputing_plan = pytest.mark.parametrize("plan", RECOMPUTING, ids=repr)


def halve(x, i):
    return x / 2


@pytest.fixture
def x():
    return torch.linspace(-1, 1, 6).requires_grad_()


@pytest.fixture
def weight():
    return torch.ones(6, requires_grad=True)


@pytest.mark.parametrize("steps", [0, -3])
def test_steps_below_one(steps, x):
    with pytest.raises(ValueError, match=f"steps: got {steps}; it takes"):
        al.rollout(halve, x, steps)
    with pytest.raises(ValueError, match=f"steps: got {steps}; it takes"):
        al.plan_rollout(halve, x, steps)


@pytest.mark.parametrize("steps", [2.0, "10", None, True])
def test_steps_that_are_no_whole_number(steps, x):
    with pytest.raises(TypeError, match="steps: got"):
        al.rollout(halve, x, steps)


@pytest.mark.parametrize("budget", ["12 parsecs", "", "much", "-1 MiB", "nan GB", 0, -5, "0.1 B"])
@pytest.mark.parametrize("ask", [al.rollout, al.plan_rollout])
def test_budgets_that_are_no_size(ask, budget, x):
    with pytest.raises(ValueError, match="budget: got"):
        ask(halve, x, 5, budget=budget)


@pytest.mark.parametrize("budget", [1.5e6, True, [1]])
def test_budgets_of_another_kind(budget, x):
    with pytest.raises(TypeError, match="budget: got"):
        al.rollout(halve, x, 5, budget=budget)


def test_no_such_option(x):
    with pytest.raises(TypeError, match=r"save_at: got 3; it takes a SaveAt, such as"):
        al.rollout(halve, x, 5, save_at=3)
    with pytest.raises(ValueError, match="save_at: got index 6; a rollout of 5 steps"):
        al.rollout(halve, x, 5, save_at=al.SaveAt.indices([6]))
    with pytest.raises(TypeError, match=r"plan: got 'Binomial'; it takes one of .*such as Bino"):
        al.rollout(halve, x, 5, plan="Binomial")
    with pytest.raises(TypeError, match=r"plan: got <class .*; it takes one of"):
        al.rollout(halve, x, 5, plan=plans.StoreAll)
    with pytest.raises(TypeError, match=r"step: got int; it takes a function \(state, i\)"):
        al.rollout(3, x, 5)
    with pytest.raises(ValueError, match=r"plan: Reversible needs a step with inverse"):
        al.rollout(halve, x, 5, plan=plans.Reversible())
    with pytest.raises(ValueError, match=r"plan: Reversible needs a step with inverse"):
        step = al.Step(small_law("MLP"))
        al.rollout(step, small_start(step), 5, plan=plans.Reversible())


@every_plan
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_states_that_are_not_finite(bad, plan, x):
    state = {"psi": x, "more": [torch.tensor([0, 1, bad * 1j if bad == bad else bad])]}
    with pytest.raises(ValueError, match=r"state\['more'\]\[0\]: it holds NaN or infinity"):
        al.rollout(lambda state, i: state, state, 5, plan=plan)


@pytest.mark.parametrize("state", [3.0, {"a": 1}, (torch.zeros(2), None), "psi"])
def test_states_that_are_no_tensors(state):
    with pytest.raises(TypeError, match=r"state.*: got .*; every leaf of a state is a tensor"):
        al.rollout(halve, state, 5)


@pytest.mark.parametrize("state", [{}, (), []])
def test_states_without_a_tensor(state):
    with pytest.raises(ValueError, match="state: it holds no tensor"):
        al.rollout(halve, state, 5)


CHANGES = {
    "shape": (lambda x, i: x[:-1], r"changed state from \[6\] torch.float32.* to \[5\]"),
    "broadcast": (lambda x, i: x + torch.zeros(2, 1), r"from \[6\] .* to \[2, 6\]"),
    "dtype": (lambda x, i: x.double(), r"from .*float32.* to .*float64"),
    "complex": (lambda x, i: x + 0j, r"from .*float32.* to .*complex64"),
    "device": (lambda x, i: x.to("meta"), r"on cpu to .* on meta"),
    "structure": (lambda x, i: (x,), r"returned another structure than it was given"),
    "nothing": (lambda x, i: None, r"returned NoneType at state; it takes a tensor"),
    "a number": (lambda x, i: 3.0, r"returned float at state; it takes a tensor"),
}


@every_plan
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("index", [0, 4])
def test_steps_that_change_the_kind_of_the_state(change, index, plan, x):
    step, words = CHANGES[change]
    with pytest.raises(TypeError, match=rf"step: step {index} .*{words}|step {index} {words}"):
        al.rollout(lambda x, i: step(x, i) if i == index else x / 2, x, 9, plan=plan)


def in_place_of_the_input(x, i):
    return x.mul_(0.5)


def in_place_of_a_view(x, i):
    x[1:3].zero_()
    return x * 2


def in_place_then_new(x, i):
    x += 1
    return x * 0.5


def in_place_later(x, i):
    return x.mul_(0.5) if i == 4 else x * 0.9


@every_plan
@pytest.mark.parametrize(
    "step", [in_place_of_the_input, in_place_of_a_view, in_place_then_new, in_place_later]
)
@pytest.mark.parametrize("needs_gradient", [True, False])
def test_in_place_changes_of_the_state(step, plan, needs_gradient, weight):
    x = torch.ones(6, requires_grad=needs_gradient)
    with pytest.raises(RuntimeError, match=r"in place|in-place|inplace"):
        al.rollout(lambda x, i: step(x * 1 if i == 0 else x, i) * weight, x, 9, plan=plan)
    with pytest.raises(RuntimeError, match=r"in place|in-place|inplace"):
        al.rollout(step, x, 9, plan=plan)


def test_in_place_changes_are_told_what_to_do(x):
    with pytest.raises(RuntimeError, match=r"step 0 changed state in place.*must return new"):
        al.rollout(in_place_of_the_input, x, 9, plan=plans.Binomial(2))


@every_plan
def test_an_int_leaf_counted_in_place(plan, x):
    def step(state, i):
        x, n = state
        n += 1
        return x * 0.5, n

    with pytest.raises(RuntimeError, match=r"step 0 changed state\[1\] in place"):
        al.rollout(step, (x, torch.tensor(0)), 5, plan=plan)


@every_recomputing_plan
def test_saved_states_that_the_user_changes(plan, x):
    out = al.rollout(halve, x, 9, al.SaveAt.all(), plan)
    with torch.no_grad():
        for state in out.states[1:]:
            state.zero_()
    with pytest.raises(RuntimeError, match=r"(?s)changed in place.*clone a saved state"):
        rate(out.states).backward()


def noisy(draw):
    """A step that does not repeat itself, from the outset or in its first steps only."""
    return [
        lambda x, i: x * draw(),
        lambda x, i: x * draw() if i < 2 else x * 0.9,
        lambda x, i: x + draw() if i == 3 else x * 0.9,
    ]


@pytest.mark.parametrize("plan", RECOMPUTING[:4], ids=repr)
@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("save_at", [al.SaveAt.last(), al.SaveAt.all()], ids=repr)
def test_steps_that_do_not_repeat_themselves(kind, plan, save_at, x):
    count = itertools.count(1)
    for draw in (random.random, lambda: next(count)):
        out = al.rollout(noisy(draw)[kind], x, 9, save_at, plan)
        with pytest.raises(RuntimeError, match=r"gave another state, so their gradient would be"):
            rate(out.states).backward()


@pytest.mark.parametrize("plan", RECOMPUTING[:4], ids=repr)
def test_a_single_cell_that_does_not_repeat_itself(plan):
    """Among ten thousand, where a glance at some of them would not see it."""

    def step(x, i):
        mask = torch.ones(100, 100)
        mask[7, 13] = 1 + random.random()
        return x * mask

    x = torch.ones(100, 100, requires_grad=True)
    with pytest.raises(RuntimeError, match="gave another state, so their gradient would be"):
        rate(al.rollout(step, x, 9, plan=plan).states).backward()


@every_recomputing_plan
@pytest.mark.parametrize("kind", ["batch norm", "spectral norm"])
def test_steps_that_change_buffers(kind, plan, x):
    """Made again, such a step would change them again: a batch norm's statistics, silently."""
    norm, mix = nn.BatchNorm1d(3), torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    module = norm if kind == "batch norm" else mix
    mix.parametrizations.weight.original.data *= x.detach().reshape(2, 3)[0]  # far from its limit
    start = x.reshape(2, 3)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with pytest.raises(RuntimeError, match=r"step 0 changed a buffer .*module\.eval\(\)"):
        al.rollout(lambda x, i: module(x), start, 5, plan=plan)
    al.plan_rollout(lambda x, i: module(x), start, 5)
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    al.rollout(lambda x, i: module(x), start, 5)  # plain autograd can
    assert not all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    module.eval()
    rate(al.rollout(lambda x, i: module(x), start, 5, plan=plan).states).backward()


@every_plan
def test_a_state_that_is_not_dense(plan):
    for state in (torch.eye(3).to_sparse(), torch.eye(3).to_mkldnn()):
        with pytest.raises(TypeError, match=r"state: got a .* tensor; it takes a dense one"):
            al.rollout(lambda x, i: x, state, 5, plan=plan)


def test_a_reversible_step_that_does_not_repeat_itself(x):
    class Shift:
        def __call__(self, x, i):
            return x + random.random()

        def inverse(self, x, i):
            return x - random.random()

    out = al.rollout(Shift(), x, 9, plan=plans.Reversible())
    with pytest.raises(RuntimeError, match="another state|the step's inverse is not its inverse"):
        rate(out.states).backward()


def test_an_inverse_that_is_none(x):
    class Wrong:
        def __call__(self, x, i):
            return x * 0.9

        def inverse(self, x, i):
            return x / 0.8

    out = al.rollout(Wrong(), x, 9, plan=plans.Reversible())
    with pytest.raises(RuntimeError, match=r"another state.*inverse is not its inverse"):
        rate(out.states).backward()


def test_reversible_refuses_to_replay_dropout(x):
    class Drop:
        def __call__(self, x, i):
            return x + torch.rand(6)

        def inverse(self, x, i):
            return x

    with pytest.raises(RuntimeError, match=r"plan: Reversible cannot replay .*Noise"):
        al.rollout(Drop(), x, 9, plan=plans.Reversible())


def test_reversible_beyond_its_tolerance():
    law = small_law("Brickwork")
    step = al.Step(law, noise=al.Noise(phase=0.3))
    out = al.rollout(step, small_start(step), 50, plan=plans.Reversible(tolerance=1e-9))
    with pytest.raises(RuntimeError, match=r"beyond its tolerance of 1.0e-09.*Save more states"):
        rate(out.states).backward()


@every_recomputing_plan
def test_tensors_that_were_computed_before(plan, x, weight):
    computed = weight * 2
    with pytest.raises(RuntimeError, match=r"computed before the step .*carry it in the state"):
        al.rollout(lambda x, i: x * computed, x, 5, plan=plan)
    rate(al.rollout(lambda x, i: x * computed, x, 5).states).backward()  # plain autograd can


@every_recomputing_plan
def test_tensors_that_were_computed_before_and_come_later(plan, x, weight):
    computed = weight * 2
    out = al.rollout(lambda x, i: x * (computed if i == 4 else weight), x, 5, plan=plan)
    with pytest.raises(RuntimeError, match=r"computed before the step"):
        rate(out.states).backward()


@every_recomputing_plan
def test_steps_that_hand_a_tensor_on_behind_our_back(plan, x, weight):
    kept = []

    def step(x, i):
        kept.append(x * weight)
        return x * kept[-2] if len(kept) > 1 else x * kept[-1]

    with pytest.raises(RuntimeError, match=r"step.*(computed before|another state)"):
        rate(al.rollout(step, x, 5, plan=plan).states).backward()


@every_recomputing_plan
def test_parameters_changed_before_the_backward_pass(plan, x, weight):
    out = al.rollout(lambda x, i: x * weight, x, 5, plan=plan)
    with torch.no_grad():
        weight.mul_(0.5)
    with pytest.raises(
        RuntimeError, match=r"parameter of shape \[6\] was changed in place.*Call b"
    ):
        rate(out.states).backward()


@every_recomputing_plan
@pytest.mark.parametrize("way", ["fused", "data"])
def test_parameters_changed_without_a_trace(way, plan, x):
    """A fused optimizer leaves the version as it was; so little that no state would tell."""
    weight = torch.ones(6, requires_grad=True)
    out = al.rollout(lambda x, i: x * weight, x, 5, plan=plan)
    if way == "fused":
        weight.grad = torch.ones(6)
        torch.optim.AdamW([weight], lr=1e-6, fused=True).step()
    else:
        weight.data *= 1 + 1e-6
    with pytest.raises(RuntimeError, match=r"parameter of shape \[6\] was changed in place"):
        rate(out.states).backward()


def test_parameters_that_are_none(x, weight):
    with pytest.raises(ValueError, match="parameters: got a tensor that was computed"):
        al.rollout(halve, x, 5, plan=plans.Binomial(2), parameters=[weight * 2])
    with pytest.raises(TypeError, match="parameters: got str; it takes tensors"):
        al.rollout(halve, x, 5, plan=plans.Binomial(2), parameters=["weight"])


LOSSES = {
    "ignores": (lambda states: torch.zeros((), requires_grad=False), ValueError, "any saved state"),
    "detached": (lambda states: states[0].detach().sum(), ValueError, "any saved state"),
    "many": (lambda states: states[0], ValueError, "takes one real number"),
    "complex": (lambda states: states[0].sum() * 1j, ValueError, "takes one real number"),
    "float": (lambda states: 3.0, TypeError, "returned float; it takes a tensor"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_rate_nothing(name, x):
    loss, kind, words = LOSSES[name]
    with pytest.raises(kind, match=f"loss: it .*{words}"):
        al.rollout(halve, x, 5, budget="1 MiB", loss=loss)
    with pytest.raises(kind, match=f"loss: it .*{words}"):
        al.plan_rollout(halve, x, 5, loss=loss)


def test_the_loss_may_rate_the_parameters_too_but_not_them_alone(x, weight):
    al.plan_rollout(lambda x, i: x * weight, x, 5, loss=lambda s: rate(s) + weight.sum())
    with pytest.raises(ValueError, match=r"loss: it does not depend on any saved state"):
        al.plan_rollout(lambda x, i: x * weight, x, 5, loss=lambda states: weight.sum())
