"""Fused steps against PyTorch's, one step at a time."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from atheria_lab import _native, lattice, native
from atheria_lab.laws import MLP, Brickwork, Conv
from atheria_lab.noise import Noise
from atheria_lab.step import Step

# Of the largest amplitude, after one step.
TOLERANCE = {torch.complex64: 2e-6, torch.complex128: 1e-14}
DTYPES = list(TOLERANCE)
ISAS = ["baseline"] + [isa for isa in ("AVX2+FMA", "AVX-512") if isa == native.isa()]
ACTIVATIONS = ["silu", "relu", "gelu", "tanh"]


def make_law(kind, d_state, hidden, activation, dtype):
    law = Brickwork(d_state) if kind is Brickwork else kind(d_state, hidden, activation)
    return law.double() if dtype == torch.complex128 else law


def run(law, psi, **options):
    """The state after some fused steps, and the buffer that was lent for them."""
    psi, spare = psi.clone(), torch.full_like(psi, float("nan"))
    options.setdefault("norm", "none" if law.unitary else "lattice")
    done, error = native.Stepper(law).run(psi, spare, **{"steps": 1, **options})
    assert error is None and done == options.get("steps", 1)
    return psi


def distance(a, b):
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def cell_lengths(law, psi):
    """How long a cell's vector is before the norm "cell" makes it 1.

    The norm divides by it, and so magnifies the rounding of a cell that nearly vanishes, on
    either backend alike (measured against float64).
    """
    return lattice.density(Step(law, norm="none")(psi, 0)).sqrt().unsqueeze(-1)


@torch.no_grad()
def check_one_step(law, psi, norm, noise, **options):
    """A few steps, each from the state that PyTorch made, so that nothing adds up."""
    step = Step(law, norm=norm, noise=noise, seed=3)
    for i in range(2):
        expected = step(psi, i)
        found = run(law, psi, norm=step.norm, noise=noise, seed=3, first_step=i, **options)
        weight = cell_lengths(law, psi) if step.norm == "cell" else 1.0
        assert distance(weight * found, weight * expected) < TOLERANCE[psi.dtype]
        psi = expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", [MLP, Conv])
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 130),
    d_state=st.integers(1, 9),
    hidden=st.integers(1, 40),
    activation=st.sampled_from(ACTIVATIONS),
    norm=st.sampled_from(lattice.NORMS),
    noise=st.sampled_from([Noise(), Noise(phase=0.6), Noise(sign=0.3), Noise(3.0, 0.1)]),
    threads=st.integers(1, 4),
)
def test_networks(
    kind, isa, dtype, batch, height, width, d_state, hidden, activation, norm, noise, threads
):
    psi = lattice.random((height, width), d_state, batch=batch, dtype=dtype)
    law = make_law(kind, d_state, hidden, activation, dtype)
    check_one_step(law, psi, norm, noise, isa=isa, threads=threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 12).map(lambda n: 2 * n),
    width=st.integers(1, 70).map(lambda n: 2 * n),
    d_state=st.integers(1, 9),
    noise=st.sampled_from([Noise(), Noise(phase=0.6), Noise(sign=0.3), Noise(3.0, 0.1)]),
    threads=st.integers(1, 4),
)
def test_brickwork(isa, dtype, batch, height, width, d_state, noise, threads):
    psi = lattice.random((height, width), d_state, batch=batch, dtype=dtype)
    law = make_law(Brickwork, d_state, 0, "", dtype)
    check_one_step(law, psi, "none", noise, isa=isa, threads=threads)


@pytest.mark.parametrize("kind", [MLP, Conv, Brickwork])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_usual_sizes(kind, dtype):
    for d_state, hidden in ((8, 32), (16, 64)):
        psi = lattice.random((34, 50), d_state, dtype=dtype)
        law = make_law(kind, d_state, hidden, "silu", dtype)
        check_one_step(law, psi, None if law.unitary else "lattice", None)


@pytest.mark.parametrize("kind", [MLP, Conv, Brickwork])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_makes_the_same_bits(kind, dtype):
    psi = lattice.random((30, 52), 5, batch=2, dtype=dtype)
    law = make_law(kind, 5, 19, "gelu", dtype)
    results = [
        run(law, psi, steps=5, noise=Noise(0.3, 0.1), threads=threads)
        for threads in (1, 2, 3, 4, 4)
    ]
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("kind", [MLP, Conv, Brickwork])
@pytest.mark.parametrize("norm", lattice.NORMS)
def test_however_the_steps_are_divided_the_bits_are_the_same(kind, norm):
    psi = lattice.random((10, 14), 3, batch=2)
    law = make_law(kind, 3, 8, "silu", psi.dtype)
    norm = "none" if law.unitary else norm
    options = {"norm": norm, "noise": Noise(0.3, 0.1)}
    whole = run(law, psi, steps=7, **options)
    parts = run(law, psi, steps=3, **options)
    parts = run(law, parts, steps=4, first_step=3, **options)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("norm", lattice.NORMS)
def test_saved_states_are_the_states(norm):
    psi = lattice.random((12, 10), 3, batch=2)
    law = MLP(3, 8)
    saves = torch.empty(3, *psi.shape, dtype=psi.dtype)
    last = run(law, psi, steps=10, norm=norm, save_every=3, saves=saves)
    for i in range(3):
        assert torch.equal(saves[i], run(law, psi, steps=3 * (i + 1), norm=norm))
    assert torch.equal(last, run(law, psi, steps=10, norm=norm))


def test_norms():
    psi = 3 * lattice.random((9, 11), 4, batch=2, dtype=torch.complex128)
    law = MLP(4, 8).double()
    mean = lattice.density(run(law, psi, norm="lattice")).mean(dim=(1, 2))
    assert torch.allclose(mean, torch.ones_like(mean), rtol=1e-14)
    density = lattice.density(run(law, psi, norm="cell"))
    assert torch.allclose(density, torch.ones_like(density), rtol=1e-14)


def test_an_empty_lattice_stays_empty():
    law = MLP(2, 4)
    for layer in (law.inner, law.outer):
        torch.nn.init.zeros_(layer.bias)
    psi = lattice.zeros(6, 2)
    for norm in lattice.NORMS:
        assert torch.equal(run(law, psi, norm=norm), psi)


def test_a_nan_that_a_law_makes_stays_one():
    law = MLP(2, 4)
    with torch.no_grad():
        law.outer.bias[0] = float("nan")
    for activation, norm in itertools.product(ACTIVATIONS, lattice.NORMS):
        law.activation = activation
        assert bool(run(law, lattice.random(5, 2), norm=norm)[..., 0].isnan().all())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_far_out(activation, isa, dtype):
    # One number in, the activation of a multiple of it out.
    law = make_law(MLP, 1, 1, activation, dtype)
    with torch.no_grad():
        for parameter in law.parameters():
            parameter.zero_()
        law.inner.weight[0, 0] = 1.0
        law.outer.weight[0, 0] = 1.0
    real = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e4, -200.0, 90.0, 1e4])])
    psi = lattice.from_array(real.double().reshape(1, 1, -1, 1) + 0j, dtype=dtype)
    found = run(law, psi, gamma=1.0, norm="none", isa=isa).real
    exact = Step(law.double(), gamma=1.0, norm="none")(psi.to(torch.complex128), 0).real
    eps = torch.finfo(found.dtype).eps
    assert bool(((found - exact).abs() <= 4 * eps * exact.abs() + 2 * eps).all())


def test_uniform_numbers_are_those_of_the_noise():
    psi = lattice.random(4, 3, dtype=torch.complex128)
    law = make_law(MLP, 3, 4, "silu", psi.dtype)
    far = {"seed": 2**63 - 1, "first_step": 2**33 + 5, "noise": Noise(phase=2.0, sign=0.5)}
    step = Step(law, noise=far["noise"], seed=far["seed"])
    with torch.no_grad():
        expected = step(psi, far["first_step"])
    assert distance(run(law, psi, **far), expected) < 1e-14


def test_the_module_and_its_version():
    assert _native.version.count(".") == 2
    assert native.isa() in ("baseline", "AVX2+FMA", "AVX-512")
