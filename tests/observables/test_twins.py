"""Twins: what becomes of a small difference, where that is known."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import small_law, small_start
from torch import nn

import atheria_lab as al
from atheria_lab import lattice
from atheria_lab import observables as ob

DOUBLE = torch.complex128
EVERYWHERE = (slice(None), slice(None))


class Diagonal(nn.Module):
    """psi' = g psi, a factor of its own for each channel (with gamma = 0)."""

    def __init__(self, *factors):
        super().__init__()
        self.register_buffer("change", torch.tensor(factors * 2, dtype=torch.float64) - 1)

    def forward(self, x):
        return x * self.change[None, :, None, None]


class Shift(nn.Module):
    """Everything moves by one row and two columns a step."""

    radius = 2

    def forward(self, x):
        return x.roll((1, 2), (2, 3)) - x


def linear(law, norm="none"):
    return al.Step(law, gamma=0.0, norm=norm)


def start(size=8, d_state=2, **options):
    return lattice.random(size, d_state, dtype=DOUBLE, **options)


# Brickwork: unitary, and local


def brickwork(d_state=3):
    return al.laws.Brickwork(d_state, spread=1.0).double()


def test_a_unitary_law_keeps_twins_as_far_apart_as_they_are():
    run = ob.twins(brickwork(), start(16, 3, batch=2), 40, epsilon=0.5, region=EVERYWHERE)
    for curve in (run.distance, run.fidelity):
        torch.testing.assert_close(curve, curve[:1].expand_as(curve))
    assert 0.1 < run.fidelity[0].max() < 0.99
    assert run.lyapunov().abs().max() < 1e-12
    assert ob.lyapunov_exponent(brickwork(), start(16, 3), 40, transient=10).abs().max() < 1e-8


@pytest.mark.parametrize("region", [(10, 11), (10, 10), (11, 11)])
def test_a_walk_stays_in_its_light_cone_and_reaches_its_border(region):
    run = ob.twins(brickwork(), start(24, 3), 12, region=region, threshold=0.0)
    assert run.radius == 2 and run.farthest == 12
    assert run.within_light_cone.all()
    # To the bit: 2 cells a step to one side, until the fronts meet behind the torus.
    assert run.front[:, 0].tolist() == [min(2 * t, 12) for t in range(13)]
    assert run.front_speed().item() == pytest.approx(2)
    assert run.damage[-1].item() == 1
    seen = ob.twins(brickwork(), start(24, 3), 12, region=region, threshold=0.2)
    assert seen.within_light_cone.all() and 0 < seen.front_speed() < 2


def test_a_law_that_says_too_little_is_found_out():
    law = Shift()
    law.radius = 1
    run = ob.twins(linear(law), start(20), 5, threshold=0.0)
    assert not run.within_light_cone.any()
    law.radius = 2
    run = ob.twins(linear(law), start(20), 20, threshold=0.0)
    assert run.within_light_cone.all() and run.front_speed().item() == pytest.approx(2)
    # It comes round the torus: the kick is one cell that moves, and comes back.
    assert run.front[-1] == 0 and (run.damage == 1 / 400).all()


@pytest.mark.parametrize("norm", ["none", "cell"])
@pytest.mark.parametrize("name", ["MLP", "Conv"])
def test_local_laws_keep_their_cones(name, norm):
    law = small_law(name, torch.float64)
    run = ob.twins(al.Step(law, norm=norm), start(12), 6, threshold=0.0)
    assert run.within_light_cone.all()
    assert run.front_speed().item() == pytest.approx(law.radius)


def test_the_norm_of_the_lattice_is_felt_everywhere_but_little():
    step = al.Step(small_law("Conv", torch.float64), norm="lattice")
    assert (ob.twins(step, start(16), 1, threshold=0.0).damage[-1] == 1).all()
    assert ob.twins(step, start(16), 3, threshold=0.1).within_light_cone.all()


# Growth that is known


@pytest.mark.parametrize("every", [None, 1, 3])
def test_the_exponent_of_a_linear_law_is_the_logarithm_of_its_factor(every):
    for factor in (1.1, 0.7):
        run = ob.twins(
            linear(Diagonal(factor, factor)), start(batch=3), 20, renormalise_every=every
        )
        expected = torch.full((3,), math.log(factor), dtype=torch.float64)
        torch.testing.assert_close(run.lyapunov(), expected, rtol=0, atol=1e-7)
        torch.testing.assert_close(
            run.log_growth, torch.arange(21.0)[:, None] * expected, rtol=0, atol=1e-6
        )


