"""The step: its formula, what it takes and returns, and its inverse."""

import math

import numpy as np
import pytest
import torch
from small import LAWS, small_law, small_start
from torch import nn

import atheria_lab as al
from atheria_lab import lattice
from atheria_lab.step import LatticeState, Step

NOISE = al.Noise(phase=0.3, sign=0.1)
every_law = pytest.mark.parametrize("name", LAWS)


def random(size=4, d_state=2, **options):
    return lattice.random(size, d_state, dtype=torch.complex128, **options)


class Scale(nn.Module):
    """A law of somebody else: it doubles the real parts and drops the imaginary ones."""

    def forward(self, x):
        real, imag = x.chunk(2, dim=1)
        return torch.cat([2 * real, 0 * imag], dim=1)


# The formula


@pytest.mark.parametrize("norm", lattice.NORMS)
@pytest.mark.parametrize("gamma", [0.0, 0.2, 1.0])
def test_it_is_its_formula(norm, gamma):
    psi = 3 * random((3, 5), batch=2)
    moved = (1 - gamma) * psi.numpy() + 2 * psi.real.numpy()
    rho = (np.abs(moved) ** 2).sum(-1, keepdims=True)
    if norm == "lattice":
        moved /= np.sqrt(rho.mean((1, 2), keepdims=True))
    elif norm == "cell":
        moved /= np.sqrt(rho)
    out = Step(Scale(), gamma=gamma, norm=norm)(psi, 0)
    np.testing.assert_allclose(out.numpy(), moved, rtol=1e-12)


def test_noise_comes_after_the_norm_and_is_drawn_by_seed_and_index():
    psi = random()
    quiet = Step(Scale(), gamma=0.2)(psi, 5)
    noisy = Step(Scale(), gamma=0.2, noise=NOISE, seed=7)
    assert torch.equal(noisy(psi, 5), NOISE.apply(quiet, seed=7, step=5))
    assert torch.equal(noisy(psi, 5), noisy(psi, 5))
    assert not torch.equal(noisy(psi, 5), noisy(psi, 6))
    assert not torch.equal(noisy(psi, 5), Step(Scale(), gamma=0.2, noise=NOISE, seed=8)(psi, 5))


def test_what_is_not_said_is_the_default():
    psi = random()
    plain = Step(Scale(), gamma=0.01, norm="lattice", noise=al.Noise(), seed=0)
    assert torch.equal(Step(Scale())(psi, 0), plain(psi, 0))
    assert Step(al.laws.Brickwork(2)).norm == "none"


def test_a_unitary_law_is_the_update():
    law, psi = small_law("Brickwork"), 3 * random()
    assert torch.equal(Step(law, gamma=0.5)(psi, 0), law.evolve(psi))


@every_law
def test_the_state_does_not_change_under_the_hands_of_its_owner(name):
    step = Step(small_law(name, torch.float64), noise=NOISE)
    state = small_start(step)
    before = [leaf.clone() for leaf in (state.psi, *state.hidden)]
    step(state, 0)
    assert all(map(torch.equal, (state.psi, *state.hidden), before))


@every_law
def test_gradients_reach_the_state_and_every_parameter(name):
    step = Step(small_law(name, torch.float64), noise=NOISE)
    state = small_start(step)
    leaves = [leaf.requires_grad_() for leaf in (state.psi, *state.hidden)]
    out = step(state, 0)
    weights = torch.linspace(-1, 2, out.psi.numel(), dtype=torch.float64).reshape(out.psi.shape)
    grads = torch.autograd.grad((out.psi.real * weights).sum(), [*leaves, *step.law.parameters()])
    assert all(grad.any() for grad in grads)


# What it takes and returns


