"""UNet: many scales at once, and still a finite light cone."""

import pytest
import torch
from cones import noise, widest

import atheria_lab as al


def unet(levels, hidden=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return al.laws.UNet(1, hidden=hidden, levels=levels).double()


@pytest.mark.parametrize(("levels", "radius", "side"), [(1, 5, 12), (2, 13, 28), (3, 29, 64)])
def test_the_light_cone_is_the_radius(levels, radius, side):
    law = unet(levels)
    assert law.radius == radius
    assert widest(law, 2, side, 2**levels) == (radius,) * 4


@pytest.mark.parametrize("levels", [1, 2])
def test_it_is_the_same_wherever_its_coarsest_cells_fall(levels):
    law, factor = unet(levels), 2**levels
    x = noise(1, 2, 3 * factor, 2 * factor)
    for shift in ((factor, 0), (factor, -factor)):
        torch.testing.assert_close(law(x.roll(shift, (2, 3))), law(x).roll(shift, (2, 3)))
    assert not torch.allclose(law(x.roll(1, 2)), law(x).roll(1, 2), rtol=1e-3)


def test_lattices_of_a_batch_do_not_feel_each_other():
    law = unet(1)
    x, y = noise(1, 2, 4, 4), noise(1, 2, 4, 4, seed=1)
    torch.testing.assert_close(law(torch.cat([x, y])), torch.cat([law(x), law(y)]))


def test_every_level_has_its_say():
    """Without what comes from below, and without its own skip, the change is another."""
    law = unet(2)
    x = noise(1, 2, 8, 8)
    below, skips = law.descend(x)
    assert [skip.shape[1:] for skip in skips] == [(4, 8, 8), (8, 4, 4)]
    below = law.bottom(below)
    assert below.shape[1:] == (16, 2, 2)
    torch.testing.assert_close(law.ascend(below, list(skips)), law(x))
    for silenced in range(3):
        parts = [below, *skips]
        parts[silenced] = torch.zeros_like(parts[silenced])
        assert not torch.allclose(law.ascend(parts[0], parts[1:]), law(x), rtol=1e-3)


def test_each_cell_is_normalised_after_each_convolution():
    """So that however large a convolution's weights grow, its block gives the same."""
    law = unet(2)
    x = noise(1, 2, 8, 8)
    before = law(x)
    blocks = [*law.down, law.bottom, *law.up]
    assert len(blocks) == 5
    for block in blocks:
        block.conv.weight.data.mul_(50)
        torch.testing.assert_close(law(x), before, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("size", [(6, 8), (8, 2), (4, 7)])
def test_sides_must_be_halved_often_enough(size):
    height, width = size
    with pytest.raises(
        ValueError, match=f"^x: got a lattice of {height}x{width} cells; UNet .*multiples of 4"
    ):
        unet(2)(noise(1, 2, height, width))


def test_refusals():
    for name in ("hidden", "levels"):
        with pytest.raises(ValueError, match=f"^{name}: got 0; it takes "):
            al.laws.UNet(2, **{name: 0})
        with pytest.raises(TypeError, match=f"^{name}: got 1.5; it takes "):
            al.laws.UNet(2, **{name: 1.5})
    with pytest.raises(ValueError, match=r"^activation: got 'swish'; it takes "):
        al.laws.UNet(2, activation="swish")