def test_the_largest_factor_wins_after_a_transient():
    law = Diagonal(1.05, 0.6)
    exponent = ob.lyapunov_exponent(linear(law), start(), 120, transient=60)
    assert exponent.item() == pytest.approx(math.log(1.05), abs=1e-6)
    early = ob.twins(linear(law), start(), 5, region=EVERYWHERE).lyapunov()
    assert early.item() < math.log(1.05) - 0.05


def test_the_norm_takes_the_growth_of_a_linear_law_away():
    step = linear(Diagonal(1.3, 1.3), "lattice")
    exponent = ob.lyapunov_exponent(step, start(), 60, transient=30)
    assert exponent.abs().item() < 1e-6


class Doubling(nn.Module):
    """The angle of every cell is doubled: chaos whose exponent is ln 2."""

    radius = 0

    def forward(self, x):
        re, im = x.chunk(2, dim=1)
        return torch.cat([re * re - im * im, 2 * re * im], dim=1) - x


def test_chaos_needs_renormalisation():
    step = linear(Doubling(), "cell")
    psi = start(6, 1, norm="cell")
    exponent = ob.lyapunov_exponent(step, psi, 100, transient=20, renormalise_every=2)
    assert exponent.item() == pytest.approx(math.log(2), rel=1e-4)
    kept = ob.twins(step, psi, 100, region=EVERYWHERE)
    assert kept.distance.max() < 2 * 6  # it saturates, so that the exponent is lost
    assert kept.lyapunov().item() < 0.5 * math.log(2)


def test_twins_that_become_one():
    run = ob.twins(linear(Diagonal(0.0, 0.0)), start(), 5, renormalise_every=2)
    assert run.lyapunov().item() == -math.inf
    assert not run.damage[1:].any() and not run.front.any()
    assert (run.distance[1:] == 0).all()


# The kick