@every_law
def test_it_starts_from_psi_and_fresh_hidden_tensors(name):
    psi = random((4, 6), batch=3)
    law = small_law(name, torch.float64)
    state = Step(law).initial(psi)
    assert state.psi is psi
    shapes = [(3, 4, 2, 3)] * 2 if law.recurrent else []
    assert [tensor.shape for tensor in state.hidden] == shapes
    assert not any(tensor.any() for tensor in state.hidden)


@pytest.mark.parametrize("name", [name for name in LAWS if name != "ConvLSTMUNet"])
def test_psi_alone_and_a_lattice_state_are_the_same(name):
    step, psi = Step(small_law(name, torch.float64), noise=NOISE), random()
    out = step(LatticeState(psi), 3)
    assert isinstance(out, LatticeState)
    assert out.hidden == ()
    assert torch.equal(step(psi, 3), out.psi)


def test_hidden_goes_from_step_to_step():
    law, psi = small_law("ConvLSTMUNet", torch.float64), random()
    step = Step(law, norm="none", gamma=0.2)
    first = step(step.initial(psi), 0)
    second = step(first, 1)
    _, hidden = law(lattice.to_channels(psi), law.initial_hidden(lattice.to_channels(psi)))
    torch.testing.assert_close(first.hidden, hidden)
    change, hidden = law(lattice.to_channels(first.psi), hidden)
    torch.testing.assert_close(second.psi, 0.8 * first.psi + lattice.from_channels(change))
    torch.testing.assert_close(second.hidden, hidden)


# reset_every


def test_hidden_starts_anew_at_every_positive_multiple():
    law = small_law("ConvLSTMUNet", torch.float64)
    step, plain = Step(law, reset_every=3), Step(law)
    state = small_start(step)
    for i in range(8):
        fresh = step.initial(state.psi)
        expected = plain(fresh if i in (3, 6) else state, i)
        torch.testing.assert_close(step(state, i), expected, rtol=0, atol=0)
        assert not torch.allclose(plain(fresh, i).psi, plain(state, i).psi, rtol=1e-6)


@pytest.mark.parametrize(
    ("reset_every", "learns"), [(None, True), (3, True), (2, False), (1, False)]
)
def test_no_gradient_crosses_a_reset(reset_every, learns):
    step = Step(small_law("ConvLSTMUNet", torch.float64), reset_every=reset_every)
    start = small_start(step)
    hidden = [tensor.requires_grad_() for tensor in start.hidden]
    state = LatticeState(start.psi, tuple(hidden))
    for i in range(3):
        # psi is cut, so that only hidden can carry a gradient.
        state = step(LatticeState(state.psi.detach(), state.hidden), i)
    grads = torch.autograd.grad(state.psi.real.square().sum(), hidden, allow_unused=True)
    assert [grad is not None and bool(grad.any()) for grad in grads] == [learns, learns]


# The inverse


@pytest.mark.parametrize("wrap", [lambda psi: psi, LatticeState], ids=["psi", "LatticeState"])
def test_the_inverse_undoes_a_step_with_its_noise(wrap):
    step = Step(small_law("Brickwork", torch.float64), noise=NOISE, seed=3)
    start = wrap(random((4, 6), batch=2))
    state = start
    for i in range(10):
        state = step(state, i)
    for i in reversed(range(10)):
        state = step.inverse(state, i)
    assert type(state) is type(start)
    torch.testing.assert_close(state, start, rtol=0, atol=1e-12)
    wrong = step.inverse(step(start, 4), 5)  # the noise of another step
    assert not torch.allclose(wrong[0], start[0], rtol=0.01)


def test_only_a_unitary_law_has_an_inverse():
    step = Step(small_law("MLP"))
    assert not hasattr(step, "inverse")
    with pytest.raises(AttributeError, match="MLP has no inverse: it is not unitary"):
        step.inverse  # noqa: B018


# Refusals


