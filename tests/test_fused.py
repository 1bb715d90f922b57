"""The fused step: the gradients of plain autograd, of its states alone."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import atheria_lab as al
from atheria_lab import native
from atheria_lab.fused import FusedStep, operators
from atheria_lab.noise import Part

NORMS, ACTIVATIONS = ("lattice", "cell", "none"), ("silu", "relu", "gelu", "tanh")


LAWS = ("MLP", "Conv", "Brickwork")


def any_law(d_state=3, hidden=5, activation="silu", dtype=torch.float64, kind="MLP"):
    if kind == "Brickwork":
        return al.laws.Brickwork(d_state, spread=0.5).to(dtype)
    law = getattr(al.laws, kind)(d_state, hidden, activation=activation).to(dtype)
    with torch.no_grad():
        for parameter in law.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return law


def gradients(step, psi, gradient, i=0):
    law = step.law
    law.zero_grad()
    psi = psi.clone().requires_grad_()
    out = step(psi, i)
    out.backward(gradient)
    return [out.detach(), psi.grad, *(parameter.grad for parameter in law.parameters())]


def apart(found, expected):
    scale = expected.abs().max().clamp_min(1e-30)
    return float((found - expected).abs().max() / scale)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(LAWS), st.integers(1, 2), st.integers(1, 40), st.integers(1, 40),
    st.integers(1, 5), st.integers(1, 40), st.sampled_from(NORMS), st.sampled_from(ACTIVATIONS),
    st.sampled_from([al.Noise(), al.Noise(phase=0.4), al.Noise(phase=0.1, sign=0.3)]),
    st.integers(0, 2**63), st.integers(0, 1000),
)  # fmt: skip
def test_it_is_the_plain_step_and_its_gradient(
    kind, batch, height, width, d_state, hidden, norm, activation, noise, seed, i
):
    torch.manual_seed(0)
    law = any_law(d_state, hidden, activation, kind=kind)
    options = {"gamma": 0.1, "norm": norm, "noise": noise, "seed": seed}
    if kind == "Brickwork":
        height, width, options["norm"] = 2 * height, 2 * width, "none"
    psi = al.lattice.random((height, width), d_state, batch=batch, dtype=torch.complex128)
    gradient = torch.randn_like(psi)
    plain = gradients(al.Step(law, **options), psi * 1.5, gradient, i)
    found = gradients(FusedStep(law, **options), psi * 1.5, gradient, i)
    for one, other in zip(found, plain, strict=True):
        assert apart(one, other) < 1e-10


CASES = [*((kind, norm) for kind in ("MLP", "Conv") for norm in NORMS), ("Brickwork", "none")]


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_gradcheck(kind, norm):
    torch.manual_seed(0)
    law = any_law(1, 3, kind=kind)
    step = FusedStep(law, norm=norm, noise=al.Noise(phase=0.3))
    psi = al.lattice.random((2, 4), 1, dtype=torch.complex128).requires_grad_()
    weights = list(law.parameters())

    def function(psi, *weights):
        return torch.func.functional_call(
            Wrapped(step), dict(zip(names, weights, strict=True)), (psi,)
        )

    names = [f"law.{name}" for name, _ in law.named_parameters()]
    assert torch.autograd.gradcheck(function, (psi, *weights))


class Wrapped(torch.nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step, self.law = step, step.law

    def forward(self, psi):
        return self.step(psi, 0)


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_in_single_precision_it_is_as_near_as_torch(kind, norm):
    torch.manual_seed(0)
    law = any_law(8, 32, kind=kind)
    psi = al.lattice.random(48, 8, dtype=torch.complex128)
    gradient = torch.randn_like(psi)
    exact = gradients(al.Step(law, norm=norm), psi, gradient)
    law, psi, gradient = law.float(), psi.to(torch.complex64), gradient.to(torch.complex64)
    plain = gradients(al.Step(law, norm=norm), psi, gradient)
    found = gradients(FusedStep(law, norm=norm), psi, gradient)
    for one, other, truth in zip(found, plain, exact, strict=True):
        assert apart(one, truth) < max(1e-5, 2 * apart(other, truth))


@pytest.mark.parametrize("kind", LAWS)
def test_any_number_of_threads_gives_the_same_bits(kind):
    torch.manual_seed(0)
    law, psi = any_law(8, 32, dtype=torch.float32, kind=kind), al.lattice.random(64, 8)
    gradient = torch.randn_like(psi)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            runs.append(gradients(FusedStep(law), psi, gradient))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0], strict=True))


@pytest.mark.parametrize(
    "plan", [al.plans.Segmented(7), al.plans.Binomial(4), al.plans.Binomial(1)]
)
@pytest.mark.parametrize("kind", LAWS)
def test_every_plan_gives_the_same_bits_and_chains_keep_a_state_a_step(kind, plan):
    torch.manual_seed(0)
    law, psi = any_law(4, 16, dtype=torch.float32, kind=kind), al.lattice.random(24, 4)
    step = FusedStep(law)

    def run(plan):
        law.zero_grad()
        with al.memory.track_peak() as peak:
            out = al.rollout(step, psi, 40, al.SaveAt.at_most(2), plan)
            sum(al.lattice.density(state).square().mean() for state in out.states).backward()
        return [parameter.grad.clone() for parameter in law.parameters()], peak.peak_bytes

    expected, kept = run(al.plans.StoreAll())
    found, less = run(plan)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    weights = sum(one.nbytes for one in law.parameters())
    assert kept < 48 * psi.nbytes + 12 * weights  # 40 states, the loss, and little else
    assert less < kept / 2


@pytest.mark.parametrize("backend", ["auto", "native"])
def test_a_trainer_within_a_budget(backend, tmp_path):
    def train(backend, budget):
        torch.manual_seed(0)
        trainer = al.Trainer(al.laws.MLP(4, 16), 32, 60, budget, backend=backend, seed=1)
        return trainer, trainer.train(3, progress=False)

    _, plain = train("torch", None)
    trainer, reports = train(backend, "1 MiB")
    assert reports[0].peak_bytes <= trainer.budget
    assert reports[0].peak_bytes == pytest.approx(reports[0].predicted_bytes, rel=0.05)
    for one, other in zip(reports, plain, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)
    trainer.save(tmp_path / "run.safetensors")
    again = al.Trainer.load(tmp_path / "run.safetensors")
    assert again.train_episode().loss == trainer.train_episode().loss
    assert again.settings["backend"] == backend


def test_auto_takes_torch_where_there_is_no_fused_step():
    trainer = al.Trainer(al.laws.UNet(2, 4), 8, 4, backend="auto")
    assert type(trainer._episodes.step(0)) is al.Step
    with pytest.raises(ValueError, match="UNet has no fused backward pass"):
        al.Trainer(al.laws.UNet(2, 4), 8, 4, backend="native")


def test_frozen_parameters_and_a_start_without_gradient():
    torch.manual_seed(0)
    law, psi = any_law(), al.lattice.random((4, 5), 3, dtype=torch.complex128)
    full = gradients(FusedStep(law), psi, psi)
    law.outer.requires_grad_(False)
    law.zero_grad()
    FusedStep(law)(psi, 0).backward(psi)
    assert law.outer.weight.grad is None
    assert torch.equal(law.inner.weight.grad, full[2])
    law.requires_grad_(False)
    alone = psi.clone().requires_grad_()
    FusedStep(law)(alone, 0).backward(psi)
    assert torch.equal(alone.grad, full[1])
    with torch.no_grad():
        assert not FusedStep(law)(alone, 0).requires_grad


def test_gradients_that_are_not_contiguous_or_conjugated():
    torch.manual_seed(0)
    law, psi = any_law(), al.lattice.random((4, 4), 3, dtype=torch.complex128)
    gradient = torch.randn_like(psi)
    expected = gradients(FusedStep(law), psi, gradient)
    turned = gradient.conj().resolve_conj().transpose(1, 2).contiguous().transpose(1, 2).conj()
    assert turned.is_conj()
    assert not turned.is_contiguous()
    found = gradients(FusedStep(law), psi, turned)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", LAWS)
def test_hooks_and_anomaly_mode_see_an_ordinary_node(kind):
    torch.manual_seed(0)
    law = any_law(kind=kind)
    start = al.lattice.random((4, 6), 3, dtype=torch.complex128).requires_grad_()

    def run(step):
        seen = []
        with torch.autograd.detect_anomaly(check_nan=True):
            middle = step(start, 0)
            middle.register_hook(lambda gradient: seen.append(gradient) or 2 * gradient)
            step(middle, 1).abs().square().square().sum().backward()
        found, start.grad = start.grad, None
        return [*seen, found]

    with pytest.warns(UserWarning, match="Anomaly Detection"):
        expected, found = run(al.Step(law)), run(FusedStep(law))
    for one, other in zip(found, expected, strict=True):
        assert apart(one, other) < 1e-10


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_on_a_cuda_device(kind, norm):
    torch.manual_seed(0)
    law = any_law(kind=kind).cuda()
    psi = al.lattice.random((6, 8), 3, dtype=torch.complex128).cuda()
    gradient = torch.randn_like(psi)
    options = {"norm": norm, "noise": al.Noise(phase=0.3), "seed": 4}
    plain = gradients(al.Step(law, **options), psi, gradient, 3)
    found = gradients(FusedStep(law, **options), psi, gradient, 3)
    for one, other in zip(found, plain, strict=True):
        assert apart(one, other) < 1e-10


def test_weights_changed_in_between_are_refused():
    law, psi = any_law(), al.lattice.random((2, 2), 3, dtype=torch.complex128)
    out = FusedStep(law)(psi, 0)
    with torch.no_grad():
        law.inner.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.abs().sum().backward()


def test_a_second_derivative_is_refused_in_words():
    law = any_law()
    psi = al.lattice.random((2, 2), 3, dtype=torch.complex128).requires_grad_()
    out = FusedStep(law)(psi, 0).abs().square().sum()
    (first,) = torch.autograd.grad(out, psi, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.abs().sum().backward()


def test_laws_are_copied_and_pickled_and_hooks_are_refused():
    law, psi = any_law(), al.lattice.random((2, 2), 3, dtype=torch.complex128)
    step = FusedStep(law, gamma=0.2)
    expected = step(psi, 0)
    assert torch.equal(copy.deepcopy(step)(psi, 0), expected)
    assert torch.equal(pickle.loads(pickle.dumps(step))(psi, 0), expected)
    law.inner.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"hooks.*al\.Step\(law\) takes any law"):
        step(psi, 0)


@pytest.mark.parametrize(
    ("psi", "word"),
    [
        (torch.zeros(1, 2, 2, 3, dtype=torch.complex64), "one precision"),
        (torch.zeros(1, 2, 2, 3), "complex"),
        (torch.zeros(2, 2, 3, dtype=torch.complex128), "complex"),
        (torch.zeros(1, 2, 2, 4, dtype=torch.complex128), "shape"),
    ],
)
def test_a_psi_that_does_not_fit_is_refused(psi, word):
    with pytest.raises((TypeError, ValueError), match=word):
        FusedStep(any_law())(psi, 0)


def flat_gradient(step, psi, plan, after=lambda: None):
    step.law.zero_grad()
    out = al.rollout(step, psi, 9, plan=plan)
    after()
    (out.final.abs() ** 4).sum().backward()
    return torch.cat([one.grad.flatten() for one in step.law.parameters()])


PLANS = [al.plans.Binomial(3), al.plans.Segmented(4), al.plans.Segmented(1)]


@pytest.mark.parametrize("plan", PLANS, ids=repr)
def test_one_tensor_that_is_two_parameters_gets_both_gradients(plan):
    torch.manual_seed(0)
    law, psi = any_law(4, 8), al.lattice.random((4, 4), 4, dtype=torch.complex128)
    law.outer.weight = torch.nn.Parameter(torch.randn(8, 8, dtype=torch.float64) / 4)
    law.inner.weight, law.inner.bias = law.outer.weight, law.outer.bias
    expected = flat_gradient(al.Step(law), psi, al.plans.StoreAll())
    assert apart(flat_gradient(FusedStep(law), psi, plan), expected) < 1e-10


@pytest.mark.parametrize("plan", PLANS, ids=repr)
def test_a_subclass_with_a_call_of_its_own_goes_its_own_way_back(plan):
    class Louder(FusedStep):
        def __call__(self, state, i):
            return super().__call__(state, i) * 1.1

    torch.manual_seed(0)
    law, psi = any_law(4, 8), al.lattice.random((4, 4), 4, dtype=torch.complex128)
    expected = flat_gradient(Louder(law), psi, al.plans.StoreAll())
    assert apart(flat_gradient(Louder(law), psi, plan), expected) < 1e-10


def test_settings_changed_before_the_way_back_are_refused():
    step = FusedStep(any_law(dtype=torch.float32), gamma=0.1)

    def change():
        step.gamma = 0.5

    with pytest.raises(RuntimeError, match="its settings were changed between the forward and"):
        flat_gradient(step, al.lattice.random((4, 4), 3), al.plans.Binomial(20), change)


def test_generators_changed_behind_the_version_before_the_way_back():
    law, psi = any_law(kind="Brickwork"), al.lattice.random((4, 4), 3, dtype=torch.complex128)
    runs = []
    for step in (al.Step(law), FusedStep(law)):
        law.zero_grad()
        out = (step(psi, 0).abs() ** 4).sum()
        before = law.generators.detach().clone()
        law.generators.data.add_(0.1)
        out.backward()
        law.generators.data.copy_(before)
        runs.append(law.generators.grad)
    assert apart(runs[1], runs[0]) < 1e-10


def test_hooks_that_it_would_not_call_are_refused():
    law, psi = any_law(), al.lattice.random((2, 2), 3, dtype=torch.complex128)
    step = FusedStep(law)
    handle = law.inner.register_full_backward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="inner has backward hooks"):
        step(psi, 0)
    handle.remove()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(ValueError, match="hooks on all modules"):
            step(psi, 0)
    finally:
        handle.remove()
    step(psi, 0)


def test_transforms_of_torch_func_are_refused_in_words():
    step, psi = FusedStep(any_law()), al.lattice.random((2, 2), 3, dtype=torch.complex128)
    with pytest.raises(ValueError, match=r"opaque to torch\.func's transforms"):
        torch.func.grad(lambda scale: step(psi * scale, 0).abs().sum())(torch.ones(()))


def test_a_part_of_a_larger_lattice_takes_no_fused_noise():
    law, part = any_law(), Part(row=2, height=8)
    FusedStep(law, part=part)
    with pytest.raises(ValueError, match=r"part: got Part.*al\.Step\(law\) takes a part"):
        FusedStep(law, part=part, noise=al.Noise(phase=0.1))


def test_zeros_stay_zeros_and_nan_stays_nan():
    law = al.laws.MLP(2, 4)
    with torch.no_grad():
        for parameter in law.parameters():
            parameter.zero_()
    for norm in NORMS:
        psi = torch.zeros(1, 3, 3, 2, dtype=torch.complex64, requires_grad=True)
        out = FusedStep(law, norm=norm)(psi, 0)
        out.backward(torch.ones_like(out))
        assert torch.equal(out, torch.zeros_like(out))
        plain = psi.detach().clone().requires_grad_()
        again = al.Step(law, norm=norm)(plain, 0)
        again.backward(torch.ones_like(out))
        torch.testing.assert_close(psi.grad, plain.grad)
        bad = torch.full_like(psi, float("nan"))
        assert FusedStep(law, norm=norm)(bad, 0).isnan().any()


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_the_operator_passes_opcheck(kind, norm):
    law = any_law(kind=kind)
    psi = al.lattice.random((4, 4), 3, dtype=torch.complex128).requires_grad_()
    weights = [one.detach().requires_grad_() for one in FusedStep(law)._weights(psi.dtype, True)]
    torch.library.opcheck(
        operators.lattice_step, (kind, psi, weights, "silu", 0.1, norm, 0.2, 0.1, 7, 3)
    )


@pytest.mark.parametrize("kind", LAWS)
def test_it_compiles_as_one_node(kind):
    torch.manual_seed(0)
    law, psi = any_law(kind=kind), al.lattice.random((4, 6), 3, dtype=torch.complex128)
    step = FusedStep(law)
    gradient = torch.randn_like(psi)
    expected = gradients(step, psi, gradient)
    step_compiled = torch.compile(lambda psi, i: step(psi, i), fullgraph=True, backend="aot_eager")
    step_compiled.law = law
    found = gradients(step_compiled, psi, gradient)
    for one, other in zip(found, expected, strict=True):
        assert apart(one, other) < 1e-12


def test_the_inverse_takes_a_step_back():
    law, psi = any_law(kind="Brickwork"), al.lattice.random((6, 8), 3, dtype=torch.complex128)
    step = FusedStep(law, noise=al.Noise(phase=0.4, sign=0.2), seed=3)
    assert apart(step.inverse(step(psi, 5), 5), psi) < 1e-13
    assert not hasattr(FusedStep(any_law()), "inverse")


def test_reversible_takes_two_forward_passes_and_one_way_back(monkeypatch):
    law, psi = any_law(kind="Brickwork"), al.lattice.random((6, 8), 3, dtype=torch.complex128)
    psi.requires_grad_()
    options = {"noise": al.Noise(phase=0.3), "seed": 5}

    def run(step, plan):
        psi.grad = None
        law.zero_grad()
        out = al.rollout(step, psi, 30, al.SaveAt.at_most(3), plan)
        sum((state.abs() ** 4).sum() for state in out.states).backward()
        return out, [psi.grad, law.generators.grad]

    _, expected = run(al.Step(law, **options), al.plans.StoreAll())
    calls = []
    for name in ("step_once", "vjp"):
        made = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *a, _m=made, _n=name: calls.append(_n) or _m(*a))
    out, found = run(FusedStep(law, **options), al.plans.Reversible())
    for one, other in zip(found, expected, strict=True):
        assert apart(one, other) < 1e-10
    assert out.reconstruction_error < 1e-13
    assert calls.count("step_once") == 31  # one to find the parameters
    assert calls.count("vjp") == 60  # of which half are the inverse


def test_a_plan_refuses_parameters_changed_before_its_way_back():
    law, psi = any_law(dtype=torch.float32), al.lattice.random((4, 4), 3)
    out = al.rollout(FusedStep(law), psi, 8, plan=al.plans.Binomial(2))
    with torch.no_grad():
        law.inner.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        out.final.abs().sum().backward()


def test_generators_changed_behind_the_version_are_seen():
    law, psi = any_law(kind="Brickwork"), al.lattice.random((4, 4), 3, dtype=torch.complex128)
    step = FusedStep(law)
    step(psi, 0)
    law.generators.data.mul_(0.5)
    assert apart(step(psi, 0).detach(), al.Step(law)(psi, 0).detach()) < 1e-12


@pytest.mark.parametrize("kind", LAWS)
def test_fake_tensors_pass_through_it(kind):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        law = al.laws.Brickwork(3) if kind == "Brickwork" else getattr(al.laws, kind)(3, 5)
        psi = torch.empty(2, 4, 6, 3, dtype=torch.complex64, requires_grad=True)
        out = FusedStep(law)(psi, 0)
        out.abs().sum().backward()
        assert psi.grad.shape == psi.shape
        assert all(one.grad.shape == one.shape for one in law.parameters())
