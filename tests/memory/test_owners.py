"""Whose bytes they are: blocks, claims, and the training that files every byte of its own."""

import gc
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import atheria_lab as al
from atheria_lab.memory import claim, owner, owners, track_peak
from atheria_lab.memory.owners import Owners, claimed_bytes, work

KIB = 1024


def floats(kib):
    return torch.zeros(kib * KIB // 4)


def in_kib(owned):
    return {name: size / KIB for name, size in owned.items() if size}


def test_what_a_block_makes_is_its_own_while_somebody_looks():
    with owner("before"):
        before = floats(1)
    with track_peak() as peak:
        with owner("features"):
            a = floats(4)
        b = floats(2)
        assert in_kib(peak.owners) == {"features": 4, "unknown": 2}
        assert peak.owners.unknown == pytest.approx(1 / 3)
        del a
        assert in_kib(peak.owners) == {"unknown": 2}
    del b, before


def test_blocks_nest_and_end_with_an_error():
    with track_peak() as peak:
        with pytest.raises(RuntimeError), owner("run"), owner("law"):
            kept = [floats(1)]
            raise RuntimeError
        kept.append(floats(2))
        with owner("run"):
            kept.append(floats(4))
        assert in_kib(peak.owners) == {"run/law": 1, "run": 4, "unknown": 2}
    kept.clear()


def test_kinds_of_work_stand_beside_each_other_within_a_users_block():
    with track_peak() as peak, owner("mine"):
        with work("gradients"), work("segment"):
            a = floats(1)
            with owner("inner"):
                b = floats(2)
        c = floats(4)
        assert in_kib(peak.owners) == {"mine/segment": 1, "mine/segment/inner": 2, "mine": 4}
    del a, b, c


def test_a_claim_is_known_at_any_time_and_the_first_one_counts():
    a = floats(4)
    before = claimed_bytes()
    claim("one", a)
    claim("two", [a, a[8:]])
    assert (claimed_bytes()["one"], claimed_bytes().get("two")) == (4 * KIB, before.get("two"))
    assert owners()["one"] == 4 * KIB
    with track_peak() as peak:
        b = floats(2)
        claim("one", {"b": b, "name": "no tensor"})
        assert in_kib(peak.owners)["one"] == 6
        assert in_kib(peak.owners).get("unknown") is None
    del a, b
    gc.collect()
    assert "one" not in claimed_bytes()


def test_tensors_that_nobody_claimed_are_found():
    gc.collect()
    before = owners()["unknown"]
    a = floats(8)
    views = [a, a[3:], a.view(2, -1)]
    assert owners()["unknown"] - before == 8 * KIB
    claim("views", views)
    assert owners()["unknown"] == before
    del a, views


def test_the_owners_at_the_peak():
    with track_peak() as peak:
        with owner("large"):
            a = floats(8)
        del a
        with owner("small"):
            b = floats(1)
        assert in_kib(peak.owners_at_peak) == {"large": 8}
        peak.reset_peak()
        assert in_kib(peak.owners_at_peak) == {"small": 1}
        assert peak.owners_at_peak.total == peak.peak_bytes
    del b


def test_another_thread_has_owners_of_its_own():
    seen = []
    with track_peak() as peak, owner("here"):
        thread = threading.Thread(target=lambda: seen.append(al.memory.owners.__name__))
        thread.start()
        thread.join()
        a = floats(1)
        assert in_kib(peak.owners) == {"here": 1}
    del a
    started = []

    def elsewhere():
        with track_peak() as peak:
            b = floats(1)
            started.append(in_kib(peak.owners))
            del b

    with owner("main"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert started == [{"unknown": 1}]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=12))
def test_the_parts_sum_to_the_whole(made):
    with track_peak() as peak:
        held = []
        for name, kib in made:
            with owner(name):
                held.append(floats(kib))
        assert peak.owners.total == peak.live_bytes == peak.owners_at_peak.total
        wanted = {name: sum(kib for n, kib in made if n == name) for name, _ in made}
        assert in_kib(peak.owners) == wanted
    held.clear()


def test_a_table_that_reads_well_and_its_difference():
    before, after = Owners({"a": 1024, "b": 10}), Owners({"a": 4096, "<c>": 2, "b": 10})
    assert list(after) == ["a", "b", "<c>"]
    assert dict(after - before) == {"a": 3072, "<c>": 2}
    assert repr(after).splitlines() == [
        "a      4.0 KiB  99.7%",
        "b         10 B   0.2%",
        "<c>        2 B   0.0%",
        "total  4.0 KiB       ",
    ]
    assert "&lt;c&gt;" in after._repr_html_()
    assert Owners({"a": 1}).unknown is None


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_is_a_few_words(name):
    with pytest.raises(ValueError, match="name: got"):
        owner(name)


@pytest.mark.parametrize(
    "plan",
    [al.plans.StoreAll(), al.plans.Segmented(4), al.plans.Binomial(3), al.plans.Tiered(1, 1, 1)],
    ids=repr,
)
def test_a_training_files_every_byte_of_its_own(plan):
    """The quickstart's training, smaller: at no moment are 5 % of the bytes unknown."""
    law = al.laws.Conv(d_state=8, hidden=32, activation="tanh")
    trainer = al.Trainer(law, 16, 30, plan=plan, save_at=al.SaveAt.at_most(5))
    with track_peak() as peak:
        for _ in range(2):
            trainer.train_episode()
            assert peak.owners_at_peak.unknown < 0.05
            assert peak.owners.unknown < 0.05
            assert {"parameters", "optimizer"} <= set(peak.owners)
    owned = peak.owners_at_peak
    assert {"parameters", "gradients", "psi and hidden"} <= set(owned)
    assert any(name.startswith("saved for backward/") for name in owned)
    assert owned["parameters"] >= sum(p.nbytes for p in law.parameters())
    assert owned.total >= peak.peak_bytes


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_an_engine_owns_what_it_steps(backend):
    gc.collect()
    before = claimed_bytes().get("psi and hidden", 0)
    with al.Engine(al.laws.MLP(2, hidden=3), al.lattice.random(8, 2), backend=backend) as engine:
        for _ in range(3):
            engine.step(2)
            assert claimed_bytes()["psi and hidden"] - before == engine.nbytes
    assert claimed_bytes().get("psi and hidden", 0) == before
