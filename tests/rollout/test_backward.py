"""The backward pass: once, twice, in part, and from anywhere in the rollout."""

import pytest
import torch
from small import gradients, rate, same_bits, small_law, small_start
from torch.utils.checkpoint import checkpoint

import atheria_lab as al
from atheria_lab import plans

PLANS = [
    plans.StoreAll(),
    plans.Segmented(3),
    plans.Binomial(2),
    plans.Tiered(device=1, disk=1),
    plans.Reversible(),
]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=repr)
STEPS = 8


class Turning:
    """A rotation by a learned angle: a step with an inverse that counts how often it is made."""

    def __init__(self):
        self.angle = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        self.made = 0

    def __call__(self, z, i):
        self.made += 1
        return z * torch.polar(torch.ones_like(self.angle), self.angle)

    def inverse(self, z, i):
        return z * torch.polar(torch.ones_like(self.angle), -self.angle)


@pytest.fixture
def step():
    return Turning()


@pytest.fixture
def z():
    return torch.tensor([1 + 2j, 0.5 - 1j], dtype=torch.complex128, requires_grad=True)


def close(these, those):
    return all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(these, those, strict=True))


@every_plan
def test_a_second_backward_pass(plan, step, z):
    """With retain_graph it is the same again; without, torch says so."""
    out = al.rollout(step, z, STEPS, al.SaveAt.at_most(3), plan)
    loss, wanted = rate(out.states), [step.angle, z]
    once = torch.autograd.grad(loss, wanted, retain_graph=True)
    twice = torch.autograd.grad(loss, wanted)
    assert same_bits(once, twice)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, wanted)


@every_plan
def test_a_gradient_from_each_state_on_its_own(plan, step, z):
    out = al.rollout(step, z, STEPS, al.SaveAt.indices([0, 3, STEPS]), plan)
    wanted = [step.angle, z]
    parts = [
        torch.autograd.grad(rate([state]), wanted, retain_graph=True, materialize_grads=True)
        for state in out.states[1:]
    ]
    whole = torch.autograd.grad(rate(out.states[1:]), wanted)
    assert close([a + b for a, b in zip(*parts, strict=True)], whole)


@every_plan
def test_a_hook_on_a_parameter_sees_the_whole_gradient_once(plan, step, z):
    free = torch.autograd.grad(rate(al.rollout(step, z, STEPS).states), [step.angle])[0]
    seen = []

    def hook(grad):
        seen.append(grad)
        return 3 * grad

    handle = step.angle.register_hook(hook)
    for _ in range(2):
        step.angle.grad = None
        rate(al.rollout(step, z, STEPS, plan=plan).states).backward()
        torch.testing.assert_close(step.angle.grad, 3 * free, rtol=1e-12, atol=0)
    assert len(seen) == 2
    handle.remove()


def test_a_hook_on_a_saved_state_sees_what_the_loss_sends_there(step, z):
    """Where the plan recomputes; under plain autograd also what comes through later steps."""
    sent = {}
    for plan in PLANS[:3]:
        out = al.rollout(step, z, STEPS, al.SaveAt.indices([4, STEPS]), plan)
        out.states[0].register_hook(lambda grad, plan=plan: sent.__setitem__(plan, grad))
        (out.states[0].real.sum() + out.final.imag.sum()).backward()
    assert torch.equal(sent[PLANS[1]], torch.ones_like(z))
    assert torch.equal(sent[PLANS[2]], torch.ones_like(z))
    assert not torch.equal(sent[PLANS[0]], torch.ones_like(z))


