"""The Triton kernels: the plain step and its gradient, on a CUDA device or in the interpreter.

Triton decides at its import whether it interprets, and so the tests on the CPU run in a process
of their own, which `test_in_tritons_interpreter` starts.
"""

import importlib.util
import inspect
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import atheria_lab as al
from atheria_lab import triton_step
from atheria_lab.native import StepOptions

NORMS, ACTIVATIONS = ("lattice", "cell", "none"), ("silu", "relu", "gelu", "tanh")
NOISES = (al.Noise(), al.Noise(phase=0.4), al.Noise(sign=0.5), al.Noise(phase=0.1, sign=0.3))
STEPS = {
    "MLP": (triton_step.mlp_step, triton_step.mlp_vjp),
    "Conv": (triton_step.conv_step, triton_step.conv_vjp),
}

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETING = triton_step.interpreting()
HAS_CUDA = torch.cuda.is_available() and not INTERPRETING
DEVICE = "cuda" if HAS_CUDA else "cpu"
pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="needs Triton: pip install 'atheria-lab[gpu]'"),
    # What numpy says of a NaN, in the interpreter.
    pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero):RuntimeWarning"),
]


def on_kernels(test):
    """Runs on a CUDA device where there is one, and in the interpreter's own process."""
    for mark in [
        pytest.mark.cuda,
        pytest.mark.skipif(
            not (HAS_CUDA or INTERPRETING), reason="needs a CUDA device, or TRITON_INTERPRET=1"
        ),
    ]:
        test = mark(test)
    return test


def any_law(kind="MLP", d_state=3, hidden=5, activation="silu", dtype=torch.float64):
    law = getattr(al.laws, kind)(d_state, hidden, activation=activation)
    with torch.no_grad():
        for parameter in law.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return law.to(DEVICE, dtype)


def any_psi(size, d_state, batch=1, dtype=torch.complex128):
    return torch.randn(batch, *size, d_state, dtype=dtype).to(DEVICE)


def plain(step, psi, gradient, i=0):
    step.law.zero_grad()
    psi = psi.clone().requires_grad_()
    out = step(psi, i)
    out.backward(gradient)
    law = step.law
    weights = (law.inner.weight, law.inner.bias, law.outer.weight, law.outer.bias)
    return [out.detach(), psi.grad, *(weight.grad for weight in weights)]


def found(step, psi, gradient, i=0, of_psi=True, of_weights=True):
    forward, back = STEPS[type(step.law).__name__]
    law, noise = step.law, step.noise
    weights = (law.inner.weight, law.inner.bias, law.outer.weight, law.outer.bias)
    options = StepOptions(step.gamma, step.norm, noise.phase, noise.sign, step.seed, i)
    out, scales = forward(psi, weights, law.activation, options)
    return [out, *back(gradient, psi, out, scales, weights, law.activation, options, of_psi,
                       of_weights)]  # fmt: skip


def few_programs(monkeypatch):
    """Small lattices have fewer tiles than there are programs; now a program has some of them."""
    for module in ("mlp", "conv", "brickwork"):
        monkeypatch.setattr(f"atheria_lab.triton_step.{module}.PROGRAMS", 3)
        monkeypatch.setattr(f"atheria_lab.triton_step.{module}.PARTS", 2)


