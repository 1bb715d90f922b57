"""psi: initial states against analytic facts, norms, and refusals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atheria_lab import lattice

sides = st.integers(1, 9)
shapes = st.tuples(sides, sides)


@settings(deadline=None, max_examples=30)
@given(
    shapes,
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([torch.complex64, torch.complex128]),
)
def test_random_has_the_shape_dtype_and_norm_it_was_asked_for(size, d_state, batch, dtype):
    psi = lattice.random(size, d_state, batch=batch, dtype=dtype, seed=3)
    assert psi.shape == (batch, *size, d_state)
    assert psi.dtype == dtype
    means = lattice.density(psi).mean(dim=(1, 2))
    assert torch.allclose(means, torch.ones_like(means), rtol=1e-5)


def test_random_repeats_itself_by_its_seed():
    a, b, c = (lattice.random(8, 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_plane_wave_is_flat_and_turns_evenly():
    psi = lattice.plane_wave((6, 8), 2, wave=(1, 2), dtype=torch.complex128)
    rho = lattice.density(psi)
    assert torch.allclose(rho, torch.ones_like(rho))
    turned = psi[0, :, 1:, 0] / psi[0, :, :-1, 0]
    assert torch.allclose(turned.angle(), torch.full_like(turned.angle(), 2 * math.pi * 2 / 8))


def test_a_gaussian_has_its_width_and_its_center():
    rho = lattice.density(
        lattice.gaussian(200, 1, width=0.05, center=(0.25, 0.5), dtype=torch.complex128)
    )[0]
    y = torch.arange(200, dtype=torch.float64) / 200
    share = rho.sum(1) / rho.sum()
    mean = (share * y).sum()
    assert mean.item() == pytest.approx(0.25, abs=1e-6)
    assert (share * (y - mean) ** 2).sum().sqrt().item() == pytest.approx(0.05, rel=1e-3)


def test_a_gaussian_closes_over_the_edge():
    rho = lattice.density(lattice.gaussian(16, 1, center=(0.0, 0.0)))[0]
    assert torch.allclose(rho[1], rho[-1])
    assert torch.allclose(rho[:, 1], rho[:, -1])


@pytest.mark.parametrize("norm", lattice.NORMS)
def test_an_empty_lattice_stays_empty_and_has_a_finite_gradient(norm):
    psi = lattice.zeros(4, 2).requires_grad_()
    out = lattice.normalise(psi, norm)
    assert torch.equal(out, torch.zeros_like(out))
    out.real.sum().backward()
    assert torch.isfinite(torch.view_as_real(psi.grad)).all()


def test_the_cell_norm_makes_every_cell_one():
    rho = lattice.density(lattice.random(6, 3, norm="cell"))
    assert torch.allclose(rho, torch.ones_like(rho))


@settings(deadline=None, max_examples=20)
@given(shapes, st.integers(1, 4))
def test_channels_are_real_parts_first_and_come_back(size, d_state):
    psi = lattice.random(size, d_state, batch=2)
    x = lattice.to_channels(psi)
    assert x.shape == (2, 2 * d_state, *size)
    assert torch.equal(x[:, :d_state].permute(0, 2, 3, 1), psi.real)
    assert torch.equal(x[:, d_state:].permute(0, 2, 3, 1), psi.imag)
    assert torch.equal(lattice.from_channels(x), psi)


def test_from_array_copies_and_keeps_the_precision():
    array = np.ones((3, 4, 2))
    psi = lattice.from_array(array)
    array[:] = 7
    assert psi.dtype == torch.complex128
    assert torch.equal(psi, torch.ones_like(psi))
    tensor = torch.ones(1, 3, 4, 2)
    psi = lattice.from_array(tensor)
    tensor.zero_()
    assert psi.dtype == torch.complex64
    assert psi.real.min() == 1


@pytest.mark.parametrize(
    ("make", "error", "name"),
    [
        (lambda: lattice.random(0, 2), ValueError, "size"),
        (lambda: lattice.random(-4, 2), ValueError, "size"),
        (lambda: lattice.random(2.5, 2), TypeError, "size"),
        (lambda: lattice.random((1, 2, 3), 2), ValueError, "size"),
        (lambda: lattice.random(4, 0), ValueError, "d_state"),
        (lambda: lattice.random(4, 2, batch=0), ValueError, "batch"),
        (lambda: lattice.random(4, 2, seed=-1), ValueError, "seed"),
        (lambda: lattice.random(4, 2, norm="sphere"), ValueError, "norm"),
        (lambda: lattice.random(4, 2, dtype=torch.float32), ValueError, "dtype"),
        (lambda: lattice.gaussian(4, 2, width=0.0), ValueError, "width"),
        (lambda: lattice.gaussian(4, 2, width=float("nan")), ValueError, "width"),
        (lambda: lattice.phase(lattice.zeros(2, 3), channel=3), ValueError, "channel"),
        (lambda: lattice.from_array([1, 2]), TypeError, "array"),
        (lambda: lattice.from_array(np.array([["a"]])), TypeError, "array"),
        (lambda: lattice.from_array(np.ones(3)), ValueError, "array"),
        (lambda: lattice.from_array(np.full((2, 2, 1), np.nan)), ValueError, "array"),
        (lambda: lattice.check_psi(torch.ones(1, 2, 2, 1)), TypeError, "psi"),
        (lambda: lattice.check_psi(lattice.zeros(2, 3), d_state=2), ValueError, "psi"),
        (lambda: lattice.check_psi(lattice.zeros(2, 3) / 0), ValueError, "psi"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make, error, name):
    with pytest.raises(error, match=name):
        make()