@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    place=st.tuples(st.integers(0, 6), st.integers(0, 6)),
)
def test_only_the_region_is_kicked_and_distances_go_round(size, place):
    place = tuple(p % side for p, side in zip(place, size, strict=True))
    moment = next(ob.follow_twins(brickwork(2), start(size), region=place))
    damaged = ob.difference(moment.psi, moment.other)[0] > 0
    assert damaged.nonzero().tolist() == [list(place)]
    run = ob.twins(brickwork(2), start(size), 0, region=place)
    assert run.farthest == max(side // 2 for side in size)
    assert run.steps == 0 and run.front.item() == 0


def test_regions():
    def kicked(region):
        moment = next(ob.follow_twins(brickwork(2), start((4, 6)), region=region))
        return (ob.difference(moment.psi, moment.other)[0] > 0).nonzero().tolist()

    assert kicked(None) == [[2, 3]]
    assert kicked((-1, -6)) == [[3, 0]]
    assert kicked((slice(0, 2), slice(None, None, 5))) == [[0, 0], [0, 5], [1, 0], [1, 5]]
    assert len(kicked(EVERYWHERE)) == 24
    run = ob.twins(brickwork(2), start((4, 6)), 1, region=(slice(0, 1), slice(None)))
    assert run.farthest == 2


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_kick_has_the_size_that_was_asked_for(scale):
    psi = scale * start(32, 4, batch=2)
    run = ob.twins(brickwork(4), psi, 0, epsilon=0.01, region=EVERYWHERE)
    torch.testing.assert_close(
        run.distance[0] / (scale * 32), torch.full((2,), 0.01), rtol=0.05, atol=0, check_dtype=False
    )
    empty = ob.twins(brickwork(4), lattice.zeros(8, 4, dtype=DOUBLE), 3, epsilon=0.01)
    assert (empty.distance > 0).all() and empty.log_growth.abs().max() < 1e-12


def test_a_kick_is_not_along_the_state_of_the_same_seed():
    run = ob.twins(brickwork(2), start(32, seed=3), 0, seed=3, epsilon=1.0, region=EVERYWHERE)
    assert run.fidelity.item() == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_gives_the_same_run():
    runs = [ob.twins(brickwork(2), start(), 3, seed=seed).distance for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


# Both see the same


def test_both_twins_see_the_same_noise():
    noise = al.Noise(phase=1.0, sign=0.3)
    step = al.Step(brickwork(2), noise=noise, seed=3)
    run = ob.twins(step, start(), 10)
    torch.testing.assert_close(run.distance, run.distance[:1].expand_as(run.distance))

    class Dropping(nn.Module):
        def forward(self, x):
            return 0.1 * nn.functional.dropout(x, 0.5)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    run = ob.twins(linear(Dropping()), start(16), 4, threshold=0.0)
    assert (run.damage == 1 / 256).all()  # other masks would damage every cell
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_first_twin_is_the_trajectory_itself():
    for name in ("Conv", "Brickwork", "ConvLSTMUNet"):
        step = al.Step(small_law(name), noise=al.Noise(phase=0.1), seed=1)
        initial = small_start(step)
        state = initial
        for i in range(7, 10):
            state = step(state, i)
        moments = ob.follow_twins(step, initial, first_step=7, renormalise_every=1)
        moment = next(itertools.islice(moments, 3, None))
        assert moment.step == 3 and torch.equal(moment.psi, state.psi)
        assert not moment.psi.requires_grad and torch.is_grad_enabled()


def test_hidden_tensors_are_renormalised_too():
    step = al.Step(small_law("ConvLSTMUNet", torch.float64))
    psi = start(8)
    each = ob.lyapunov_exponent(step, psi, 30, transient=10, renormalise_every=1)
    seldom = ob.lyapunov_exponent(step, psi, 30, transient=10, renormalise_every=30)
    torch.testing.assert_close(each, seldom, rtol=1e-3, atol=1e-5)


def test_a_batch_is_its_lattices():
    psi = start(8, 2, batch=2)
    run = ob.twins(linear(Diagonal(1.2, 1.1)), psi, 6, region=(1, 2), renormalise_every=2)
    same = ob.twins(linear(Diagonal(1.2, 1.1)), psi[:1], 6, region=(1, 2), renormalise_every=2)
    # The first lattice has the same kick.
    for name in ("distance", "log_growth", "damage", "fidelity", "front"):
        torch.testing.assert_close(getattr(run, name)[:, :1], getattr(same, name))


def test_nan_stays_in_its_lattice():
    class Exploding(nn.Module):
        def forward(self, x):
            return x * torch.tensor([1.0, math.inf]).reshape(-1, 1, 1, 1)

    run = ob.twins(linear(Exploding()), start(4, 2, batch=2), 2)
    for curve in (run.distance, run.damage, run.fidelity, run.front, run.lyapunov()[None]):
        assert curve[-1, 0].isfinite() and curve[-1, 1].isnan()
    assert run.front_speed()[1].isnan()


def test_memory_does_not_grow_with_the_steps():
    def peak(steps):
        with al.memory.track_peak() as peak:
            for _ in itertools.islice(ob.follow_twins(brickwork(2), start(16)), steps):
                pass
        return peak.peak_bytes

    assert peak(30) == peak(10)


# What a notebook shows


def test_a_run_shows_itself_and_its_progress():
    seen = []
    run = ob.twins(
        brickwork(2), start(8, batch=6), 3, progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    for text in (repr(run), run._repr_html_()):
        assert "Lyapunov" in text and "light cone: 2" in text and "…" in text
    assert "<table>" in run._repr_html_()
    none = ob.twins(linear(Diagonal(1.0, 1.0)), start(), 0)
    assert none.within_light_cone is None and "after the first step" in repr(none)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"epsilon": 0}, ValueError),
        ({"epsilon": math.nan}, ValueError),
        ({"epsilon": 1e-18}, ValueError),
        ({"threshold": 1.5}, ValueError),
        ({"renormalise_every": 0}, ValueError),
        ({"renormalise_every": 1.5}, TypeError),
        ({"seed": -1}, ValueError),
        ({"first_step": -1}, ValueError),
        ({"steps": -1}, ValueError),
        ({"region": 3}, TypeError),
        ({"region": (8, 0)}, ValueError),
        ({"region": (0, -9)}, ValueError),
        ({"region": (0, slice(3, 3))}, ValueError),
        ({"region": (0, "1")}, TypeError),
        ({"start": torch.full((1, 2, 2, 2), math.nan) + 0j}, ValueError),
        ({"start": None}, TypeError),
        ({"step": len}, TypeError),
    ],
    ids=str,
)
def test_refusals(change, error):
    (name,) = change
    name = {"start": "psi", "step": "law"}.get(name, name)
    arguments = {"step": brickwork(2), "start": start(), "steps": 1, **change}
    with pytest.raises(error, match=f"^{name}: "):
        ob.twins(**arguments)


def test_transients_are_shorter_than_the_run():
    run = ob.twins(brickwork(2), start(), 3)
    for call in (
        lambda: run.lyapunov(3),
        lambda: ob.lyapunov_exponent(brickwork(2), start(), 3, transient=3),
    ):
        with pytest.raises(ValueError, match="^transient: got 3; "):
            call()
