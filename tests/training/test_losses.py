"""Losses: defined under every norm, also where nothing is left to see."""

import pytest
import torch

from atheria_lab import lattice
from atheria_lab.training.losses import LOSSES, Trajectory, activity

STATES = {
    "random": lambda: lattice.random(8, 3),
    "empty": lambda: lattice.zeros(8, 3),
    "flat": lambda: lattice.plane_wave(8, 3),
    "one cell": lambda: lattice.random(1, 3),
    "odd": lambda: lattice.random((3, 5), 1, batch=2),
    "a row": lambda: lattice.random((1, 7), 2),
    "one cell of many": lambda: one_hot(),
    "nearly nothing": lambda: 1e-9 * lattice.random(8, 3),
    "double": lambda: lattice.random(8, 3, dtype=torch.complex128),
    "an empty one among others": lambda: torch.cat([lattice.random(8, 3), lattice.zeros(8, 3)]),
}


def one_hot():
    psi = lattice.zeros(8, 3)
    psi[0, 2, 5, 1] = 8.0
    return psi


@pytest.mark.parametrize("norm", lattice.NORMS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_are_finite(loss, state, norm):
    psi = lattice.normalise(STATES[state](), norm).requires_grad_()
    rated, metrics = LOSSES[loss](Trajectory([psi, psi], [1, 2], norm))
    rated.backward()
    assert torch.isfinite(rated)
    assert torch.isfinite(torch.view_as_real(psi.grad)).all()
    assert all(torch.isfinite(value) for value in metrics.values())


def rate(loss, psi, norm="lattice"):
    return LOSSES[loss](Trajectory([psi], [1], norm))


def test_a_mirror_image_is_symmetric_and_noise_is_not():
    noise = lattice.random(32, 4)
    half = noise + noise.flip(1)
    mirrored = lattice.normalise(half + half.flip(2))
    assert rate("evolutionary", mirrored)[1]["symmetry"] < 1e-6
    assert rate("evolutionary", noise)[1]["symmetry"] == pytest.approx(1, abs=0.2)


def test_survival_is_worst_at_one_cell():
    one = lattice.zeros(16, 1)
    one[0, 3, 4] = 16.0
    third = lattice.zeros(18, 1)
    third[:, :6] = 3**0.5
    assert rate("evolutionary", third)[1]["survival"] == pytest.approx(0, abs=1e-6)
    assert rate("evolutionary", one)[1]["survival"] > 5


def test_structure_likes_stripes_of_its_scale():
    def stripes(waves):
        return lattice.plane_wave(32, 1, wave=(0, waves)) + lattice.plane_wave(32, 1, wave=(0, 0))

    assert rate("structure", stripes(4))[0] == pytest.approx(-1, abs=1e-3)
    assert rate("structure", stripes(12))[0] == pytest.approx(0, abs=1e-3)


def test_structure_likes_rings_better_than_noise_and_flatness():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    distance = ((y - 16).square() + (x - 16).square()).sqrt()
    ring = torch.exp(-((distance - 8) ** 2) / 4)[None, :, :, None].to(torch.complex64)
    rings, noise, flat = (
        rate("structure", psi)[0]
        for psi in (ring, lattice.random(32, 1), lattice.plane_wave(32, 1))
    )
    assert rings < noise < flat
    assert rings < -0.7
    assert flat == pytest.approx(0, abs=1e-4)


def test_energy_is_the_squared_distance_of_the_mean_density_from_one():
    assert rate("energy", 2 * lattice.random(8, 2), "none")[0] == pytest.approx(9, rel=1e-5)
    assert rate("energy", lattice.random(8, 2), "none")[0] == pytest.approx(0, abs=1e-10)


def test_the_evolutionary_loss_is_the_sum_of_its_parts_over_all_states():
    states = [lattice.random(8, 2, seed=seed) for seed in range(3)]
    whole, metrics = LOSSES["evolutionary"](Trajectory(states, [1, 2, 3], "lattice"))
    assert whole == pytest.approx(sum(value.item() for value in metrics.values()), rel=1e-5)
    parts = [rate("evolutionary", psi)[0] for psi in states]
    assert whole == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)


def test_the_activity_under_the_cell_norm_sees_what_the_density_cannot():
    psi = lattice.random(8, 2, norm="cell")
    assert lattice.density(psi).var() < 1e-10
    assert activity(psi, "cell").var() > 0.01
    flat = torch.ones(1, 8, 8, 1, dtype=torch.complex64)
    assert activity(flat, "cell").abs().max() < 1e-6