@pytest.mark.parametrize("plan", PLANS[1:], ids=repr)
def test_a_gradient_of_the_gradient_is_refused(plan, step, z):
    out = al.rollout(step, z, STEPS, plan=plan)
    [grad] = torch.autograd.grad(rate(out.states), [z], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.abs().sum().backward()


@every_plan
def test_through_the_final_state_only(plan, step, z):
    out = al.rollout(step, z, STEPS, al.SaveAt.indices([2]), plan)
    got = torch.autograd.grad(rate([out.final]), [step.angle, z])
    true = gradients(step, z, STEPS, wanted=[step.angle])
    assert close(got, true[1])


@every_plan
@pytest.mark.parametrize("index", [0, 1, 3, 6, 7])
def test_steps_after_the_last_state_in_the_loss_do_not_matter(plan, index, step, z):
    out = al.rollout(step, z, STEPS, al.SaveAt.all(), plan)
    made = step.made
    got = torch.autograd.grad(
        rate([out.states[index]]), [step.angle, z], allow_unused=True, materialize_grads=True
    )
    made = step.made - made
    alone = Turning()
    true = (
        gradients(alone, z, index, wanted=[alone.angle])[1]
        if index
        else [
            torch.zeros_like(alone.angle),
            *torch.autograd.grad(rate([z]), [z]),
        ]
    )
    assert close(got, true)
    if isinstance(plan, plans.Checkpointed | plans.Reversible):
        assert made <= 2 * index


@every_plan
def test_backward_adds_to_the_gradients_that_are_there(plan, step, z):
    law = small_law("ConvLSTMUNet")
    step = al.Step(law)
    if isinstance(plan, plans.Reversible):
        law = small_law("Brickwork", torch.float64)
        step = al.Step(law)

    def grads_after_two_rollouts(plan):
        law.zero_grad()
        for steps in (5, 3):
            rate(al.rollout(step, small_start(step), steps, plan=plan).states).backward()
        return [parameter.grad for parameter in law.parameters()]

    assert close(grads_after_two_rollouts(plan), grads_after_two_rollouts(None))


@every_plan
@pytest.mark.parametrize("forgets", [False, True])
def test_nobody_elses_tensor_is_summed_into(plan, forgets):
    """The gradient of a sum is handed on as it is: the loss's own tensor goes to the parameter."""
    weight, x = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)

    class Adding:
        def __call__(self, x, i):
            return weight.clone() if forgets and i % 2 else x + weight

        def inverse(self, x, i):
            return torch.zeros(3)  # as every state here is

    out = al.rollout(Adding(), x, 4, al.SaveAt.all(), plan)
    given = [torch.full((3,), 10.0**place) for place in range(5)]
    x_grad, weight_grad = torch.autograd.grad(out.states, [x, weight], given)
    assert [tensor[0].item() for tensor in given] == [1, 10, 100, 1000, 10_000]
    assert x_grad[0] == (1 + 10 if forgets else 11_111)
    assert weight_grad[0] == (10 + 100 + 2 * 1000 + 10_000 if forgets else 43_210)


@every_plan
def test_a_saved_state_changed_in_place_never_gives_a_wrong_gradient(plan, step, z):
    """Either somebody says so, or it is the gradient of what was done."""
    for index in range(1, STEPS + 1):
        out = al.rollout(step, z * 1, STEPS, al.SaveAt.all(), plan)
        try:
            out.states[index].mul_(2)
            got = torch.autograd.grad(rate(out.states), [step.angle, z])
        except RuntimeError as error:
            assert "in place" in str(error) or "inplace" in str(error)
            continue
        true = al.rollout(step, z, STEPS, al.SaveAt.all())
        states = [state * 2 if place == index else state for place, state in enumerate(true.states)]
        assert close(got, torch.autograd.grad(rate(states), [step.angle, z]))


@pytest.mark.parametrize("plan", PLANS[1:], ids=repr)
def test_a_changed_initial_state_is_refused(plan, step, z):
    start = z.detach().clone()
    out = al.rollout(step, start, STEPS, plan=plan)
    start.mul_(2)
    with pytest.raises(RuntimeError, match=r"in place|inplace"):
        rate(out.states).backward()


@pytest.mark.parametrize("inner", [plans.StoreAll(), plans.Binomial(2)], ids=repr)
@pytest.mark.parametrize("outer", PLANS[1:4], ids=repr)
def test_a_rollout_inside_a_step(outer, inner):
    weight = (0.3 * torch.ones(3, 3)).requires_grad_()

    def step(x, i):
        return al.rollout(lambda x, j: torch.tanh(x @ weight + j), x, 4, plan=inner).final

    got = gradients(step, torch.ones(2, 3), 5, outer, wanted=[weight])
    true = gradients(step, torch.ones(2, 3), 5, wanted=[weight])
    assert all(torch.allclose(a, b) for a, b in zip(got[1], true[1], strict=True))


@pytest.mark.parametrize("plan", PLANS[1:4], ids=repr)
def test_torchs_own_checkpoint_inside_a_step(plan):
    weight = (0.3 * torch.ones(3, 3)).requires_grad_()

    def step(x, i):
        return checkpoint(lambda x: torch.tanh(x @ weight), x, use_reentrant=False)

    got = gradients(step, torch.ones(2, 3), 5, plan, wanted=[weight])
    true = gradients(step, torch.ones(2, 3), 5, wanted=[weight])
    assert same_bits(got[1], true[1])


def test_a_loss_that_also_reads_the_parameters(step, z):
    def gradient(plan):
        out = al.rollout(step, z, STEPS, plan=plan)
        return torch.autograd.grad(rate(out.states) + step.angle.square(), [step.angle, z])

    assert close(gradient(plans.Binomial(2)), gradient(None))


def test_the_reconstruction_error_is_told(step, z):
    out = al.rollout(step, z, STEPS, plan=plans.Reversible())
    assert out.reconstruction_error is None
    rate(out.states).backward()
    assert 0 <= out.reconstruction_error < 1e-14
    assert al.rollout(step, z, STEPS, plan=plans.Binomial(2)).reconstruction_error is None