def apart(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = expected.abs().max().clamp_min(1e-30)
    return float((found - expected).abs().max() / scale)


@pytest.mark.skipif(INTERPRETING or HAS_CUDA, reason="the tests run in this very process")
def test_in_tritons_interpreter():
    import triton

    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
        pytest.skip("the interpreter of Triton before 3.7 does not take NumPy 2.4")
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tests.returncode == 0, tests.stdout + tests.stderr


@pytest.mark.skipif(INTERPRETING, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("dtype", "capability"), [("complex64", 80), ("complex128", 90)])
def test_every_kernel_compiles_without_a_device(dtype, capability, monkeypatch, tmp_path):
    """The compiler refuses what the interpreter takes, such as a name that changes its type."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from atheria_lab.triton_step import brickwork, conv, launch, mlp

    if "constexprs" not in inspect.signature(ASTSource).parameters:
        pytest.skip("this Triton compiles from other arguments")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    psi = torch.empty(1, 2, 2, 3, dtype=getattr(torch, dtype))
    update = {"ACTIVATION": "gelu", "NORM": "lattice", "NOISE": 3}
    both = {"OF_PSI": True, "OF_WEIGHTS": True}
    network, blocks = launch.network_sizes(psi, 5), {**brickwork._sizes(psi), "SHIFT": 1}
    kernels = [
        (launch._scale, {"CHUNK": 4096}), (launch._multiply, {"CHUNK": 4096}),
        (mlp._step, network | update), (mlp._back, network | update | both),
        (mlp._back, network | update | both | {"NORM": "cell", "ACTIVATION": "tanh"}),
        (conv._step, network | update), (conv._back, network | update | both),
        (conv._back_to_psi, network), (conv._sum_taps, network),
        (brickwork._layer, blocks | {"NOISE": 3}), (brickwork._back, blocks | {"NOISE": 3} | both),
    ]  # fmt: skip
    numbers = {"cells", "tiles", "count", "rows", "columns", "blocks", "numbers"}
    real = {"complex64": "*fp32", "complex128": "*fp64"}[dtype]
    for kernel, known in kernels:
        options = {"enable_fp_fusion": True, "num_warps": known.get("num_warps", 4)}
        constants = {name: value for name, value in known.items() if name in kernel.arg_names}
        types = dict.fromkeys(kernel.arg_names, real)
        types |= dict.fromkeys(types.keys() & numbers, "i32")
        types |= dict.fromkeys(types.keys() & set(launch.STEP_ARGUMENTS), "i64")
        types |= dict.fromkeys(types.keys() & {"densities", "products"}, "*fp64")
        types |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, types, constexprs=constants)
        compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
        assert compiled.asm["cubin"], kernel
        assert compiled.metadata.shared <= 96 * 1024, kernel


@on_kernels
@pytest.mark.parametrize("kind", STEPS)
@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 4), st.integers(1, 12), st.integers(1, 9),
    st.integers(1, 20), st.sampled_from(NORMS), st.sampled_from(ACTIVATIONS),
    st.sampled_from(NOISES), st.integers(0, 2**64 - 1), st.integers(0, 2**40),
)  # fmt: skip
def test_it_is_the_plain_step_and_its_gradient(
    kind, batch, height, width, d_state, hidden, norm, activation, noise, seed, i
):
    torch.manual_seed(0)
    law = any_law(kind, d_state, hidden, activation)
    step = al.Step(law, gamma=0.1, norm=norm, noise=noise, seed=seed)
    psi = any_psi((height, width), d_state, batch)
    gradient = torch.randn_like(psi)
    expected = plain(step, psi, gradient, i)
    for one, other in zip(found(step, psi, gradient, i), expected, strict=True):
        assert apart(one, other) < 1e-10


@on_kernels
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_norm_and_activation_with_many_tiles_a_program(kind, norm, activation, monkeypatch):
    few_programs(monkeypatch)
    torch.manual_seed(0)
    law, psi = any_law(kind, 8, 20, activation), any_psi((3, 13), 8, batch=2)
    step = al.Step(law, gamma=0.1, norm=norm, noise=al.Noise(phase=0.2, sign=0.1), seed=7)
    gradient = torch.randn_like(psi)
    expected = plain(step, psi, gradient, 5)
    for one, other in zip(found(step, psi, gradient, 5), expected, strict=True):
        assert apart(one, other) < 1e-10


@on_kernels
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("norm", NORMS)
def test_in_single_precision_it_is_as_near_as_torch(kind, norm):
    torch.manual_seed(0)
    law, psi = any_law(kind, 8, 32), any_psi((5, 9), 8)
    noise = al.Noise(phase=0.3, sign=0.2)
    gradient = torch.randn_like(psi)
    exact = plain(al.Step(law, norm=norm, noise=noise), psi, gradient)
    law, psi, gradient = law.float(), psi.to(torch.complex64), gradient.to(torch.complex64)
    step = al.Step(law, norm=norm, noise=noise)
    for one, other, truth in zip(
        found(step, psi, gradient), plain(step, psi, gradient), exact, strict=True
    ):
        truth = truth.to(other.dtype)
        assert apart(one, truth) < max(1e-5, 2 * apart(other, truth))


@on_kernels
@pytest.mark.parametrize("kind", STEPS)
def test_noise_alone_is_that_of_the_cpu(kind):
    """A step that changes nothing else shows the very numbers."""
    law, psi = any_law(kind, 6, 4, dtype=torch.float32), any_psi((3, 5), 6, 2, torch.complex64)
    with torch.no_grad():
        for parameter in law.parameters():
            parameter.zero_()
    for noise in NOISES:
        step = al.Step(law, gamma=0.0, norm="none", noise=noise, seed=2**63 + 2**31)
        out, *_ = found(step, psi, psi, 2**32 + 2**31)
        expected = noise.apply(psi.cpu(), seed=2**63 + 2**31, step=2**32 + 2**31)
        assert apart(out.cpu(), expected) < 1e-6


@on_kernels
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("norm", NORMS)
def test_parts_that_are_not_asked_for(kind, norm):
    torch.manual_seed(0)
    law, psi = any_law(kind), any_psi((4, 5), 3)
    step, gradient = al.Step(law, norm=norm), torch.randn_like(psi)
    _, *full = found(step, psi, gradient)
    _, psi_alone, *nothing = found(step, psi, gradient, of_weights=False)
    assert torch.equal(psi_alone, full[0])
    assert [one.numel() for one in nothing] == [0] * 4
    _, nothing, *weights = found(step, psi, gradient, of_psi=False)
    assert nothing.numel() == 0
    assert all(torch.equal(one, other) for one, other in zip(weights, full[1:], strict=True))


@on_kernels
@pytest.mark.parametrize("kind", STEPS)
def test_it_repeats_to_the_last_bit_and_leaves_its_inputs(kind):
    torch.manual_seed(0)
    law, psi = any_law(kind, 4, 16, dtype=torch.float32), any_psi((5, 9), 4, 2, torch.complex64)
    step, gradient, before = al.Step(law), torch.randn_like(psi), psi.clone()
    runs = [found(step, psi, gradient) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    assert torch.equal(psi, before)


@on_kernels
@pytest.mark.parametrize("kind", STEPS)
def test_inputs_that_are_not_contiguous(kind):
    torch.manual_seed(0)
    law, psi = any_law(kind), any_psi((4, 6), 3)
    step, gradient = al.Step(law), torch.randn_like(psi)
    expected = found(step, psi, gradient)
    strewn = [one.transpose(1, 2).contiguous().transpose(1, 2) for one in (psi, gradient)]
    law.inner.weight.data = torch.stack([law.inner.weight.data] * 2, -1)[..., 0]
    assert not any(one.is_contiguous() for one in (*strewn, law.inner.weight))
    for one, other in zip(found(step, *strewn), expected, strict=True):
        assert torch.equal(one, other)


@on_kernels
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("norm", NORMS)
def test_zeros_stay_zeros_and_nan_stays_nan(kind, norm):
    law = any_law(kind, 2, 4, dtype=torch.float32)
    with torch.no_grad():
        for parameter in law.parameters():
            parameter.zero_()
    step = al.Step(law, norm=norm)
    psi = torch.zeros(1, 3, 3, 2, dtype=torch.complex64, device=DEVICE)
    ones = torch.ones_like(psi)
    out, of_psi, *_ = found(step, psi, ones)
    assert torch.equal(out, psi)
    torch.testing.assert_close(of_psi, plain(step, psi, ones)[1])
    psi[0, 1, 1, 0] = float("nan")
    out = found(step, psi, ones)[0]
    assert torch.equal(out.isnan(), step(psi, 0).detach().isnan())


@on_kernels
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("norm", NORMS)
def test_under_the_least_density_the_norm_multiplies_by_a_constant(kind, norm):
    torch.manual_seed(0)
    law = any_law(kind)
    for layer in (law.inner, law.outer):
        torch.nn.init.zeros_(layer.bias)
    step, psi = al.Step(law, norm=norm), any_psi((4, 5), 3) * 1e-18
    gradient = torch.randn_like(psi)
    for one, other in zip(found(step, psi, gradient), plain(step, psi, gradient), strict=True):
        assert apart(one, other) < 1e-10


def brickwork_both(d_state, psi, gradient, options, **asked):
    """What the kernels give, and what autograd does, of a Brickwork's step: psi, gradients."""
    law = al.laws.Brickwork(d_state, spread=0.5).to(DEVICE)
    unitaries = law.unitaries(psi.dtype).detach()
    out = triton_step.brickwork_step(psi, unitaries, options)
    asked = {"of_psi": True, "of_weights": True, **asked}
    ours = [out, *triton_step.brickwork_vjp(gradient, psi, unitaries, options, **asked)]

    inputs = [psi.clone().requires_grad_(), unitaries.clone().requires_grad_()]
    law.unitaries = lambda _: inputs[1]
    noise = al.Noise(options.phase, options.sign)
    plain_out = al.Step(law, noise=noise, seed=options.seed)(inputs[0], options.step)
    return ours, [plain_out.detach(), *torch.autograd.grad(plain_out, inputs, gradient)]


@on_kernels
@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 6),
    st.sampled_from(NOISES), st.integers(0, 2**64 - 1), st.integers(0, 2**40),
    st.sampled_from([(torch.complex128, 1e-10), (torch.complex64, 1e-5)]),
)  # fmt: skip
def test_brickwork_is_the_plain_step_and_its_gradient(
    batch, height, width, d_state, noise, seed, i, precision
):
    torch.manual_seed(0)
    dtype, close = precision
    psi = any_psi((2 * height, 2 * width), d_state, batch, dtype)
    options = StepOptions(0.0, "none", noise.phase, noise.sign, seed, i)
    for one, other in zip(
        *brickwork_both(d_state, psi, torch.randn_like(psi), options), strict=True
    ):
        assert apart(one, other) < close


