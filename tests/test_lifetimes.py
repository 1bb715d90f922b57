"""Bench and engines: what is closed is gone, whoever still holds it; hidden tensors by policy."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from small import small_law

import atheria_lab as al
from atheria_lab.hidden import ResetHidden
from atheria_lab.memory import track_peak


@pytest.fixture
def psi():
    return al.lattice.random((8, 12), 2)


def engine_bytes(psi):
    with track_peak() as peak, al.Engine(al.laws.MLP(2), psi):
        return peak.live_bytes


def test_a_bench_holds_one_engine_and_one_law(psi):
    bench = al.Bench(gamma=0.1)
    assert bench.empty and bench.nbytes == 0 and repr(bench) == "Bench(empty)"
    with pytest.raises(RuntimeError, match=r"empty: load\(law, psi\)"):
        _ = bench.engine
    bench.load(lambda: al.laws.MLP(2), psi)
    with track_peak() as peak:
        first = bench.load(lambda: al.laws.MLP(2), psi)
        alone = peak.live_bytes
        law, tensor = weakref.ref(first.law), weakref.ref(first._held.state.psi)
        second = bench.load(lambda: al.laws.MLP(2), psi)
        gc.collect()
        assert peak.live_bytes == alone  # though `first` still holds the former engine
    assert first.closed and law() is None and tensor() is None
    assert bench.engine is second and second.settings()["gamma"] == 0.1
    with pytest.raises(RuntimeError, match="This engine is closed"):
        _ = first.law
    bench.close()
    bench.close()
    assert bench.empty and second.closed


def test_the_new_law_is_made_after_the_old_one_is_gone(psi):
    bench = al.Bench()
    former = bench.load(al.laws.MLP(2), psi)
    seen = []

    def make():
        seen.append((former.closed, bench.empty))
        return al.laws.MLP(2)

    bench.load(make, lambda: psi)
    assert seen == [(True, True)]


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_law_that_cannot_be_made_leaves_an_empty_bench(psi, backend):
    bench = al.Bench(backend=backend)
    with track_peak() as peak:
        former = bench.load(al.laws.MLP(2), psi)
        tensor = weakref.ref(former.psi)

        def broken():
            raise MemoryError("no room")

        with pytest.raises(MemoryError, match="no room") as caught:
            bench.load(broken, psi)
        gc.collect()
        # The traceback is still here, and so is the variable.
        assert caught.tb is not None and former.closed
        assert tensor() is None and peak.live_bytes == 0
    assert bench.empty and "empty now" in caught.value.__notes__[0]
    bench.load(al.laws.MLP(2), psi)
    assert not bench.empty


def test_a_refusal_at_sight_leaves_the_bench_as_it_was(psi):
    bench = al.Bench()
    engine = bench.load(al.laws.MLP(2), psi)
    for law, start in ((3, psi), (al.laws.MLP(2), "psi")):
        with pytest.raises(TypeError, match="or a function that makes one"):
            bench.load(law, start)
    assert bench.engine is engine
    with pytest.raises(ValueError, match="d_state") as caught:
        bench.load(al.laws.MLP(3), psi)
    assert bench.empty and caught.value.__notes__


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_traceback_through_the_engine_holds_nothing_once_it_is_closed(backend):
    psi = al.lattice.random(64, 4)
    engine = al.Engine(al.laws.MLP(4), psi, backend=backend)

    def stop(done, n):
        raise LookupError("enough")

    with pytest.raises(LookupError) as caught:
        engine.step(10**7, progress=stop)
    held = [weakref.ref(engine._held.state.psi), weakref.ref(engine.law)]
    if backend == "native":
        held.append(weakref.ref(engine._held.spare))
    engine.close()
    gc.collect()
    assert caught.tb is not None
    assert [ref() for ref in held] == [None] * len(held)


def test_hidden_tensors_start_anew_as_their_policy_says(psi):
    law = small_law("ConvLSTMUNet")

    def after(policy):
        engine = al.Engine(law, psi, reset_every=policy)
        engine.step(5)
        first = engine.psi.clone()
        engine.restart(psi)
        assert engine.steps_done == 0
        fresh = not any(bool(h.any()) for h in engine.hidden)
        engine.step(5)
        return first, fresh, torch.equal(engine.psi, first)

    none, episode, never = after(None), after(al.ResetHidden.episode()), after(ResetHidden.never())
    every, by_number = after(al.ResetHidden.every(3)), after(3)
    assert torch.equal(none[0], episode[0]) and torch.equal(none[0], never[0])
    assert torch.equal(every[0], by_number[0]) and not torch.equal(every[0], none[0])
    # A new episode repeats the first one, unless the hidden tensors go on.
    assert none[1:] == episode[1:] == every[1:] == by_number[1:] == (True, True)
    assert never[1:] == (False, False)


def test_hidden_bytes_are_shown(psi):
    engine = al.Engine(small_law("ConvLSTMUNet"), psi, reset_every=al.ResetHidden.every(7))
    hidden = sum(h.nbytes for h in engine.hidden)
    assert engine.hidden_nbytes == hidden > 0
    assert engine.nbytes == psi.nbytes + hidden
    page = engine._repr_html_()
    assert al.memory.format_size(hidden) in page and "ResetHidden.every(7)" in page
    engine.close()
    assert engine.hidden_nbytes == engine.nbytes == 0
    assert "hidden" not in al.Engine(al.laws.MLP(2), psi)._repr_html_()


def test_hidden_bytes_stay_flat(psi):
    small = al.lattice.random((4, 4), 2)
    with track_peak() as peak:
        engine = al.Engine(small_law("ConvLSTMUNet"), small, reset_every=al.ResetHidden.never())
        engine.step(10)
        peak.reset_peak()
        engine.step(90)
        live, most = peak.live_bytes, peak.peak_bytes
        engine.step(1900)
        assert (peak.live_bytes, peak.peak_bytes) == (live, most)


def test_what_no_policy_takes():
    recurrent, plain = small_law("ConvLSTMUNet"), small_law("MLP")
    with pytest.raises(ValueError, match="n: got 0"):
        al.ResetHidden.every(0)
    with pytest.raises(ValueError, match="carries no hidden tensors"):
        al.Step(plain, reset_every=al.ResetHidden.every(2))
    with pytest.raises(ValueError, match=r"ResetHidden.never\(\); every episode"):
        al.Trainer(recurrent, 4, 3, reset_every=al.ResetHidden.never())
    trainer = al.Trainer(recurrent, 4, 3, reset_every=al.ResetHidden.every(2))
    assert trainer.settings["reset_every"] == 2


def test_restart_refuses_another_lattice(psi):
    engine = al.Engine(al.laws.MLP(2), psi)
    engine.step(3)
    with pytest.raises(ValueError, match=r"psi: got torch.complex64 \(1, 4, 4, 2\)"):
        engine.restart(al.lattice.random(4, 2))
    assert engine.steps_done == 3
