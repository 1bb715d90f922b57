"""Engine: both backends, saved states, interruption, refusals, and bytes given back."""

from __future__ import annotations

import copy
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from atheria_lab import lattice, native
from atheria_lab.engine import Engine
from atheria_lab.laws import MLP, Brickwork, Conv, ConvLSTMUNet, UNet
from atheria_lab.noise import Noise
from atheria_lab.step import Step

LAWS = [MLP(3, 8), Conv(3, 8), Brickwork(3)]
BACKENDS = ["torch", "native"]


@pytest.fixture
def psi():
    return lattice.random((8, 12), 3, batch=2)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_steps_as_step_does(law, backend, psi):
    noise = Noise(0.2, 0.05)
    start = psi.clone()
    step = Step(law, gamma=0.1, noise=noise, seed=5)
    with Engine(law, psi, gamma=0.1, noise=noise, seed=5, backend=backend) as engine:
        assert engine.backend == backend and engine.law is law
        with torch.no_grad():
            for i in range(4):
                before = engine.psi.clone()
                engine.step()
                assert engine.steps_done == i + 1
                assert torch.allclose(engine.psi, step(before, i), rtol=0, atol=1e-5)
    assert torch.equal(psi, start)


def test_auto_takes_what_can_be(psi):
    def chosen(law):
        return Engine(law, psi).backend

    class Mine(MLP):
        def forward(self, x):
            return -super().forward(x)

    hooked = MLP(3)
    hooked.inner.register_forward_hook(lambda *_: None)
    patched = MLP(3)
    patched.forward = lambda x: x
    replaced = MLP(3)
    replaced.inner = nn.Sequential(replaced.inner)
    assert [chosen(law) for law in LAWS] == ["native"] * 3
    others = [
        Mine(3),
        hooked,
        patched,
        replaced,
        UNet(3, 4, 1),
        ConvLSTMUNet(3, 4, 1),
        nn.Identity(),
    ]
    for law in others:
        assert chosen(law) == "torch"
        with pytest.raises(ValueError, match='backend: got "native", but '):
            Engine(law, psi, backend="native")
    with pytest.raises(ValueError, match=r"inner.weight is torch.float64 and psi is"):
        Engine(MLP(3).double(), psi, backend="native")
    with pytest.raises(ValueError, match="UNet has no fused kernel"):
        Engine(UNet(3, 4, 1), psi, backend="native")


def test_no_bias_no_fused_step(psi):
    law = MLP(3)
    law.inner.bias = None
    assert "no bias" in native.why_not(law, psi)


@pytest.mark.parametrize("backend", BACKENDS)
def test_save_every(backend, psi):
    law = MLP(3, 8)
    with Engine(law, psi, backend=backend) as engine:
        saved = engine.step(10, save_every=4)
        assert saved.shape == (2, *psi.shape) and saved.dtype == psi.dtype
        again = Engine(law, psi, backend=backend)
        for i in range(2):
            again.step(4)
            assert torch.equal(saved[i], again.psi)
        again.step(2)
        assert torch.equal(engine.psi, again.psi)


