"""Noise that replays: the generator, what it does to psi, and the seeds of a study."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab import lattice, native
from atheria_lab.noise import Noise, Part, Ramp, derive_seed, philox, uniform

BOTH = Noise(phase=0.7, sign=0.3)
NOISES = [Noise(phase=0.7), Noise(sign=0.3), BOTH]
every_noise = pytest.mark.parametrize("noise", NOISES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)


def psi_of(*shape, dtype=torch.complex128):
    return torch.ones(shape, dtype=dtype)


# Philox


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [  # Random123's own known answers
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_known_answers_of_philox(counter, key, block):
    counter, key = ([int(word, 16) for word in words.split()] for words in (counter, key))
    assert " ".join(f"{int(word):08x}" for word in philox(tuple(counter), tuple(key))) == block


def test_the_counter_is_cell_block_of_four_channels_step_and_stream():
    seed, step, stream = 0x123456789ABCDEF0, 0x0003_0000_0007, 1
    numbers = uniform(psi_of(2, 2, 3, 6), seed=seed, step=step, stream=stream).reshape(12, 6)
    for cell, channel in itertools.product(range(12), range(6)):
        words = philox((cell, channel // 4, 7, stream | 3 << 8), (0x9ABCDEF0, 0x12345678))
        assert numbers[cell, channel].item() == (int(words[channel % 4]) >> 8) / 2**24


@given(
    shape=st.tuples(*[st.integers(1, 3)] * 3, st.integers(1, 9)),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**56 - 1),
    stream=st.integers(0, 255),
    dtype=st.sampled_from([torch.complex64, torch.complex128]),
)
def test_the_compiled_numbers_are_the_same_to_the_last_bit(shape, seed, step, stream, dtype):
    ours = uniform(psi_of(*shape, dtype=dtype), seed=seed, step=step, stream=stream)
    assert (ours.shape, ours.dtype) == (shape, dtype.to_real())
    cells = math.prod(shape[:3])
    theirs = native.uniform(cells, shape[3], seed=seed, step=step, stream=stream)
    np.testing.assert_array_equal(ours.reshape(cells, -1).numpy().astype("float64"), theirs)


def test_numbers_are_uniform_and_independent():
    grid = uniform(psi_of(1, 128, 128, 4), seed=1, step=2, stream=0)[0]
    assert 0 <= grid.min() < 1e-3 < 0.999 < grid.max() < 1
    counts = torch.histc(grid, 16, 0, 1)
    expected = grid.numel() / 16
    assert (((counts - expected) ** 2) / expected).sum() < 45  # chi-square, 15 degrees: 1e-4
    centered = (grid - 0.5) * math.sqrt(12)
    for other in (
        centered.roll(1, 0),
        centered.roll(1, 1),
        centered.roll(1, 2),
        (uniform(psi_of(1, 128, 128, 4), seed=1, step=3, stream=0)[0] - 0.5) * math.sqrt(12),
        (uniform(psi_of(1, 128, 128, 4), seed=1, step=2, stream=1)[0] - 0.5) * math.sqrt(12),
        (uniform(psi_of(1, 128, 128, 4), seed=2, step=2, stream=0)[0] - 0.5) * math.sqrt(12),
    ):
        assert abs((centered * other).mean()) < 4.5 / math.sqrt(grid.numel())


# What noise does to psi


@every_noise
@every_dtype
def test_noise_replays_by_seed_and_step_alone(noise, dtype):
    psi = lattice.random(8, 3, seed=1, batch=2, dtype=dtype)
    before = torch.get_rng_state()
    out = noise.apply(psi, seed=7, step=5)
    noise.apply(psi, seed=8, step=6)  # what else is drawn has no say
    assert torch.equal(noise.apply(psi, seed=7, step=5), out)
    assert torch.equal(torch.get_rng_state(), before)
    assert out.dtype == dtype
    for seed, step in ((7, 6), (8, 5), (7, 5 + 2**32), (7 + 2**32, 5)):
        assert not torch.equal(noise.apply(psi, seed=seed, step=step), out)


@every_noise
@every_dtype
def test_noise_keeps_every_density(noise, dtype):
    psi = lattice.random(8, 3, seed=1, dtype=dtype)
    out = noise.apply(psi, seed=7, step=5)
    torch.testing.assert_close(out.abs(), psi.abs())
    torch.testing.assert_close(lattice.density(out), lattice.density(psi))


@every_noise
@every_dtype
def test_invert_undoes_apply(noise, dtype):
    psi = lattice.random(8, 3, seed=1, dtype=dtype)
    out = noise.apply(psi, seed=7, step=5)
    assert not torch.allclose(out, psi, rtol=0.01)
    torch.testing.assert_close(noise.invert(out, seed=7, step=5), psi)
    assert not torch.allclose(noise.invert(out, seed=7, step=4), psi, rtol=0.01)


def test_no_noise_is_nothing_at_all():
    psi = lattice.random(2, 1)
    assert not Noise()
    assert Noise().apply(psi, seed=0, step=0) is psi
    assert Noise().invert(psi, seed=0, step=0) is psi
    assert all(NOISES)


@pytest.mark.parametrize("phase", [0.1, math.pi])
def test_angles_are_uniform_between_minus_phase_and_phase(phase):
    factor = Noise(phase=phase).factor(psi_of(1, 128, 128, 2), seed=3, step=0)
    angles = factor.angle()
    assert angles.abs().max() <= phase
    assert angles.max() > 0.999 * phase
    assert angles.min() < -0.999 * phase
    error = phase / math.sqrt(3 * angles.numel())
    assert abs(angles.mean().item()) < 4 * error
    assert angles.square().mean().item() == pytest.approx(phase**2 / 3, rel=0.02)


@pytest.mark.parametrize("sign", [0.0, 0.1, 0.9, 1.0])
def test_signs_change_with_their_probability(sign):
    factor = Noise(sign=sign).factor(psi_of(1, 128, 128, 2), seed=3, step=0)
    assert bool((factor.abs() == 1).all())
    assert not factor.imag.any()
    share = (factor.real < 0).double().mean().item()
    assert abs(share - sign) <= 4 * math.sqrt(sign * (1 - sign) / factor.numel())


def test_phases_and_signs_are_drawn_apart():
    psi = psi_of(1, 64, 64, 2)
    turned, flipped, both = (noise.factor(psi, seed=3, step=0) for noise in NOISES)
    torch.testing.assert_close(both, turned * flipped)
    angles, signs = turned.angle().flatten(), flipped.real.flatten()
    assert abs(torch.corrcoef(torch.stack([angles, signs]))[0, 1]) < 4 / math.sqrt(psi.numel())


@every_noise
def test_noise_is_differentiated(noise):
    psi = lattice.random(2, 3, dtype=torch.complex128).requires_grad_()
    assert torch.autograd.gradcheck(lambda psi: noise.apply(psi, seed=1, step=2), psi)


# A curriculum


def test_a_ramp_grows_evenly_and_stays():
    ramp = Ramp(end=BOTH, episodes=4, start=Noise(phase=0.1))
    assert ramp.at(0) == Noise(phase=0.1)
    assert vars(ramp.at(2)) == pytest.approx({"phase": 0.4, "sign": 0.15})
    assert ramp.at(4) == ramp.at(1000) == BOTH
    assert Ramp(end=BOTH, episodes=1).at(0) == Noise()
    assert BOTH.at(17) is BOTH


def test_a_ramp_between_equal_noises_is_flat_and_never_beyond_the_limits():
    full = Noise(phase=math.pi, sign=1.0)
    assert all(Ramp(full, 59, start=full).at(episode) == full for episode in range(60))


@pytest.mark.parametrize(
    ("make", "name", "error"),
    [
        (lambda: Noise(phase=-0.1), "phase", ValueError),
        (lambda: Noise(phase=3.2), "phase", ValueError),
        (lambda: Noise(phase=math.nan), "phase", ValueError),
        (lambda: Noise(phase="0.1"), "phase", TypeError),
        (lambda: Noise(sign=1.1), "sign", ValueError),
        (lambda: Noise(sign=-1), "sign", ValueError),
        (lambda: Noise(sign=True), "sign", TypeError),
        (lambda: Ramp(BOTH, episodes=0), "episodes", ValueError),
        (lambda: Ramp(BOTH, episodes=2.5), "episodes", TypeError),
        (lambda: Ramp(0.3, episodes=2), "end", TypeError),
        (lambda: Ramp(BOTH, episodes=2, start=0.1), "start", TypeError),
    ],
)
def test_refusals(make, name, error):
    with pytest.raises(error, match=rf"^{name}: got .*; it takes "):
        make()


# Seeds of a study


def test_a_known_answer_of_splitmix64():
    assert derive_seed(0) == 0xE220A8397B1DCDAF >> 1


def test_derived_seeds_are_all_different():
    ids = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (2**40,), (0, 0, 0)]
    ids += [(part, episode) for part in range(3) for episode in range(2, 300)]
    seeds = [derive_seed(seed, *path) for seed in (0, 1, 2, 2**40) for path in ids]
    assert len(set(seeds)) == len(seeds)


@given(seed=st.integers(0, 2**64 - 1), ids=st.lists(st.integers(0, 2**40), max_size=3))
def test_a_derived_seed_has_63_bits_and_is_always_the_same(seed, ids):
    derived = derive_seed(seed, *ids)
    assert 0 <= derived < 2**63
    assert derived == derive_seed(seed, *ids)
    lattice.random(1, 1, seed=derived)


def test_a_seed_and_its_neighbour_share_half_of_their_bits():
    pairs = itertools.product(range(20), repeat=2)
    bits = [(derive_seed(s, e) ^ derive_seed(s, e + 1)).bit_count() for s, e in pairs]
    assert sum(bits) / len(bits) == pytest.approx(31.5, abs=1)


@given(st.integers(0, 2), st.integers(0, 3), st.integers(1, 3))
def test_a_part_of_a_lattice_has_the_noise_of_the_whole(first, row, rows):
    whole = lattice.random((6, 5), 3, batch=4)
    noise = Noise(phase=0.4, sign=0.3)
    part = Part(lattice=first, row=row, height=6)
    mine = whole[first : first + 2, row : row + rows]
    wanted = noise.factor(whole, seed=3, step=2)[first : first + 2, row : row + rows]
    assert torch.allclose(noise.factor(mine, seed=3, step=2, part=part), wanted, atol=1e-6)
    quiet = noise.invert(noise.apply(mine, seed=3, step=2, part=part), seed=3, step=2, part=part)
    assert torch.allclose(quiet, mine, atol=1e-5)
