"""Brickwork: unitary, local and invertible."""

import functools
import math

import pytest
import torch
from cones import cone, noise
from hypothesis import given, settings
from hypothesis import strategies as st

import atheria_lab as al

even = st.integers(1, 4).map(lambda half: 2 * half)


def psi_of(*shape, dtype=torch.complex128):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def swift(monkeypatch):
    """A law that takes its exponentials once, for runs of many steps."""
    law = al.laws.Brickwork(2, seed=3)
    monkeypatch.setattr(law, "unitaries", functools.cache(law.unitaries))
    return law


def length(psi):
    return torch.linalg.vector_norm(psi.to(torch.complex128)).item()


@settings(max_examples=30)
@given(st.integers(1, 3), even, even, st.integers(1, 4), st.floats(0, 3), st.integers(0, 9))
def test_it_is_unitary_and_its_inverse_is_its_adjoint(batch, height, width, d_state, spread, seed):
    law = al.laws.Brickwork(d_state, spread=spread, seed=seed)
    psi, phi = psi_of(batch, height, width, d_state), psi_of(batch, width, height, d_state)
    phi = phi.transpose(1, 2)
    with torch.no_grad():
        assert (law.inverse(law.evolve(psi)) - psi).abs().max() <= 1e-12
        assert (law.evolve(law.inverse(psi)) - psi).abs().max() <= 1e-12
        overlap = torch.vdot(phi.flatten(), law.evolve(psi).flatten())
        adjoint = torch.vdot(law.inverse(phi).flatten(), psi.flatten())
    torch.testing.assert_close(overlap, adjoint)
    for unitary in law.unitaries():
        identity = torch.eye(4 * d_state, dtype=torch.complex128)
        torch.testing.assert_close(unitary.mH @ unitary, identity, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("dtype", "drift"), [(torch.complex128, 1e-9), (torch.complex64, 1e-3)], ids=str
)
def test_ten_thousand_steps_keep_the_norm(swift, dtype, drift):
    psi = al.lattice.random(4, 2, dtype=dtype)
    start = length(psi)
    with torch.no_grad():
        for _ in range(10_000):
            psi = swift.evolve(psi)
    assert abs(length(psi) / start - 1) <= drift
    assert not torch.allclose(psi, al.lattice.random(4, 2, dtype=dtype), rtol=0.01)


def test_a_thousand_steps_are_undone(swift):
    psi = start = psi_of(1, 4, 4, 2)
    with torch.no_grad():
        for _ in range(1000):
            psi = swift.evolve(psi)
        for _ in range(1000):
            psi = swift.inverse(psi)
    torch.testing.assert_close(psi, start, rtol=0, atol=1e-10)


def test_a_block_is_turned_by_the_matrix_of_its_layer():
    """On a lattice of 4x4 with only one block filled, by hand."""
    law = al.laws.Brickwork(2)
    first, second = law.unitaries().detach()
    psi = torch.zeros(1, 4, 4, 2, dtype=torch.complex128)
    block = psi_of(8)
    psi[0, 2:, :2] = block.reshape(2, 2, 2)  # rows 2, 3 and columns 0, 1: an even block
    halfway = torch.zeros_like(psi)
    halfway[0, 2:, :2] = (first @ block).reshape(2, 2, 2)
    expected = torch.zeros_like(psi)
    for row in (1, 3):
        for column in (1, 3):
            rows, columns = [row, (row + 1) % 4], [column, (column + 1) % 4]
            odd = halfway[0][rows][:, columns].reshape(8)
            expected[0, rows[0], columns], expected[0, rows[1], columns] = (
                (second @ odd).reshape(2, 2, 2).unbind()
            )
    torch.testing.assert_close(law.evolve(psi).detach(), expected)


def channels(move):
    """A move of psi with one amplitude a cell, seen as real channels."""
    return lambda x: al.lattice.to_channels(move(al.lattice.from_channels(x)))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("direction", ["evolve", "inverse"])