@pytest.mark.parametrize("backend", BACKENDS)
def test_save_into_memory_of_ones_own(backend, psi):
    tensor = torch.empty(3, *psi.shape, dtype=psi.dtype)
    array = np.empty(tensor.shape, dtype=np.complex64)
    for out in (tensor, array):
        with Engine(MLP(3, seed := 8), psi, backend=backend) as engine:
            assert seed and engine.step(6, save_every=2, out=out) is out
            assert np.array_equal(np.asarray(out)[-1], engine.psi.numpy())


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_input(backend, psi):
    law = MLP(3)
    bad = psi.clone()
    bad[0, 1, 2, 0] = complex("nan")
    with pytest.raises(ValueError, match="psi: it holds NaN"):
        Engine(law, bad, backend=backend)
    with pytest.raises(TypeError, match=r"psi: got torch\.float32"):
        Engine(law, psi.real, backend=backend)
    with pytest.raises(ValueError, match="psi: got d_state 2; the law takes 3"):
        Engine(law, psi[..., :2], backend=backend)
    with pytest.raises(ValueError, match="backend: got 'fast'"):
        Engine(law, psi, backend="fast")
    with pytest.raises(TypeError, match="noise: got float"):
        Engine(law, psi, noise=0.5, backend=backend)
    with pytest.raises(TypeError, match="law: got function"):
        Engine(lambda x: x, psi)
    engine = Engine(law, psi, backend=backend)
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"n: got {n}"):
            engine.step(n)
    with pytest.raises(TypeError, match=r"n: got 1\.5"):
        engine.step(1.5)
    with pytest.raises(ValueError, match="save_every: got 3; it takes at most n, 2"):
        engine.step(2, save_every=3)
    with pytest.raises(ValueError, match="out: got one without save_every"):
        engine.step(2, out=torch.empty(1))
    with pytest.raises(ValueError, match=r"out: got torch.complex64 \(1,\); it takes"):
        engine.step(2, save_every=1, out=torch.empty(1, dtype=psi.dtype))
    with pytest.raises(TypeError, match="out: got list"):
        engine.step(2, save_every=1, out=[])
    frozen = np.empty((2, *psi.shape), dtype=np.complex64)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out: it is read-only"):
        engine.step(2, save_every=1, out=frozen)
    with pytest.raises(TypeError, match="progress: got 3"):
        engine.step(2, progress=3)
    assert engine.steps_done == 0 and torch.equal(engine.psi, psi)


