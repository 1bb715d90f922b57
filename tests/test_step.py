"""The step against its formula."""

import pytest
import torch

from atheria_lab import lattice, laws
from atheria_lab.noise import Noise
from atheria_lab.step import LatticeState, Step


def double(law):
    return law.double()


def random(size=8, d_state=2, seed=0):
    return lattice.random(size, d_state, seed=seed, dtype=torch.complex128)


@pytest.mark.parametrize("norm", lattice.NORMS)
def test_it_is_the_formula(norm):
    law, psi = double(laws.Conv(2, 4)), random()
    noise = Noise(phase=0.3, sign=0.1)
    step = Step(law, gamma=0.2, norm=norm, noise=noise, seed=7)
    x = torch.cat([psi.real, psi.imag], -1).permute(0, 3, 1, 2)
    change = law(x).permute(0, 2, 3, 1)
    moved = 0.8 * psi + torch.complex(change[..., :2], change[..., 2:])
    rho = (moved.abs() ** 2).sum(-1, keepdim=True)
    scale = {"none": 1.0, "cell": rho.sqrt(), "lattice": rho.mean().sqrt()}[norm]
    wanted = noise.apply(moved / scale, seed=7, step=5)
    assert torch.allclose(step(psi, 5), wanted, rtol=1e-12)


def test_psi_alone_and_a_lattice_state_give_the_same():
    step, psi = Step(double(laws.MLP(2, 4))), random()
    assert torch.equal(step(psi, 0), step(step.initial(psi), 0).psi)


def test_the_hidden_tensors_of_a_recurrent_law_learn_through_time():
    step, psi = Step(double(laws.ConvLSTMUNet(2, 4, levels=1))), random()
    state = step.initial(psi)
    hidden = [h.requires_grad_() for h in state.hidden]
    state = LatticeState(psi, tuple(hidden))
    for i in range(3):
        state = step(state, i)
    state.psi.real.square().sum().backward()
    assert all(h.grad.abs().max() > 0 for h in hidden)


def test_reset_every_starts_the_hidden_tensors_anew():
    law, psi = double(laws.ConvLSTMUNet(2, 4, levels=1)), random()
    step = Step(law, reset_every=2)
    state = step.initial(psi)
    used = LatticeState(psi, tuple(torch.ones_like(h) for h in state.hidden))
    assert torch.equal(step(used, 2).psi, step(state, 2).psi)
    assert not torch.equal(step(used, 1).psi, step(state, 1).psi)


def test_the_inverse_undoes_a_unitary_step_with_its_noise():
    step = Step(double(laws.Brickwork(2)), noise=Noise(phase=0.5, sign=0.3), seed=3)
    psi = random()
    assert torch.allclose(step.inverse(step(psi, 4), 4), psi, atol=1e-12)
    assert step.norm == "none"


def test_only_a_unitary_step_has_an_inverse():
    assert not hasattr(Step(laws.MLP(2)), "inverse")


def test_any_module_is_a_law():
    step = Step(torch.nn.Conv2d(4, 4, 1).double())
    assert step(random(), 0).shape == (1, 8, 8, 2)


@pytest.mark.parametrize(
    ("make", "error", "name"),
    [
        (lambda: Step(lambda x: x), TypeError, "law"),
        (lambda: Step(laws.MLP(2), gamma=1.5), ValueError, "gamma"),
        (lambda: Step(laws.MLP(2), gamma="a lot"), TypeError, "gamma"),
        (lambda: Step(laws.MLP(2), norm="sphere"), ValueError, "norm"),
        (lambda: Step(laws.Brickwork(2), norm="lattice"), ValueError, "norm"),
        (lambda: Step(laws.MLP(2), reset_every=3), ValueError, "reset_every"),
        (lambda: Step(laws.ConvLSTMUNet(2), reset_every=0), ValueError, "reset_every"),
        (lambda: Step(laws.MLP(2), seed=-1), ValueError, "seed"),
        (lambda: Step(laws.MLP(2)).initial(lattice.zeros(4, 3)), ValueError, "d_state"),
        (lambda: Step(laws.MLP(2))([lattice.zeros(4, 2)], 0), TypeError, "state"),
        (lambda: Step(laws.ConvLSTMUNet(2))(lattice.zeros(4, 2), 0), TypeError, "initial"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make, error, name):
    with pytest.raises(error, match=name):
        make()
