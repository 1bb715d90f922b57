"""Brickwork: unitary, invertible, and its light cone as derived."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_laws import reach

from atheria_lab import lattice
from atheria_lab.laws import Brickwork


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_the_inverse_undoes_it_and_the_norm_is_kept(height, width, d_state, seed):
    law = Brickwork(d_state, spread=1.0, seed=seed)
    psi = lattice.random((2 * height, 2 * width), d_state, dtype=torch.complex128)
    with torch.no_grad():
        there = law.evolve(psi)
        assert (law.inverse(there) - psi).abs().max() < 1e-12
        assert (law.evolve(law.inverse(psi)) - psi).abs().max() < 1e-12
    assert there.norm().item() == pytest.approx(psi.norm().item(), rel=1e-13)


def test_its_matrices_are_unitary_whatever_the_parameters():
    u = Brickwork(3, spread=5.0, seed=1).unitaries()
    assert (u.mH @ u - torch.eye(12)).abs().max() < 1e-12


@pytest.mark.parametrize(("dtype", "drift"), [(torch.complex128, 1e-11), (torch.complex64, 1e-3)])
def test_the_norm_is_kept_over_ten_thousand_steps(dtype, drift):
    law = Brickwork(2)
    psi = lattice.random(4, 2, dtype=dtype)
    before = psi.norm().item()
    with torch.no_grad():
        u = law.unitaries(dtype)
        law.unitaries = lambda dtype: u  # the same matrices each time, made once
        for _ in range(10_000):
            psi = law.evolve(psi)
    assert psi.norm().item() == pytest.approx(before, rel=drift)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_light_cone_is_the_one_derived(steps):
    law = Brickwork(2, spread=1.0).double()
    short, far = 2 * steps - 1, 2 * steps
    assert reach(law, 16, 16, steps) == (short, far, short, far)
    assert reach(law, 17, 17, steps) == (far, short, far, short)
    assert reach(law, 16, 17, steps) == (short, far, far, short)


def test_no_spread_is_the_identity():
    psi = lattice.random(4, 2)
    assert torch.allclose(Brickwork(2, spread=0.0).evolve(psi), psi, atol=1e-6)