def test_native_takes_contiguous_memory_for_saved_states(psi):
    out = torch.empty(2, *psi.shape[:-1], 6, dtype=psi.dtype)[..., ::2]
    with pytest.raises(ValueError, match="out: the native backend takes contiguous memory"):
        Engine(MLP(3), psi, backend="native").step(2, save_every=1, out=out)
    Engine(MLP(3), psi, backend="torch").step(2, save_every=1, out=out)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides_to_start_from(backend):
    psi = lattice.random((6, 4), 3, batch=2).permute(0, 2, 1, 3)
    views = [psi, psi.conj().resolve_conj().conj(), psi.flip(1)]
    for view in views:
        with Engine(MLP(3), view, backend=backend) as engine:
            assert torch.equal(engine.psi, view)
            engine.step(2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_engine_says_so(backend, psi):
    engine = Engine(MLP(3), psi, backend=backend)
    assert engine.nbytes == psi.nbytes * (2 if backend == "native" else 1)
    engine.step(2)
    with engine:
        pass
    engine.close()
    assert engine.closed and engine.nbytes == 0 and engine.steps_done == 2
    for use in (
        lambda: engine.psi,
        lambda: engine.hidden,
        engine.step,
        engine.state,
        engine.__enter__,
    ):
        with pytest.raises(RuntimeError, match="This engine is closed"):
            use()
    assert "closed" in repr(engine) and "closed" in engine._repr_html_()


def test_it_shows_itself(psi):
    engine = Engine(MLP(3), psi, backend="native")
    engine.step(3)
    assert repr(engine) == (
        "Engine(MLP, psi 2x8x12x3 complex64 on cpu, norm='lattice', backend='native', 3 steps done)"
    )
    assert native.isa() in engine._repr_html_()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hundred_engines_leave_nothing(backend, psi):
    law = MLP(3)

    def alive():
        gc.collect()
        return sum(1 for o in gc.get_objects() if issubclass(type(o), torch.Tensor | Engine))

    before = alive()
    kept = []
    for i in range(100):
        engine = Engine(law, psi, backend=backend)
        tensor = weakref.ref(engine._held.state.psi)
        engine.step(2)
        if i % 2:
            engine.close()
            kept.append(engine)  # closed ones may be held: their tensors are gone
        del engine
        if backend == "native":
            assert tensor() is None
    kept.clear()
    assert alive() == before


def test_what_holds_the_tensors_lets_go_with_the_engine(psi):
    engine = Engine(MLP(3), psi)
    held = engine._held  # as a traceback would
    del engine
    assert held.state is None and held.spare is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_read_at_every_call(backend, psi):
    for law in (MLP(3), Brickwork(3)):
        changed = copy.deepcopy(law)
        engine = Engine(law, psi, backend=backend)
        engine.step(2)
        with torch.no_grad():
            for parameter, other in zip(law.parameters(), changed.parameters(), strict=True):
                parameter.mul_(1.5)
                other.mul_(1.5)
        other = Engine(changed, engine.psi, backend=backend)
        engine.step(2)
        other.step(2)
        assert torch.equal(engine.psi, other.psi)


def test_a_law_that_the_kernels_no_longer_know_is_refused(psi):
    law = MLP(3)
    engine = Engine(law, psi, backend="native")
    law.double()
    with pytest.raises(ValueError, match=r"law: inner\.weight is torch\.float64"):
        engine.step()
    law.float().inner.weight = nn.Parameter(torch.zeros(32, 7))
    with pytest.raises(ValueError, match=r"inner.weight: got shape \(32, 7\); it takes \(32, 6\)"):
        engine.step()
    law.activation = "sine"
    with pytest.raises(ValueError, match="activation: got 'sine'"):
        law.inner.weight = nn.Parameter(torch.zeros(32, 6))
        engine.step()
    assert engine.steps_done == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_goes_on_from_a_state(backend, psi):
    law = MLP(3)
    options = {"noise": Noise(0.5, 0.1), "seed": 2, "backend": backend}
    engine = Engine(law, psi, **options)
    engine.step(3)
    state = engine.state()
    engine.step(4)
    other = Engine(copy.deepcopy(law), psi, **options)
    other.restore(state)
    assert other.steps_done == 3
    other.step(4)
    assert torch.equal(engine.psi, other.psi)
    engine.restore(state)
    engine.step(4)
    assert torch.equal(engine.psi, other.psi)
    with pytest.raises(ValueError, match="state: its seed is 2; this engine has 9"):
        Engine(law, psi, seed=9).restore(state)
    with pytest.raises(ValueError, match="state: its law is "):
        Engine(MLP(3), psi, seed=2).restore(state)


def test_recurrent_laws(psi):
    law = ConvLSTMUNet(3, 4, 1)
    engine = Engine(law, psi, reset_every=3)
    assert engine.backend == "torch" and len(engine.hidden) == 2
    engine.step(2)
    state = engine.state()
    assert any(bool(h.any()) for h in engine.hidden)
    engine.step(2)
    after = engine.psi.clone()
    engine.restore(state)
    engine.step(2)
    assert torch.equal(engine.psi, after)
    assert not engine.psi.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_progress(backend):
    seen = []
    engine = Engine(Conv(4), lattice.random(96, 4), backend=backend)
    started = time.monotonic()
    while not seen[1:] and time.monotonic() - started < 30:
        engine.step(60, progress=lambda done, n: seen.append((done, n)))
    assert seen[-1] == (60, 60)
    assert all(done <= n == 60 for done, n in seen)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_in_progress_stops_between_steps(backend):
    law, psi = MLP(4), lattice.random(64, 4)
    engine = Engine(law, psi, backend=backend)

    def stop(done, n):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        engine.step(1_000_000, progress=stop)
    assert 0 < engine.steps_done < 1_000_000
    other = Engine(law, psi, backend=backend)
    other.step(engine.steps_done)
    assert torch.equal(engine.psi, other.psi)


INTERRUPTED = """
import sys, time
from atheria_lab import lattice
from atheria_lab.engine import Engine
from atheria_lab.laws import MLP
engine = Engine(MLP(8, 64), lattice.random(int(sys.argv[2]), 8), backend=sys.argv[1])
engine.step(1)
print("ready", flush=True)
try:
    engine.step(10**9)
except KeyboardInterrupt:
    done = engine.steps_done
    print(time.monotonic(), flush=True)
    engine.step(1)
    assert engine.steps_done == done + 1
"""


@pytest.mark.parametrize(("backend", "size"), [("torch", 64), ("native", 64), ("native", 1024)])
def test_ctrl_c(backend, size):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), backend, str(size)],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.5)
        asked = time.monotonic()
        child.send_signal(signal.SIGINT)
        stopped = float(child.stdout.readline())
        assert child.wait(timeout=60) == 0
    # 0.1 s is the promise on an idle machine; a busy one may take a while to wake the process.
    assert stopped - asked < 1.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_steps_too(psi):
    engine = Engine(MLP(3), psi, backend="native")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine.step(3)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(20)
                engine.step(3)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        engine.step(3)
    finally:
        torch.set_num_threads(threads)
