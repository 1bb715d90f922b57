"""Every exact plan gives the gradient of plain autograd: the same bits, for every law."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import DTYPES, LAWS, distance, gradients, rate, same_bits, small_law, small_start

import atheria_lab as al
from atheria_lab import plans

CHECKPOINTED = (
    st.builds(plans.Segmented, st.integers(1, 40))
    | st.builds(plans.Binomial, st.integers(2, 40))
    | st.builds(plans.Tiered, st.integers(1, 2), st.integers(0, 2), st.integers(1, 2))
)
NOISES = st.sampled_from([al.Noise(), al.Noise(phase=0.5), al.Noise(phase=0.2, sign=0.1)])


@st.composite
def steps_of(draw, law, noises=NOISES):
    """A step with one of its options each drawn; a unitary law takes no norm."""
    return al.Step(
        law,
        gamma=draw(st.sampled_from([0.0, 0.01, 0.3])),
        norm=None if law.unitary else draw(st.sampled_from(al.lattice.NORMS)),
        noise=draw(noises),
        seed=draw(st.integers(0, 2**40)),
        reset_every=draw(st.none() | st.integers(1, 9)) if law.recurrent else None,
    )


@st.composite
def save_ats(draw, steps):
    """Some random states; often the initial and the final one among them."""
    some = draw(st.sets(st.integers(0, steps), max_size=4))
    ends = draw(st.sampled_from([{0, steps}, {0}, {steps}, set()]))
    return al.SaveAt.indices(some | ends or {steps})


def check(step, start, steps, plan, save_at):
    wanted = list(step.law.parameters())
    states, grads, _ = gradients(step, start, steps, plan, save_at, wanted=wanted)
    true_states, true_grads, _ = gradients(
        step, start, steps, plans.StoreAll(), save_at, wanted=wanted
    )
    assert same_bits(states, true_states)
    if isinstance(plan, plans.Reversible):
        double = wanted[0].dtype == torch.float64
        assert distance(grads, true_grads) <= (1e-12 if double else 1e-5)
    else:
        assert same_bits(grads, true_grads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAWS)
@settings(max_examples=15)
@given(data=st.data())
def test_plain_autograd_for_every_law(name, dtype, data):
    law = small_law(name, DTYPES[dtype], seed=data.draw(st.integers(0, 100), "weights"))
    step = data.draw(steps_of(law), "step")
    start = small_start(step, (4, 2), batch=data.draw(st.integers(1, 2), "batch"))
    steps = data.draw(st.integers(1, 25), "steps")
    every = CHECKPOINTED | st.just(plans.Reversible()) if law.unitary else CHECKPOINTED
    check(step, start, steps, data.draw(every, "plan"), data.draw(save_ats(steps), "save_at"))


@pytest.mark.parametrize("steps", [97, 128, 200])
@pytest.mark.parametrize("plan", [plans.Segmented(15), plans.Binomial(6), plans.Tiered(2, 2, 2)])
def test_long_rollouts(plan, steps):
    step = al.Step(small_law("ConvLSTMUNet"), reset_every=30)
    check(step, small_start(step, (2, 2)), steps, plan, al.SaveAt.indices([0, 5, steps // 2]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_reversible_rollouts(dtype):
    step = al.Step(small_law("Brickwork", DTYPES[dtype]), noise=al.Noise(phase=0.3))
    check(step, small_start(step), 200, plans.Reversible(), al.SaveAt.at_most(5))


def test_binomial_with_one_slot():
    step = al.Step(small_law("MLP"))
    check(step, small_start(step), 12, plans.Binomial(1), al.SaveAt.all())


def test_the_gradient_goes_on_to_what_made_the_initial_state():
    step = al.Step(small_law("Conv"))
    psi = small_start(step).psi

    def gradient(plan):
        seed = torch.ones(2, requires_grad=True)
        out = al.rollout(step, al.lattice.normalise(psi * seed.exp()), 9, plan=plan)
        rate(out.states).backward()
        return [seed.grad]

    assert same_bits(gradient(plans.Binomial(3)), gradient(plans.StoreAll()))


@pytest.mark.parametrize("k", [1, 3, 4, 9, 20])
@pytest.mark.parametrize("indices", [[9], [0, 4], [2, 3, 5, 9], [1, 8], list(range(10))])
def test_truncated_is_plain_autograd_with_cuts(k, indices):
    """The cuts are counted back from the final state, nine steps on."""
    step = al.Step(small_law("ConvLSTMUNet", torch.float64))
    start = small_start(step)
    wanted = list(step.law.parameters())
    save_at = al.SaveAt.indices(indices)

    def cut(state, i):
        if i and (9 - i) % k == 0:
            state = al.LatticeState(state.psi.detach(), tuple(h.detach() for h in state.hidden))
        return step(state, i)

    states, grads, _ = gradients(step, start, 9, plans.Truncated(k), save_at, wanted=wanted)
    true_states, true_grads, _ = gradients(cut, start, 9, plans.StoreAll(), save_at, wanted=wanted)
    assert same_bits(states, true_states)
    assert same_bits(*(without_none(both) for both in (grads, true_grads)))


def without_none(grads):
    """No gradient is a gradient of zeros."""
    return [torch.zeros(()) if grad is None or not grad.any() else grad for grad in grads]
