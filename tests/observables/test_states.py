"""Observables of one state and of two, against cases that are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import atheria_lab as al
from atheria_lab import lattice
from atheria_lab import observables as ob

DOUBLE = torch.complex128
CELLWISE = {  # of one state, a value for each lattice, that no shift of the torus changes
    "mean_density": ob.mean_density,
    "active_fraction": ob.active_fraction,
    "participation_ratio": ob.participation_ratio,
    "spatial_entropy": ob.spatial_entropy,
    "coherence_length": ob.coherence_length,
    "vortex_density": ob.vortex_density,
    "spread": ob.spread,
    "channel_entropy": lambda psi: ob.channel_entropy(psi).mean(dim=(1, 2)),
    "structure_factor": ob.structure_factor,
    "structure_factor_of_density": lambda psi: ob.structure_factor(psi, "density"),
}
PAIRS = {
    "distance": ob.distance,
    "damage": lambda a, b: ob.damage(a, b, 0.3),
    "fidelity": ob.fidelity,
    "mutual_information": ob.mutual_information,
    "difference": lambda a, b: ob.difference(a, b).sum(dim=(1, 2)),
}
of_one = pytest.mark.parametrize("observe", CELLWISE.values(), ids=CELLWISE)
of_two = pytest.mark.parametrize("compare", PAIRS.values(), ids=PAIRS)
sides = st.integers(1, 7)
shapes = st.tuples(st.integers(1, 3), sides, sides, st.integers(1, 3))
seeds = st.integers(0, 999)


def numbers(shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def entropy(counts):
    p = counts[counts > 0] / counts.sum()
    return -(p * np.log(p)).sum()


# A plane wave


@pytest.mark.parametrize("dtype", [torch.complex64, DOUBLE], ids=str)
def test_a_plane_wave_is_one_wave_everywhere(dtype):
    psi = lattice.plane_wave((12, 20), 3, wave=(2, -5), dtype=dtype)
    cells = 240
    close = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(ob.density(psi), torch.ones(1, 12, 20), **close)
    peak = torch.zeros(1, 12, 20)
    peak[0, 2, -5] = cells
    torch.testing.assert_close(
        ob.structure_factor(psi), peak, rtol=1e-5, atol=1e-4, check_dtype=False
    )
    assert ob.participation_ratio(psi).item() == pytest.approx(1)
    assert ob.spatial_entropy(psi).item() == pytest.approx(math.log(cells))
    torch.testing.assert_close(
        ob.channel_entropy(psi), torch.full((1, 12, 20), math.log(3)), **close
    )
    assert ob.coherence_length(psi).item() == pytest.approx(math.sqrt(cells), rel=1e-5)
    assert not ob.vortices(psi).any()
    assert ob.centroid(psi).isnan().all() and ob.spread(psi).isinf().all()
    assert ob.structure_factor(psi, "density").max() < 1e-5
    k, radial = ob.radial_average(ob.structure_factor(psi))
    wave_number = math.hypot(2 / 12, 5 / 20)
    assert k[radial[0].argmax()].item() == pytest.approx(wave_number, abs=1 / 20)


# A packet


@pytest.mark.parametrize("center", [(0.5, 0.5), (0.0, 0.97), (0.25, 0.02)])
def test_a_packet_is_where_it_is_also_across_the_border(center):
    psi = lattice.gaussian((60, 80), 2, width=0.06, center=center, wave=(4, 1), dtype=DOUBLE)
    place = ob.centroid(psi)[0]
    away = (place / torch.tensor([60, 80]) - place.new_tensor(center) + 0.5) % 1 - 0.5
    torch.testing.assert_close(away, torch.zeros(2, dtype=place.dtype), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        ob.spread(psi)[0], torch.tensor([3.6, 4.8]), rtol=1e-4, atol=0, check_dtype=False
    )


def test_a_packet_keeps_its_phase_over_its_own_width():
    psi = lattice.gaussian(80, 1, width=0.05, wave=(3, 2), dtype=DOUBLE)
    assert ob.coherence_length(psi).item() == pytest.approx(2 * math.sqrt(math.pi) * 4, rel=1e-6)


def test_one_cell_holds_all():
    psi = lattice.zeros((5, 8), 4, dtype=DOUBLE)
    psi[0, 3, 7, 2] = 3j
    assert ob.participation_ratio(psi).item() == pytest.approx(1 / 40)
    assert ob.active_fraction(psi).item() == pytest.approx(1 / 40)
    assert ob.spatial_entropy(psi).item() == pytest.approx(0, abs=1e-12)
    assert ob.channel_entropy(psi).abs().max() < 1e-12
    assert ob.coherence_length(psi).item() == pytest.approx(1)
    torch.testing.assert_close(ob.centroid(psi)[0], torch.tensor([3.0, 7.0], dtype=torch.float64))
    assert ob.spread(psi).abs().max() < 1e-6


# Noise


@pytest.mark.parametrize("d_state", [1, 2, 8])
def test_noise_has_the_values_it_is_expected_to_have(d_state):
    psi = lattice.random(64, d_state, batch=4, dtype=DOUBLE, norm="none")
    cells = 64 * 64

    def digamma(x):
        return torch.digamma(torch.tensor(float(x), dtype=torch.float64)).item()

    entropy = digamma(d_state * cells + 1) - digamma(d_state + 1)
    assert ob.spatial_entropy(psi).mean().item() == pytest.approx(entropy, abs=0.01)
    channels = sum(1 / n for n in range(2, d_state + 1))
    assert ob.channel_entropy(psi).mean().item() == pytest.approx(channels, abs=0.01)
    taking_part = d_state / (d_state + 1)
    assert ob.participation_ratio(psi).mean().item() == pytest.approx(taking_part, rel=0.03)
    length = math.sqrt(1 + 1 / d_state)
    assert ob.coherence_length(psi).mean().item() == pytest.approx(length, rel=0.01)
    assert ob.vortex_density(psi).mean().item() == pytest.approx(1 / 3, abs=0.01)
    assert not ob.vortices(psi).sum(dim=(1, 2)).any()
    power = ob.structure_factor(psi)
    assert power.mean().item() == pytest.approx(d_state, rel=0.02)
    k, radial = ob.radial_average(power.mean(0, keepdim=True) / d_state)
    assert (radial[0, 8:-8] - 1).abs().max() < 0.3


@pytest.mark.parametrize("threshold", [0.1, 1.0, 2.5])
def test_the_active_fraction_of_noise(threshold):
    psi = lattice.random(200, 1, dtype=DOUBLE)
    expected = math.exp(-threshold)
    assert ob.active_fraction(psi, threshold).item() == pytest.approx(expected, abs=0.01)
    absolute = ob.active_fraction(3 * psi, 9 * threshold, relative_to_mean=False)
    assert absolute.item() == pytest.approx(expected, abs=0.01)
    assert ob.active_fraction(1e-3 * psi, threshold, relative_to_mean=False).item() == 0


def test_vortices_of_a_smooth_random_field_have_the_density_of_berry_and_dennis():
    k = torch.hypot(torch.fft.fftfreq(256)[:, None], torch.fft.fftfreq(256)[None, :])
    smooth = torch.exp(-((k / 0.03) ** 2))[None, :, :, None]
    psi = torch.fft.ifft2(numbers((4, 256, 256, 1)) * smooth, dim=(1, 2))
    power = ob.structure_factor(psi)
    k_squared = (power * (2 * math.pi * k) ** 2).sum() / power.sum()
    expected = k_squared.item() / (4 * math.pi)
    assert ob.vortex_density(psi).mean().item() == pytest.approx(expected, rel=0.1)


def test_a_vortex_has_its_sign_and_its_place():
    y, x = torch.meshgrid(torch.arange(9.0) - 4.5, torch.arange(9.0) - 2.5, indexing="ij")
    psi = torch.complex(x, y)[None, :, :, None]
    around = ob.vortices(psi)[0, :-1, :-1]  # inside the border, where the field does not close
    assert around.nonzero().tolist() == [[4, 2]] and around[4, 2] == 1
    assert ob.vortices(psi.conj())[0, 4, 2] == -1


# Two states


@pytest.mark.parametrize("bins", [4, 8])
def test_the_mutual_information_of_a_state_with_itself_is_its_entropy(bins):
    psi = lattice.random(32, 2, batch=2, dtype=DOUBLE)
    for i, value in enumerate(ob.mutual_information(psi, psi, bins=bins, corrected=False)):
        counts, _ = np.histogram(ob.density(psi)[i].numpy(), bins)
        assert value.item() == pytest.approx(entropy(counts))
    corrected = ob.mutual_information(psi, psi, bins=bins)[1].item()
    miller = entropy(counts) + ((counts > 0).sum() - 1) / (2 * 1024)
    assert corrected == pytest.approx(miller)


def test_independent_states_tell_nothing_of_each_other():
    a, b = (torch.rand(50, 40, 40, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    raw = ob.mutual_information(a, b, corrected=False).mean().item()
    assert raw == pytest.approx(49 / 3200, rel=0.1)  # (K - 1)^2 / 2N, the known bias
    assert ob.mutual_information(a, b).mean().item() == pytest.approx(0, abs=1e-3)


def test_mutual_information_of_correlated_gaussians():
    a, c = (torch.randn(4, 200, 200, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    b = 0.8 * a + 0.6 * c
    value = ob.mutual_information(a, b, bins=32).mean().item()
    assert value == pytest.approx(-0.5 * math.log(1 - 0.8**2), rel=0.06)


def test_flat_maps_tell_nothing():
    flat = lattice.random(16, 3, norm="cell")  # flat up to rounding
    assert ob.mutual_information(flat, flat).item() == 0
    assert ob.mutual_information(lattice.phase(flat), lattice.phase(flat)).item() > 1


def test_fidelity_of_what_is_known():
    a, b = numbers((2, 4, 5, 3)), numbers((2, 4, 5, 3), 1)
    torch.testing.assert_close(ob.fidelity(a, (2 - 1j) * a), torch.ones(2), check_dtype=False)
    overlap = (a.conj() * b).sum(dim=(1, 2, 3))
    norms = ob.density(a).sum(dim=(1, 2)) * ob.density(b).sum(dim=(1, 2))
    torch.testing.assert_close(ob.fidelity(a, b), overlap.abs() ** 2 / norms)
    waves = [lattice.plane_wave(8, 2, wave=(0, k), dtype=DOUBLE) for k in (1, 2)]
    assert ob.fidelity(*waves).item() < 1e-28


def test_damage_counts_cells():
    a = lattice.random(10, 2)
    b = a.clone()
    b[0, 0, :4, 1] += torch.tensor([1, 0.5, 0.01, 1e-6])
    assert ob.damage(a, b).item() == pytest.approx(0.04)
    assert ob.damage(a, b, 0.1).item() == pytest.approx(0.02)
    assert ob.damage(a, a).item() == 0
    assert ob.distance(a, b).item() == pytest.approx(math.sqrt(1 + 0.25 + 0.0001), rel=1e-5)
    assert ob.difference(a, b)[0, 0, 1].item() == pytest.approx(0.5, rel=1e-5)


# What changes nothing


@of_one
@given(shape=shapes, shift=st.tuples(sides, sides), seed=seeds)
def test_shifts_change_nothing(observe, shape, shift, seed):
    psi = numbers(shape, seed)
    torch.testing.assert_close(observe(psi.roll(shift, (1, 2))), observe(psi), rtol=1e-7, atol=1e-7)


@given(shape=shapes, shift=st.tuples(sides, sides), seed=seeds)
def test_shifts_move_the_centroid(shape, shift, seed):
    psi = numbers(shape, seed)
    sides = torch.tensor(shape[1:3])
    moved = ob.centroid(psi.roll(shift, (1, 2))) - ob.centroid(psi) - torch.tensor(shift)
    moved = (moved / sides + 0.5) % 1 - 0.5
    torch.testing.assert_close(moved, torch.zeros_like(moved), atol=1e-7, rtol=0)
    assert ((ob.centroid(psi) >= 0) & (ob.centroid(psi) < sides)).all()


@of_one
@given(shape=shapes, angle=st.floats(-3.1, 3.1), seed=seeds)
def test_a_global_phase_changes_nothing(observe, shape, angle, seed):
    psi = numbers(shape, seed)
    turned = psi * complex(math.cos(angle), math.sin(angle))
    torch.testing.assert_close(observe(turned), observe(psi), rtol=1e-7, atol=1e-7)


@of_two
@given(shape=shapes, shift=st.tuples(sides, sides), seed=seeds)
def test_what_both_states_share_changes_nothing(compare, shape, shift, seed):
    a, b = numbers(shape, seed), numbers(shape, seed + 1)
    expected = compare(a, b)
    torch.testing.assert_close(compare(a.roll(shift, (1, 2)), b.roll(shift, (1, 2))), expected)
    torch.testing.assert_close(compare(1j * a, 1j * b), expected)
    torch.testing.assert_close(compare(b, a), expected)


@given(exponent=st.integers(-40, 40), seed=seeds)
def test_scale_changes_what_it_should(exponent, seed):
    psi, scale = numbers((2, 5, 6, 2), seed).to(torch.complex64), 2.0**exponent
    for name, observe in CELLWISE.items():
        power = 2 if name in ("mean_density", "structure_factor") else 0
        power = 4 if name == "structure_factor_of_density" else power
        if power == 4 and abs(exponent) > 20:
            continue  # the fourth power of the amplitude leaves float32
        torch.testing.assert_close(observe(psi * scale), observe(psi) * scale**power)
    other = numbers((2, 5, 6, 2), seed + 1).to(torch.complex64)
    for name, compare in PAIRS.items():
        power = 1 if name in ("distance", "difference") else 0
        scaled = compare(psi * scale, other * scale)
        torch.testing.assert_close(scaled, compare(psi, other) * scale**power)


@of_one
@given(shape=shapes, seed=seeds)
def test_a_batch_is_its_lattices(observe, shape, seed):
    psi = numbers(shape, seed) * (10.0 ** torch.arange(shape[0])).reshape(-1, 1, 1, 1)
    alone = torch.cat([observe(psi[i : i + 1]) for i in range(shape[0])])
    torch.testing.assert_close(observe(psi), alone)


@of_two
@given(shape=shapes, seed=seeds)
def test_a_batch_of_pairs_is_its_pairs(compare, shape, seed):
    a, b = numbers(shape, seed), numbers(shape, seed + 1)
    alone = torch.cat([compare(a[i : i + 1], b[i : i + 1]) for i in range(shape[0])])
    torch.testing.assert_close(compare(a, b), alone)


@given(shape=shapes, seed=seeds)
def test_bounds_and_sums(shape, seed):
    psi = numbers(shape, seed)
    batch, height, width, d_state = shape
    cells = height * width
    slack = 1e-12
    assert (ob.participation_ratio(psi) <= 1 + slack).all()
    assert (ob.participation_ratio(psi) >= 1 / cells - slack).all()
    assert (ob.spatial_entropy(psi) <= math.log(cells) + slack).all()
    assert (ob.channel_entropy(psi) <= math.log(d_state) + slack).all()
    power = ob.structure_factor(psi)
    torch.testing.assert_close(power.mean(dim=(1, 2)), ob.mean_density(psi))
    contrast = ob.density(psi).var(dim=(1, 2), correction=0)
    torch.testing.assert_close(ob.structure_factor(psi, "density").mean(dim=(1, 2)), contrast)
    assert not ob.vortices(psi).sum(dim=(1, 2)).any()
    assert ob.vortices(psi).abs().max() <= 1
    k, radial = ob.radial_average(power)
    assert radial.isfinite().all() and (k.diff() > 0).all()
    assert (radial.amax(1) <= power.amax(dim=(1, 2)) + slack).all()


@given(shape=shapes, seed=seeds)
def test_the_coherence_length_is_that_of_its_correlations(shape, seed):
    psi = numbers(shape, seed)
    area = torch.zeros(shape[0], dtype=torch.float64)
    for dy in range(shape[1]):
        for dx in range(shape[2]):
            g = (psi.conj() * psi.roll((-dy, -dx), (1, 2))).sum(dim=(1, 2, 3))
            area += (g / ob.density(psi).sum(dim=(1, 2))).abs() ** 2
    torch.testing.assert_close(ob.coherence_length(psi), area.sqrt())


# Gradients


@pytest.mark.parametrize(
    "observe",
    [
        ob.density,
        ob.mean_density,
        ob.participation_ratio,
        ob.spatial_entropy,
        ob.channel_entropy,
        ob.structure_factor,
        ob.coherence_length,
        ob.centroid,
        ob.spread,
        lambda psi: ob.radial_average(ob.structure_factor(psi))[1],
        lambda psi: ob.fidelity(psi, numbers((1, 3, 4, 2), 5)),
        lambda psi: ob.distance(psi, numbers((1, 3, 4, 2), 5)),
    ],
)
def test_gradients(observe):
    psi = numbers((1, 3, 4, 2)).requires_grad_()
    assert torch.autograd.gradcheck(observe, psi)
    empty = lattice.zeros((3, 4), 2, dtype=DOUBLE).requires_grad_()
    value = observe(empty)
    (grad,) = torch.autograd.grad(value[value.isfinite()].sum(), empty)
    if observe not in (ob.centroid, ob.spread):  # which an empty lattice has not
        assert torch.view_as_real(grad).isfinite().all()


def test_norm_before_normalisation_is_what_the_norm_takes_away():
    law = al.laws.Conv(3, hidden=4).double()
    psi = lattice.random(8, 3, batch=2, dtype=DOUBLE)
    free = al.Step(law, norm="none", gamma=0.2)(psi, 0)
    for norm in ("lattice", "cell", "none"):
        step = al.Step(law, norm=norm, gamma=0.2)
        torch.testing.assert_close(ob.norm_before_normalisation(step, psi), ob.mean_density(free))
        assert step.norm == norm
    step = al.Step(al.laws.ConvLSTMUNet(2, hidden=2, levels=1))
    start = step.initial(lattice.random(4, 2))
    assert ob.norm_before_normalisation(step, start).shape == (1,)
    with pytest.raises(TypeError, match=r"^step: got Conv; it takes a Step"):
        ob.norm_before_normalisation(law, psi)


# Nothing, and nonsense


@pytest.mark.parametrize("size", [1, (3, 4)])
def test_the_empty_lattice(size):
    psi = lattice.zeros(size, 2)
    for name, observe in CELLWISE.items():
        value = observe(psi)
        assert value.isinf().all() if name == "spread" else not value.any()
    assert ob.centroid(psi).isnan().all()
    for name, compare in PAIRS.items():
        assert compare(psi, psi).item() == (1 if name == "fidelity" else 0)
    assert ob.fidelity(psi, torch.ones_like(psi)).item() == 0
    assert ob.fidelity(torch.ones_like(psi), psi).item() == 0


def test_a_lattice_of_one_cell():
    psi = lattice.random(1, 2)
    assert ob.centroid(psi).tolist() == [[0, 0]] and not ob.spread(psi).any()
    assert ob.participation_ratio(psi).item() == pytest.approx(1)
    assert ob.coherence_length(psi).item() == pytest.approx(1)
    assert not ob.vortices(psi).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_spoils_its_own_lattice_alone(bad):
    psi = lattice.random(5, 2, batch=3)
    spoilt = psi.clone()
    spoilt[1, 2, 2, 0] = bad
    for name, observe in {**CELLWISE, "centroid": ob.centroid}.items():
        value, whole = observe(spoilt), observe(psi)
        torch.testing.assert_close(value[[0, 2]], whole[[0, 2]])
        if name == "vortex_density" and bad == math.inf:
            continue  # infinity has a phase
        if name == "mean_density" and bad == math.inf:
            assert value[1] == math.inf
        else:
            assert value[1].isnan().any(), name
    for name, compare in PAIRS.items():
        value = compare(psi, spoilt)
        torch.testing.assert_close(value[[0, 2]], compare(psi, psi)[[0, 2]])
        assert not value[1].isfinite(), name


def test_the_summary_is_its_functions():
    psi, before = lattice.random(16, 3, batch=2), lattice.random(16, 3, batch=2, seed=1)
    summary = ob.summary(psi, before)
    for name in ("distance", "fidelity", "mutual_information"):
        assert summary.pop(name) == pytest.approx(PAIRS[name](psi, before).mean().item(), rel=1e-5)
    place = [summary.pop("centroid_y"), summary.pop("centroid_x")]
    assert place == pytest.approx(
        ob.centroid(torch.cat(list(psi), dim=-1).unsqueeze(0))[0].tolist(), rel=1e-5
    )
    assert set(summary) == set(ob.summary(psi)) - {"centroid_y", "centroid_x"}
    for name, value in summary.items():
        assert value == pytest.approx(CELLWISE[name](psi).mean().item(), rel=1e-5)
    assert all(type(value) is float for value in summary.values())
    psi[0, 0, 0, 0] = math.nan
    assert all(math.isnan(value) for value in ob.summary(psi, before).values())


def test_a_lazily_conjugated_state_is_a_state():
    psi = lattice.random(6, 2)
    for observe in CELLWISE.values():
        torch.testing.assert_close(observe(psi.conj()), observe(psi.conj().resolve_conj()))
    for compare in PAIRS.values():
        torch.testing.assert_close(compare(psi.conj(), psi), compare(psi, psi.conj()))


PSI = torch.ones(1, 2, 2, 1) + 0j


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ob.density(PSI.real), TypeError, r"^psi: got torch.float32; it takes a complex"),
        (lambda: ob.centroid(PSI[0]), ValueError, r"^psi: got shape \(2, 2, 1\); it takes"),
        (lambda: ob.summary(None), TypeError, r"^psi: got NoneType"),
        (lambda: ob.vortices(PSI, 1), ValueError, r"^channel: got 1; psi has channels 0 to 0"),
        (lambda: ob.fidelity(PSI, PSI.to(DOUBLE)), ValueError, r"^b: got .*complex128, but a is"),
        (lambda: ob.distance(PSI, PSI[:, :1]), ValueError, r"^b: got \(1, 1, 2, 1\)"),
        (lambda: ob.summary(PSI, PSI[:, :1]), ValueError, r"^b: got \(1, 1, 2, 1\)"),
        (lambda: ob.damage(PSI, PSI, 2), ValueError, r"^threshold: got 2; "),
        (lambda: ob.active_fraction(PSI, -1), ValueError, r"^threshold: got -1; "),
        (lambda: ob.structure_factor(PSI, "phase"), ValueError, r"^of: got 'phase'; it takes"),
        (lambda: ob.radial_average(PSI), ValueError, r"^spectrum: got \(1, 2, 2, 1\); it takes"),
        (lambda: ob.mutual_information(PSI, PSI, bins=1), ValueError, r"^bins: got 1; "),
        (lambda: ob.mutual_information(PSI.real, PSI), ValueError, r"^a: got torch.float32 of"),
        (lambda: ob.mutual_information(PSI, PSI[:, 1:]), ValueError, r"^b: got a map of"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
