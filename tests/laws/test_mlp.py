"""MLP: every cell for itself."""

import pytest
import torch
from cones import cone, noise
from small import small_law

import atheria_lab as al

FUNCTIONS = {
    "silu": lambda x: x * torch.sigmoid(x),
    "relu": lambda x: x.clamp_min(0),
    "gelu": lambda x: x / 2 * (1 + torch.erf(x / 2**0.5)),
    "tanh": torch.tanh,
}


@pytest.fixture
def law():
    return small_law("MLP", torch.float64)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_it_is_its_formula_in_every_cell(activation):
    law = al.laws.MLP(2, hidden=3, activation=activation).double()
    for parameter in law.parameters():
        parameter.data = noise(*parameter.shape)
    x = noise(2, 4, 3, 5)
    expected = torch.empty_like(x)
    for b, i, j in ((b, i, j) for b in range(2) for i in range(3) for j in range(5)):
        inner = FUNCTIONS[activation](law.inner.weight @ x[b, :, i, j] + law.inner.bias)
        expected[b, :, i, j] = (law.outer.weight @ inner + law.outer.bias).detach()
    torch.testing.assert_close(law(x).detach(), expected)


def test_a_cell_sees_itself_only(law):
    assert law.radius == 0
    assert cone(law, 4, 6, (2, 5)) == (0, 0, 0, 0)


def test_cells_may_change_places(law):
    x = noise(1, 4, 3, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    expected = law(x).flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(law(shuffled), expected)


def test_it_takes_any_lattice(law):
    for size in ((1, 1), (1, 5), (7, 2)):
        assert law(noise(1, 4, *size)).shape == (1, 4, *size)


def test_the_activation_is_a_choice():
    with pytest.raises(ValueError, match=r"^activation: got 'swish'; it takes one of 'silu', "):
        al.laws.MLP(2, activation="swish")


@pytest.mark.parametrize("hidden", [0, -1])
def test_hidden_is_at_least_one(hidden):
    with pytest.raises(ValueError, match=f"^hidden: got {hidden}; it takes "):
        al.laws.MLP(2, hidden=hidden)
