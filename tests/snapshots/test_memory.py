"""A store and the memory room: whose its bytes are, and room when it is short."""

import pytest
import torch

import atheria_lab as al
from atheria_lab.memory import LimitError, Limits
from atheria_lab.memory.owners import claimed_bytes


def engine():
    return al.Engine(al.laws.MLP(2, hidden=3), al.lattice.random(16, 2, seed=0))


def snapshots_claimed():
    return claimed_bytes().get("snapshots", 0)


def test_its_bytes_are_its_own():
    before = snapshots_claimed()
    with engine() as running, al.SnapshotStore(limit=3) as store:
        for _ in range(5):
            running.step(1)
            store.add(running)
        assert snapshots_claimed() - before == store.nbytes.host == 3 * running.psi.nbytes
    assert snapshots_claimed() == before


def test_past_the_soft_limit_it_spills_to_disk_and_stays_readable(tmp_path, monkeypatch):
    limits = Limits(soft="1 GiB")
    monkeypatch.setattr(limits, "used", lambda: limits.soft - 100)
    with engine() as running, al.SnapshotStore(directory=tmp_path) as store:
        limits.on_pressure(store.spill)
        states = []
        for _ in range(4):
            running.step(1)
            states.append(running.psi.clone())
            store.add(running)
        size = running.psi.nbytes
        assert store.nbytes.host == 4 * size
        assert not limits.make_room(100 + size + 1)  # two states go; used() is a constant here
        assert store.nbytes.host == 2 * size
        assert all(torch.equal(kept.psi, psi) for kept, psi in zip(store, states, strict=True))


def test_a_store_in_memory_alone_frees_nothing():
    with engine() as running, al.SnapshotStore() as store:
        store.add(running)
        assert store.spill(1) == 0
        assert len(store) == 1
        limits = Limits(hard=2**20)
        limits.on_pressure(store.spill)
        with pytest.raises(LimitError):
            limits.check(2**30, "another one", "Give it a directory.")