def test_n_steps_reach_2n_cells_to_one_side_and_one_less_to_the_other(steps, direction):
    law = al.laws.Brickwork(1)
    assert law.radius == 2

    def move(psi):
        for _ in range(steps):
            psi = getattr(law, direction)(psi)
        return psi

    near, far = 2 * steps - 1, 2 * steps
    # Forward an even cell starts in a block with the next cell, backward with the one before.
    even, odd = ((near, far), (far, near))[:: 1 if direction == "evolve" else -1]
    assert cone(channels(move), 2, 16, (0, 0)) == (*even, *even)
    assert cone(channels(move), 2, 16, (15, 15)) == (*odd, *odd)
    assert cone(channels(move), 2, 16, (6, 3)) == (*even, *odd)


def test_it_is_the_same_in_every_second_cell():
    law, psi = al.laws.Brickwork(2), psi_of(1, 6, 4, 2)
    shifted = law.evolve(psi.roll((2, -2), (1, 2)))
    torch.testing.assert_close(shifted, law.evolve(psi).roll((2, -2), (1, 2)))
    assert not torch.allclose(law.evolve(psi.roll(1, 1)), law.evolve(psi).roll(1, 1), rtol=1e-3)


def test_no_spread_is_the_identity():
    psi = psi_of(1, 4, 4, 2)
    torch.testing.assert_close(al.laws.Brickwork(2, spread=0.0).evolve(psi), psi)


def test_spread_and_seed_make_the_generators():
    generators = al.laws.Brickwork(4, spread=0.5, seed=1).generators.detach()
    assert generators.std().item() == pytest.approx(0.5 / math.sqrt(16), rel=0.1)
    assert torch.equal(generators, al.laws.Brickwork(4, spread=0.5, seed=1).generators)
    assert not torch.equal(generators, al.laws.Brickwork(4, spread=0.5, seed=2).generators)


def test_as_a_law_it_moves_channels():
    law, psi = al.laws.Brickwork(3), psi_of(2, 4, 6, 3)
    x = al.lattice.to_channels(psi)
    torch.testing.assert_close(law(x), al.lattice.to_channels(law.evolve(psi)))


def test_single_precision_is_double_precision_rounded():
    law, psi = al.laws.Brickwork(2), psi_of(1, 4, 4, 2)
    rough = law.evolve(psi.to(torch.complex64))
    assert rough.dtype == torch.complex64
    torch.testing.assert_close(rough.to(torch.complex128), law.evolve(psi), rtol=1e-5, atol=1e-6)


def test_its_generators_are_learned_in_any_direction():
    law = al.laws.Brickwork(1).double()
    x = al.lattice.to_channels(psi_of(1, 4, 4, 1))

    def rate(generators):
        moved = torch.func.functional_call(law, {"generators": generators}, (x,))
        return (moved * noise(*moved.shape)).sum()

    assert torch.autograd.gradcheck(rate, law.generators)


@pytest.mark.parametrize("move", ["evolve", "inverse"])
def test_it_refuses_odd_sides_and_other_channels(move):
    law = al.laws.Brickwork(2)
    for size in ((3, 4), (4, 5)):
        with pytest.raises(ValueError, match=f"^psi: got a lattice of {size[0]}x{size[1]} cells"):
            getattr(law, move)(psi_of(1, *size, 2))
    for shape in ((1, 4, 4, 3), (4, 4, 2)):
        with pytest.raises(ValueError, match=r"^psi: got shape .*; this law takes \[B, H, W, 2\]"):
            getattr(law, move)(psi_of(*shape))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"spread": -1.0}, ValueError),
        ({"spread": math.nan}, ValueError),
        ({"spread": "wide"}, TypeError),
        ({"seed": -1}, ValueError),
        ({"seed": 0.5}, TypeError),
        ({"d_state": 0}, ValueError),
    ],
    ids=str,
)
def test_refusals(options, error):
    (name,) = options
    with pytest.raises(error, match=f"^{name}: got .*; it takes "):
        al.laws.Brickwork(**{"d_state": 2, **options})
