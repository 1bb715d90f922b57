"""Noise: known answers, replay, statistics, and the compiled twin."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atheria_lab import lattice, native
from atheria_lab.noise import Noise, Ramp, derive_seed, philox, uniform


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # kat_vectors of Random123
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_known_answers(counter, key, answer):
    assert tuple(int(word) for word in philox(counter, key)) == answer


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9)),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**50),
    st.integers(0, 1),
)
def test_the_compiled_numbers_are_the_same(shape, seed, step, stream):
    psi = torch.zeros(shape, dtype=torch.complex128)
    ours = uniform(psi, seed=seed, step=step, stream=stream).reshape(-1, shape[-1])
    cells = shape[0] * shape[1] * shape[2]
    theirs = native.uniform(cells, shape[-1], seed=seed, step=step, stream=stream)
    assert torch.equal(ours, torch.from_numpy(theirs))


@settings(deadline=None, max_examples=20)
@given(st.floats(0, math.pi), st.floats(0, 1), st.integers(0, 2**40), st.integers(0, 10**6))
def test_noise_replays_keeps_the_density_and_can_be_undone(phase, sign, seed, step):
    noise = Noise(phase=phase, sign=sign)
    psi = lattice.random(5, 3, dtype=torch.complex128)
    once = noise.apply(psi, seed=seed, step=step)
    assert torch.equal(once, noise.apply(psi, seed=seed, step=step))
    assert torch.allclose(lattice.density(once), lattice.density(psi))
    assert torch.allclose(noise.invert(once, seed=seed, step=step), psi)


def test_steps_seeds_and_streams_differ():
    psi = lattice.zeros(8, 4)
    draws = [
        uniform(psi, seed=seed, step=step, stream=stream)
        for seed in (0, 1)
        for step in (0, 1, 2**32)
        for stream in (0, 1)
    ]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert (a == b).float().mean() < 0.01


def test_the_statistics_are_those_that_were_asked_for():
    psi = torch.ones(1, 128, 128, 4, dtype=torch.complex128)
    angle = Noise(phase=0.5).apply(psi, seed=1, step=2).angle()
    assert angle.abs().max() <= 0.5
    assert angle.mean().abs() < 0.01
    assert angle.var().item() == pytest.approx(0.5**2 / 3, rel=0.02)
    flipped = Noise(sign=0.2).apply(psi, seed=1, step=2).real < 0
    assert flipped.double().mean().item() == pytest.approx(0.2, abs=0.01)


def test_the_same_numbers_in_both_precisions():
    psi = lattice.zeros(4, 3)
    a = uniform(psi, seed=5, step=6, stream=0)
    b = uniform(psi.to(torch.complex128), seed=5, step=6, stream=0)
    assert torch.equal(a.double(), b)


def test_a_ramp_grows_evenly_and_stays():
    ramp = Ramp(Noise(phase=1.0, sign=0.5), episodes=10)
    assert not ramp.at(0)
    assert ramp.at(5) == Noise(phase=0.5, sign=0.25)
    assert ramp.at(10) == ramp.at(99) == Noise(phase=1.0, sign=0.5)


def test_derived_seeds_are_all_different():
    seeds = {
        derive_seed(seed, part, n) for seed in range(5) for part in range(3) for n in range(99)
    }
    assert len(seeds) == 5 * 3 * 99
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Noise(phase=-0.1), "phase"),
        (lambda: Noise(phase=4.0), "phase"),
        (lambda: Noise(sign=1.5), "sign"),
        (lambda: Noise(sign=float("nan")), "sign"),
        (lambda: Ramp(Noise(), episodes=0), "episodes"),
    ],
)
def test_numbers_out_of_range_are_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()
