"""Conv: a cell and its eight neighbours."""

import pytest
import torch
from cones import cone, noise
from small import small_law
from torch.nn import functional as F  # noqa: N812

import atheria_lab as al


@pytest.fixture
def law():
    return small_law("Conv", torch.float64)


def test_it_is_its_formula_on_the_torus(law):
    x = noise(2, 4, 5, 3)
    inner = law.inner.bias.reshape(1, -1, 1, 1)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            neighbour = x.roll((-dy, -dx), (2, 3))
            weight = law.inner.weight[:, :, dy + 1, dx + 1]
            inner = inner + torch.einsum("oi,biyx->boyx", weight, neighbour)
    outer = torch.einsum("oi,biyx->boyx", law.outer.weight[..., 0, 0], F.silu(inner))
    torch.testing.assert_close(law(x), outer + law.outer.bias.reshape(1, -1, 1, 1))


@pytest.mark.parametrize("cell", [(3, 4), (0, 0), (7, 7)])
def test_a_cell_reaches_its_neighbours_also_round_the_torus(law, cell):
    assert law.radius == 1
    assert cone(law, 4, 8, cell) == (1, 1, 1, 1)


def test_n_steps_reach_n_cells(law):
    assert cone(lambda x: law(law(law(x))), 4, 10, (1, 9)) == (3, 3, 3, 3)


@pytest.mark.parametrize("shift", [(1, 0), (2, -3)])
def test_it_is_the_same_everywhere(law, shift):
    x = noise(1, 4, 5, 6)
    torch.testing.assert_close(law(x.roll(shift, (2, 3))), law(x).roll(shift, (2, 3)))


def test_a_narrow_lattice_is_its_own_neighbour(law):
    """A lattice of one row moves like one of three equal rows."""
    row = noise(1, 4, 1, 6)
    torch.testing.assert_close(law(row).expand(1, 4, 3, 6), law(row.expand(1, 4, 3, 6)))


def test_refusals():
    with pytest.raises(ValueError, match=r"^hidden: got 0; it takes "):
        al.laws.Conv(2, hidden=0)
    with pytest.raises(ValueError, match=r"^activation: got 'swish'; it takes "):
        al.laws.Conv(2, activation="swish")
