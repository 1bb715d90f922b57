"""Frames: what each view shows of states whose pictures are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab import colours, lattice
from atheria_lab.widgets.frames import VIEWS, frame


@given(
    view=st.sampled_from(VIEWS),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_view_of_any_state_is_bytes_of_its_shape(view, height, width, channels, seed):
    psi = lattice.random((height, width), channels, seed=seed)
    picture = frame(psi, view, channels - 1)
    assert picture.planes.dtype == np.uint8
    assert picture.planes.shape[1:] == (height, width)
    assert picture.planes.shape[0] == (2 if view in ("phase", "domain") else 1)
    assert math.isfinite(picture.high)
    assert picture.low <= 0 < picture.high


@pytest.mark.parametrize("view", VIEWS)
def test_empty_lattices_and_nan_have_a_picture(view):
    assert frame(lattice.zeros(4, 2), view).planes.shape[1:] == (4, 4)
    broken = lattice.random(4, 2)
    broken[0, 1, 2, 0] = complex(float("nan"), float("inf"))
    frame(broken, view)


def test_the_density_runs_from_zero_to_its_maximum():
    psi = lattice.zeros(4, 2)
    psi[0, 1, 2] = torch.tensor([1.0 + 1j, 1.0])
    psi[0, 3, 0, 0] = 1.0
    picture = frame(psi, "density")
    assert picture.high == pytest.approx(3)
    assert picture.planes[0, 1, 2] == 255
    assert picture.planes[0, 3, 0] == 85
    assert picture.planes.astype(int).sum() == 255 + 85


def test_the_phase_of_a_plane_wave_turns_once_round_the_circle():
    psi = lattice.plane_wave((4, 64), 1, wave=(0, 1))
    angle, strength = frame(psi, "phase").planes
    turns = np.diff(angle[0].astype(int)) % 256
    assert set(turns.tolist()) <= {3, 4, 5}
    assert turns.sum() == pytest.approx(63 * 4, abs=2)
    assert strength.min() >= 254


def test_real_and_imaginary_parts_are_centred_on_zero():
    psi = lattice.zeros(3, 1)
    psi[0, 0, 0, 0] = -2.0 + 1j
    real, imaginary = frame(psi, "real"), frame(psi, "imaginary")
    assert (real.low, real.high) == (-2.0, 2.0)
    assert real.planes[0, 0, 0] == 0
    assert real.planes[0, 1, 1] in (127, 128)
    assert imaginary.planes[0, 0, 0] == 255


def test_the_spectrum_of_a_wave_has_its_peaks_beside_the_middle():
    psi = lattice.plane_wave(16, 1, wave=(0, 1)) + lattice.plane_wave(16, 1, wave=(0, -2))
    plane = frame(psi, "S(k)").planes[0]
    bright = {tuple(place) for place in np.argwhere(plane > 100).tolist()}
    assert bright == {(8, 5), (8, 11)}  # the density beats with k = 3


def test_a_range_that_is_given_is_kept():
    psi = lattice.plane_wave(4, 1)
    assert frame(psi, "density", high=4.0).high == 4.0
    assert frame(psi, "density", high=4.0).planes.max() == 63


def test_large_lattices_are_averaged_not_thinned():
    psi = lattice.zeros((1024, 8), 1)
    psi[0, ::2] = 1.0
    picture = frame(psi, "density")
    assert picture.planes.shape == (1, 512, 8)
    assert picture.high == pytest.approx(0.5)


def test_unknown_views_and_channels_are_refused():
    psi = lattice.random(4, 2)
    with pytest.raises(ValueError, match="view"):
        frame(psi, "colour")
    with pytest.raises(ValueError, match="channel"):
        frame(psi, "real", 2)


@pytest.mark.parametrize("name", ["sequential", "cyclic", "diverging"])
def test_colour_maps_change_little_from_entry_to_entry(name):
    table = colours.table(name).astype(int)
    assert table.shape == (256, 3)
    assert np.abs(np.diff(table, axis=0)).max() <= 8
    if name == "cyclic":
        assert np.abs(table[0] - table[-1]).max() <= 8
    if name == "sequential":
        light = table @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(light) > -2).all()
        assert light[-1] - light[0] > 200


def test_unknown_colour_maps_are_refused():
    with pytest.raises(ValueError, match="name"):
        colours.table("jet")