@pytest.mark.parametrize(
    ("law", "options", "error"),
    [
        ("MLP", {"gamma": -0.1}, ValueError),
        ("MLP", {"gamma": 1.1}, ValueError),
        ("MLP", {"gamma": math.nan}, ValueError),
        ("MLP", {"gamma": "0.1"}, TypeError),
        ("MLP", {"gamma": True}, TypeError),
        ("MLP", {"norm": "sphere"}, ValueError),
        ("MLP", {"seed": -1}, ValueError),
        ("MLP", {"seed": 0.5}, TypeError),
        ("MLP", {"noise": 0.1}, TypeError),
        ("MLP", {"noise": al.noise.Ramp(NOISE, 10)}, TypeError),
        ("MLP", {"reset_every": 3}, ValueError),
        ("Brickwork", {"norm": "lattice"}, ValueError),
        ("Brickwork", {"norm": "cell"}, ValueError),
        ("Brickwork", {"norm": "sphere"}, ValueError),
        ("ConvLSTMUNet", {"reset_every": 0}, ValueError),
        ("ConvLSTMUNet", {"reset_every": 1.5}, TypeError),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_by_name(law, options, error):
    (name,) = options
    with pytest.raises(error, match=f"^{name}: got "):
        Step(small_law(law), **options)


def test_a_law_is_a_module():
    with pytest.raises(TypeError, match=r"^law: got function; it takes a torch.nn.Module"):
        Step(lambda x: x)


@pytest.mark.parametrize(
    ("psi", "error"),
    [
        (lattice.zeros(4, 3), ValueError),
        (lattice.zeros(4, 2)[0], ValueError),
        (lattice.zeros(4, 2).real, TypeError),
        (lattice.zeros(4, 2) + math.nan, ValueError),
    ],
    ids=["d_state", "dimensions", "real", "NaN"],
)
def test_a_start_that_is_no_state_is_refused(psi, error):
    with pytest.raises(error, match=r"^psi: "):
        Step(small_law("MLP")).initial(psi)


@pytest.mark.parametrize("name", ["MLP", "Conv", "UNet", "ConvLSTMUNet"])
def test_another_precision_than_the_laws_is_refused_in_words(name):
    step = Step(small_law(name))
    state = step.initial(lattice.random(4, 2, dtype=torch.complex128))
    words = rf"^psi: got parts in torch.float64 for {name} in torch.float32; .*law.double"
    with pytest.raises(TypeError, match=words):
        step(state, 0)
    with pytest.raises(TypeError, match=words):
        al.rollout(step, state, 3, budget="1 MiB")
    with pytest.raises(
        TypeError, match=r"^psi: got parts in torch.float32 for .* in torch.float64"
    ):
        step = Step(small_law(name, torch.float64))
        step(step.initial(lattice.random(4, 2)), 0)


def test_what_fails_in_the_law_is_told_as_it_is():
    class Fails(Scale):
        def forward(self, x):
            raise RuntimeError("a law's own error of some type")

    with pytest.raises(RuntimeError, match="a law's own error"):
        Step(Fails())(lattice.random(4, 2), 0)


@pytest.mark.parametrize("psi", [torch.zeros(1, 4, 4, 2), lattice.zeros(4, 2)[0]])
def test_a_rollout_of_what_is_no_psi_is_refused_in_words(psi):
    with pytest.raises(TypeError, match=r"^psi: got .*; it takes complex numbers \[batch, "):
        al.rollout(Step(small_law("MLP")), psi, 3)


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"^state: got list; it takes psi or a LatticeState"):
        Step(small_law("MLP"))([lattice.zeros(4, 2)], 0)


@pytest.mark.parametrize("wrap", [lambda psi: psi, LatticeState], ids=["psi", "LatticeState"])
def test_a_recurrent_law_needs_its_hidden_tensors(wrap):
    step = Step(small_law("ConvLSTMUNet"))
    with pytest.raises(TypeError, match=r"^state: got psi alone, but ConvLSTMUNet .*step.initial"):
        step(wrap(lattice.zeros(4, 2)), 0)
