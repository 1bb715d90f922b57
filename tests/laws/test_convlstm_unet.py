"""ConvLSTMUNet: a U-Net whose bottom remembers."""

import pytest
import torch
from cones import cone, noise, widest
from torch.nn import functional as F  # noqa: N812

import atheria_lab as al


def recurrent(levels=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return al.laws.ConvLSTMUNet(1, hidden=4, levels=levels).double()


@pytest.fixture
def law():
    return recurrent()


def test_the_bottom_is_a_convolutional_lstm(law):
    cell, x = law.bottom, noise(2, 4, 3, 5)
    h, c = noise(2, 2, 8, 3, 5, seed=1)
    joined = F.pad(torch.cat([x, h], 1), (1, 1, 1, 1), mode="circular")
    i, f, o, g = F.conv2d(joined, cell.gates.weight, cell.gates.bias).split(8, dim=1)
    next_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    next_h = torch.sigmoid(o) * torch.tanh(next_c)
    torch.testing.assert_close(cell(x, h, c), (next_h, next_c))


def test_it_starts_remembering(law):
    assert law.bottom.gates.bias.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16


def test_hidden_starts_as_zeros_in_the_shape_of_the_bottom():
    law = recurrent(levels=2)
    hidden = law.initial_hidden(noise(3, 2, 8, 12))
    assert [tensor.shape for tensor in hidden] == [(3, 16, 2, 3)] * 2
    assert not any(tensor.any() for tensor in hidden)
    assert {tensor.dtype for tensor in hidden} == {torch.float64}


def test_alone_it_starts_afresh_and_keeps_nothing(law):
    x = noise(1, 2, 4, 4)
    change, hidden = law(x, law.initial_hidden(x))
    torch.testing.assert_close(law(x), change)
    torch.testing.assert_close(law(x), change)  # still
    assert [tensor.shape for tensor in hidden] == [(1, 8, 2, 2)] * 2
    assert not list(law.buffers())


def test_hidden_changes_what_comes_next(law):
    x = noise(1, 2, 4, 4)
    first, hidden = law(x, law.initial_hidden(x))
    second, _ = law(x, hidden)
    assert not torch.allclose(first, second, rtol=1e-3)


def test_the_gradient_of_a_late_change_reaches_an_early_input_through_hidden(law):
    early = noise(1, 2, 4, 4).requires_grad_()
    _, hidden = law(early, law.initial_hidden(early))
    late = noise(1, 2, 4, 4, seed=1)
    for _ in range(3):
        change, hidden = law(late, hidden)
    (grad,) = torch.autograd.grad(change.square().sum(), early)
    assert (grad != 0).all()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize(("levels", "radius", "side"), [(1, 5, 12), (2, 13, 28)])
def test_the_light_cone_is_that_of_the_unet(levels, radius, side):
    law = recurrent(levels)
    assert law.radius == radius == al.laws.UNet(1, levels=levels).radius
    assert widest(law, 2, side, 2**levels) == (radius,) * 4


def test_what_hidden_remembers_stays_in_the_light_cone(law):
    """A change of the first input is felt after the second step, two radii away at most."""
    later = noise(1, 2, 24, 24, seed=1)

    def second_change(x):
        _, hidden = law(x, law.initial_hidden(x))
        return law(later, hidden)[0]

    assert 0 < max(cone(second_change, 2, 24, (0, 0))) <= 2 * law.radius


def test_it_is_the_same_wherever_its_coarsest_cells_fall(law):
    x = noise(1, 2, 4, 6)
    change, hidden = law(x, law.initial_hidden(x))
    rolled, rolled_hidden = law(x.roll((2, -2), (2, 3)), law.initial_hidden(x))
    torch.testing.assert_close(rolled, change.roll((2, -2), (2, 3)))
    expected = [tensor.roll((1, -1), (2, 3)) for tensor in hidden]
    torch.testing.assert_close(list(rolled_hidden), expected)


def test_sides_are_checked_before_hidden_is_made(law):
    message = "^x: got a lattice of 5x4 cells; ConvLSTMUNet .*multiples of 2"
    with pytest.raises(ValueError, match=message):
        law.initial_hidden(noise(1, 2, 5, 4))
    with pytest.raises(ValueError, match=message):
        law(noise(1, 2, 5, 4))