@on_kernels
def test_brickwork_with_many_tiles_a_program_and_parts_not_asked_for(monkeypatch):
    few_programs(monkeypatch)
    torch.manual_seed(0)
    psi = any_psi((12, 16), 3, batch=2)
    options, gradient = StepOptions(0.0, "none", 0.2, 0.1, 7, 5), torch.randn_like(psi)
    ours, plain = brickwork_both(3, psi, gradient, options)
    for one, other in zip(ours, plain, strict=True):
        assert apart(one, other) < 1e-10
    _, of_psi, nothing = brickwork_both(3, psi, gradient, options, of_weights=False)[0]
    assert torch.equal(of_psi, ours[1])
    assert nothing.numel() == 0
    _, nothing, of_weights = brickwork_both(3, psi, gradient, options, of_psi=False)[0]
    assert torch.equal(of_weights, ours[2])
    assert nothing.numel() == 0


@on_kernels
def test_brickwork_takes_even_sides():
    options = StepOptions(0.0, "none", 0.0, 0.0, 0, 0)
    with pytest.raises(ValueError, match="psi: got a lattice of 3x4 cells"):
        triton_step.brickwork_step(any_psi((3, 4), 2), torch.zeros(2, 8, 8), options)


@on_kernels
def test_weights_too_large_for_a_program_are_refused():
    law, psi = any_law("MLP", 64, 1024, dtype=torch.float32), any_psi((2, 2), 64, 1).cfloat()
    with pytest.raises(ValueError, match=r"weights: d_state 64 and 1024 hidden take .* bytes"):
        found(al.Step(law), psi, psi)


@pytest.mark.parametrize(
    ("psi", "words"),
    [
        (torch.zeros(1, 2, 2, 3), "psi is torch.float32; the Triton kernels take complex64"),
        (torch.zeros(1, 2, 2, 3, dtype=torch.cfloat, device="meta"), "psi is on meta"),
    ],
)
def test_what_has_no_triton_step_is_told_in_words(psi, words):
    assert words in triton_step.why_not(psi)
    with pytest.raises(ValueError, match=words):
        triton_step.mlp_step(psi, (), "silu", StepOptions(0.1, "none", 0.0, 0.0, 0, 0))


@pytest.mark.skipif(INTERPRETING, reason="the interpreter takes it")
def test_a_psi_on_the_cpu_needs_the_interpreter():
    assert "psi is on cpu" in triton_step.why_not(torch.zeros(1, 2, 2, 3, dtype=torch.cfloat))


@pytest.mark.skipif(INTERPRETING, reason="it was asked already")
def test_importing_it_does_not_import_triton():
    code = "import sys, atheria_lab.triton_step\nassert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
