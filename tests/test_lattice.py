"""psi: how it is made, normalised, looked at, and refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atheria_lab import lattice

DTYPES = [torch.complex64, torch.complex128]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_norm = pytest.mark.parametrize("norm", ["lattice", "cell"])
MAKERS = [lattice.random, lattice.gaussian, lattice.plane_wave, lattice.zeros]
every_maker = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)

sides = st.integers(1, 7)
shapes = st.tuples(st.integers(1, 3), sides, sides, st.integers(1, 5))


def numbers(shape, dtype=torch.complex128, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def brightness_of_batch(psi):
    """Psi whose lattices differ in scale by orders of magnitude."""
    return psi * (10.0 ** torch.arange(len(psi))).reshape(-1, 1, 1, 1)


# What is made


@every_maker
@every_dtype
def test_a_state_is_batch_height_width_d_state(make, dtype):
    psi = make((3, 5), 4, batch=2, dtype=dtype)
    assert (psi.shape, psi.dtype, psi.device.type) == ((2, 3, 5, 4), dtype, "cpu")
    assert psi.is_contiguous()
    assert make(3, 1).shape == (1, 3, 3, 1)
    assert make(3, 1).dtype == torch.complex64


@pytest.mark.parametrize("make", MAKERS[:3], ids=lambda make: make.__name__)
@every_norm
def test_what_is_made_is_normalised_as_asked(make, norm):
    rho = lattice.density(make((4, 6), 3, batch=2, norm=norm, dtype=torch.complex128))
    flat = rho if norm == "cell" else rho.mean(dim=(1, 2))
    torch.testing.assert_close(flat, torch.ones_like(flat))


def test_random_is_its_seed():
    psi = lattice.random(8, 3, seed=5, batch=2)
    torch.manual_seed(1)  # torch's own generator has no say
    assert torch.equal(psi, lattice.random(8, 3, seed=5, batch=2))
    assert not torch.equal(psi, lattice.random(8, 3, seed=6, batch=2))
    assert not torch.equal(psi[0], psi[1])


def test_numpys_numbers_and_a_list_of_sides_serve_too():
    psi = lattice.gaussian([4, np.int64(6)], np.int32(2), width=np.float32(0.25))
    assert torch.equal(psi, lattice.gaussian((4, 6), 2, width=0.25))


def test_random_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    lattice.random(8, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_amplitudes_are_complex_gaussian_and_independent():
    z = lattice.random(128, 2, seed=3, norm="none", dtype=torch.complex128).reshape(-1, 2).numpy()
    parts = np.concatenate([z.real, z.imag], axis=1)  # 4 columns of 16384
    covariance = np.cov(parts.T)
    np.testing.assert_allclose(parts.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(covariance, np.eye(4) / 2, atol=0.02)
    kurtosis = (parts**4).mean(0) / (parts**2).mean(0) ** 2
    np.testing.assert_allclose(kurtosis, 3, atol=0.2)


@given(k_y=st.integers(-3, 3), k_x=st.integers(-3, 3))
def test_a_plane_wave_is_flat_and_turns_evenly_from_cell_to_cell_round_the_torus(k_y, k_x):
    psi = lattice.plane_wave((6, 10), 2, wave=(k_y, k_x), dtype=torch.complex128)
    torch.testing.assert_close(lattice.density(psi), torch.ones(1, 6, 10, dtype=torch.float64))
    for dim, k, side in ((1, k_y, 6), (2, k_x, 10)):
        turn = psi.roll(-1, dim) / psi
        expected = torch.polar(torch.tensor(1.0), torch.tensor(2 * math.pi * k / side))
        torch.testing.assert_close(turn, expected.expand_as(turn), check_dtype=False)


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_a_gaussian_has_its_width_its_center_and_its_waves(width):
    psi = lattice.gaussian(
        (64, 96), 2, width=width, center=(0.5, 0.25), wave=(3, -2), dtype=torch.complex128
    )
    rho = lattice.density(psi)[0] / lattice.density(psi).sum()
    for dim, side, center in ((0, 64, 0.5), (1, 96, 0.25)):
        # Positions as seen from the center, the short way round.
        away = (torch.arange(side) / side - center + 0.5) % 1 - 0.5
        marginal = rho.sum(1 - dim)
        assert (marginal * away).sum().item() == pytest.approx(0, abs=1e-6)
        assert (marginal * away**2).sum().sqrt().item() == pytest.approx(width, rel=1e-4)
    flat = lattice.plane_wave((64, 96), 2, wave=(3, -2), dtype=torch.complex128)
    envelope = psi / flat
    torch.testing.assert_close(envelope.imag, torch.zeros_like(envelope.imag))
    assert (envelope.real > 0).all()


def test_a_gaussian_goes_round_the_torus():
    middle = lattice.gaussian((8, 12), 1)
    corner = lattice.gaussian((8, 12), 1, center=(0.0, 1.0))
    torch.testing.assert_close(corner, middle.roll((4, 6), (1, 2)))


def test_zeros():
    assert not lattice.zeros(4, 2).any()


# From numbers of one's own


@pytest.mark.parametrize(
    "array", [np.ones((2, 3, 1)) + 0j, torch.ones(1, 2, 3, 1) + 0j], ids=["numpy", "a tensor"]
)
def test_from_array_copies(array):
    lattice.from_array(array).zero_()
    assert (array == 1).all()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float64", torch.complex128),
        ("complex128", torch.complex128),
        (">f8", torch.complex128),
        ("float32", torch.complex64),
        ("complex64", torch.complex64),
        ("float16", torch.complex64),
        ("int64", torch.complex64),
        ("uint8", torch.complex64),
        ("bool", torch.complex64),
    ],
)
def test_from_array_keeps_the_numbers_and_their_precision(dtype, expected):
    array = np.arange(12).reshape(2, 3, 2).astype(dtype)
    psi = lattice.from_array(array)
    assert (psi.shape, psi.dtype) == ((1, 2, 3, 2), expected)
    np.testing.assert_array_equal(psi[0].numpy(), array.astype("complex128"))


def test_from_array_takes_what_is_not_contiguous_and_what_needs_a_gradient():
    array = numbers((2, 3, 4, 5)).numpy()
    np.testing.assert_array_equal(lattice.from_array(array[:, ::-1]).numpy(), array[:, ::-1])
    np.testing.assert_array_equal(lattice.from_array(array.T).numpy(), array.T)
    assert not lattice.from_array(torch.ones(1, 1, 1, requires_grad=True)).requires_grad


def test_from_array_normalises_only_if_asked():
    array = np.full((2, 2, 1), 3.0)
    assert lattice.density(lattice.from_array(array)).mean() == 9
    assert lattice.density(lattice.from_array(array, norm="cell")).mean() == 1


# Norms


@given(shape=shapes, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_the_norm_of_the_lattice(shape, dtype, seed):
    psi = brightness_of_batch(numbers(shape, dtype, seed))
    out = lattice.normalise(psi, "lattice")
    mean = lattice.density(out).mean(dim=(1, 2))
    torch.testing.assert_close(mean, torch.ones_like(mean))
    ratio = out / psi  # one real number for each lattice
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand(shape))
    assert (ratio.real > 0).all()


@given(shape=shapes, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_the_norm_of_the_cell(shape, dtype, seed):
    psi = brightness_of_batch(numbers(shape, dtype, seed))
    out = lattice.normalise(psi, "cell")
    torch.testing.assert_close(lattice.density(out), torch.ones(shape[:3]), check_dtype=False)
    torch.testing.assert_close(out * lattice.density(psi).sqrt().unsqueeze(-1), psi)


def test_no_norm_changes_nothing():
    psi = numbers((1, 2, 2, 1))
    assert lattice.normalise(psi, "none") is psi


@every_norm
@every_dtype
def test_nothing_stays_nothing(norm, dtype):
    psi = lattice.zeros(3, 2, batch=2, dtype=dtype)
    psi[1] = numbers((3, 3, 2), dtype)  # beside the empty lattice lies a full one,
    psi[1, 0, 0] = 0  # with an empty cell
    out = lattice.normalise(psi.requires_grad_(), norm)
    assert not out[0].any()
    assert not out[1, 0, 0].any()
    assert lattice.density(out)[1].max() > 0.99
    (grad,) = torch.autograd.grad(out.real.sum() + out.imag.sum(), psi)
    assert torch.isfinite(torch.view_as_real(grad)).all()


@every_norm
@pytest.mark.parametrize("scale", [1e-16, 1e-15, 1e-14, 1e-13, 1e-8, 1e8, 1e16])
def test_gradients_of_faint_and_bright_states_are_those_of_double_precision(norm, scale):
    psi = scale * numbers((1, 2, 2, 2), seed=4)

    def gradient(psi):
        psi = psi.clone().requires_grad_()
        out = torch.view_as_real(lattice.normalise(psi, norm))
        weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
        return torch.autograd.grad((weights * out).sum(), psi)[0] * scale

    rough = gradient(psi.to(torch.complex64)).to(torch.complex128)
    torch.testing.assert_close(rough, gradient(psi), rtol=1e-4, atol=1e-4)


@every_norm
def test_norms_are_differentiated_rightly(norm):
    psi = numbers((2, 2, 3, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda psi: lattice.normalise(psi, norm), psi)


def test_amplitudes_whose_squares_overflow_are_refused():
    """Their norm would be infinite, and psi zero."""
    array = np.full((2, 2, 2), 1e20)
    with pytest.raises(ValueError, match=r"^array: .*too large.*dtype=torch.complex128"):
        lattice.from_array(array, norm="lattice", dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"^psi: .*too large"):
        lattice.check_psi(torch.full((1, 2, 2, 2), 1e20j))
    psi = lattice.from_array(array, norm="lattice")
    torch.testing.assert_close(lattice.density(psi), torch.ones(1, 2, 2, dtype=torch.float64))


# Looking at psi


@given(shape=shapes)
def test_density_is_the_sum_of_squares_of_the_channels(shape):
    psi = numbers(shape)
    torch.testing.assert_close(lattice.density(psi), (psi.abs() ** 2).sum(-1))
    torch.testing.assert_close(lattice.density(psi.conj()), lattice.density(psi))


def test_phase_is_the_angle_of_one_channel():
    angles = torch.tensor([0.0, 1.0, -3.0, 3.1])
    psi = torch.stack([torch.polar(torch.full((4,), 2.0), angles), torch.ones(4) + 0j], -1)
    psi = psi.reshape(1, 2, 2, 2)
    torch.testing.assert_close(lattice.phase(psi).flatten(), angles)
    torch.testing.assert_close(lattice.phase(psi, -2), lattice.phase(psi, 0))
    assert not lattice.phase(psi, 1).any()


# As a law reads it


def test_channels_are_the_real_parts_then_the_imaginary():
    psi = torch.tensor([1 + 3j, 2 + 4j]).reshape(1, 1, 1, 2)
    assert lattice.to_channels(psi).flatten().tolist() == [1, 2, 3, 4]


@given(shape=shapes, dtype=st.sampled_from(DTYPES))
def test_channels_and_back(shape, dtype):
    psi = numbers(shape, dtype)
    x = lattice.to_channels(psi)
    batch, height, width, d_state = shape
    assert (x.shape, x.dtype) == ((batch, 2 * d_state, height, width), psi.real.dtype)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(lattice.from_channels(x), psi)
    assert torch.equal(lattice.from_channels(x.contiguous()), psi)
    assert torch.equal(lattice.to_channels(psi.conj()), lattice.to_channels(psi.conj_physical()))


def test_gradients_pass_through_channels():
    psi = numbers((1, 2, 3, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lattice.to_channels, psi)
    assert torch.autograd.gradcheck(lattice.from_channels, lattice.to_channels(psi))


# Refusals


@every_maker
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"size": 0}, ValueError),
        ({"size": (4, -1)}, ValueError),
        ({"size": (4,)}, ValueError),
        ({"size": (4, 4, 4)}, ValueError),
        ({"size": 2.5}, TypeError),
        ({"size": True}, TypeError),
        ({"size": "4"}, TypeError),
        ({"d_state": 0}, ValueError),
        ({"d_state": 2.0}, TypeError),
        ({"batch": 0}, ValueError),
        ({"batch": None}, TypeError),
        ({"dtype": torch.float32}, ValueError),
    ],
    ids=str,
)
def test_every_maker_refuses(make, change, error):
    (name,) = change
    with pytest.raises(error, match=rf"^{name}: got .*; it takes "):
        make(**{"size": 4, "d_state": 2, **change})


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("make", "change", "error"),
    [
        (lattice.random, {"seed": -1}, ValueError),
        (lattice.random, {"seed": 2**64}, ValueError),
        (lattice.random, {"seed": 0.5}, TypeError),
        (lattice.random, {"norm": "lattices"}, ValueError),
        (lattice.gaussian, {"norm": None}, ValueError),
        (lattice.plane_wave, {"norm": "Cell"}, ValueError),
        (lattice.gaussian, {"width": 0}, ValueError),
        (lattice.gaussian, {"width": -0.1}, ValueError),
        (lattice.gaussian, {"width": NAN}, ValueError),
        (lattice.gaussian, {"width": INF}, ValueError),
        (lattice.gaussian, {"width": "0.1"}, TypeError),
        (lattice.gaussian, {"center": (0.5,)}, ValueError),
        (lattice.gaussian, {"center": (NAN, 0.5)}, ValueError),
        (lattice.gaussian, {"center": ("a", 0.5)}, TypeError),
        (lattice.gaussian, {"wave": (0.5, 0)}, TypeError),
        (lattice.plane_wave, {"wave": (0, 0.5)}, TypeError),
        (lattice.plane_wave, {"wave": 3}, ValueError),
        (lattice.plane_wave, {"wave": (1, 2, 3)}, ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_makers_refuse(make, change, error):
    (name,) = change
    with pytest.raises(error, match=rf"^{name}: got .*; it takes "):
        make(4, 2, **change)


@pytest.mark.parametrize(
    ("array", "options", "error"),
    [
        ([[1.0]], {}, TypeError),
        (np.array([[["psi"]]]), {}, TypeError),
        (np.array([[[None]]]), {}, TypeError),
        (np.ones((1, 1, 1), dtype="longdouble"), {}, TypeError),
        (np.ones((2, 2)), {}, ValueError),
        (np.ones((1, 1, 1, 1, 1)), {}, ValueError),
        (np.ones((0, 2, 2)), {}, ValueError),
        (np.full((1, 1, 1), NAN), {}, ValueError),
        (np.full((1, 1, 1), 1j * INF), {}, ValueError),
        (torch.full((1, 1, 1), NAN), {}, ValueError),
        (np.full((1, 1, 1), 1e60), {"dtype": torch.complex64}, ValueError),
    ],
    ids=str,
)
def test_from_array_refuses(array, options, error):
    with pytest.raises(error, match=r"^array: "):
        lattice.from_array(array, **options)


@pytest.mark.parametrize(
    ("psi", "error"),
    [
        (None, TypeError),
        (np.ones((1, 1, 1, 1), dtype="complex64"), TypeError),
        (torch.ones(1, 1, 1, 2), TypeError),
        (torch.ones(1, 1, 2) + 0j, ValueError),
        (torch.ones(1, 0, 1, 2) + 0j, ValueError),
        (torch.ones(1, 1, 1, 3) + 0j, ValueError),
        (torch.full((1, 1, 1, 2), complex(0, NAN)), ValueError),
        (torch.full((1, 1, 1, 2), complex(INF, 0)), ValueError),
    ],
    ids=str,
)
def test_check_psi_refuses(psi, error):
    with pytest.raises(error, match=r"^start: "):
        lattice.check_psi(psi, name="start", d_state=2)


def test_check_psi_returns_what_it_takes():
    psi = numbers((1, 2, 2, 2))
    assert lattice.check_psi(psi, d_state=2) is psi
    lattice.check_psi(psi.conj())


def test_other_refusals():
    psi = numbers((1, 2, 2, 2))
    with pytest.raises(ValueError, match=r"^norm: got 'lattise'; it takes one of 'lattice', "):
        lattice.normalise(psi, "lattise")
    for channel in (2, -3):
        with pytest.raises(ValueError, match=f"^channel: got {channel}; psi has channels 0 to 1"):
            lattice.phase(psi, channel)


def test_a_lazily_conjugated_state_is_a_state():
    psi = lattice.random(4, 2)
    assert lattice.check_psi(psi.conj()) is not None
    assert torch.equal(lattice.density(psi.conj()), lattice.density(psi))
    assert torch.equal(lattice.normalise(psi.conj()), lattice.normalise(psi).conj())
