"""The staging ring, with a device that says when a copy arrives; and CUDA where there is one."""

import pytest
import torch
from runs import engine, fill

import atheria_lab as al
from atheria_lab.engine import EngineState
from atheria_lab.snapshots.staging import StagingRing


class SlowDevice:
    """Copies arrive when somebody waits for them, and not before."""

    def __init__(self, pinned=True):
        self.allocated, self.can_pin = [], pinned

    def pinned(self, nbytes):
        if not self.can_pin:
            raise RuntimeError("no pinned memory")
        self.allocated.append(nbytes)
        return torch.full((nbytes,), 255, dtype=torch.uint8)

    def send(self, pairs):
        return SlowEvent(pairs)


class SlowEvent:
    def __init__(self, pairs):
        self.pairs, self.passed = pairs, False

    def query(self):
        return self.passed

    def synchronize(self):
        for target, source in () if self.passed else self.pairs:
            target.copy_(source)
        self.passed = True


def state(step, size=4, hidden=True):
    more = (torch.randn(3, size), torch.randn(1, 2)) if hidden else ()
    return EngineState(al.lattice.random(size, 2, seed=step), more, step, 0, "law")


def same(a, b):
    pairs = zip((a.psi, *a.hidden), (b.psi, *b.hidden), strict=True)
    return a[2:] == b[2:] and all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("slots", [2, 3, 4])
def test_slots_are_reused_and_nothing_is_read_before_its_event(slots):
    device = SlowDevice()
    ring = StagingRing(device, slots)
    sent = [state(i) for i in range(10)]
    travelling = []
    for each in sent:
        travelling.append(ring.send(each))
        assert not travelling[-1].ready()
        assert sum(t.device_nbytes > 0 for t in travelling) <= slots
    assert len(device.allocated) == slots and ring.nbytes == sum(device.allocated)
    assert all(size & (size - 1) == 0 for size in device.allocated)
    for each, arriving in zip(sent, travelling, strict=True):
        assert same(arriving.deliver(), each) and arriving.device_nbytes == 0
        assert same(arriving.deliver(), each)
    first = travelling[0].deliver().psi.clone()
    ring.send(state(99)).deliver()
    assert torch.equal(travelling[0].deliver().psi, first)  # a copy, not the slot


def test_a_larger_state_gets_a_larger_slot_and_a_smaller_one_the_same():
    device = SlowDevice()
    ring = StagingRing(device, 2)
    for size in (4, 4, 9, 9, 4, 9, 4):
        sent = state(1, size)
        assert same(ring.send(sent).deliver(), sent)
    assert len(device.allocated) == 4
    ring.close()
    assert ring.nbytes == 0


def test_a_released_state_keeps_nothing_alive():
    ring = StagingRing(SlowDevice(), 2)
    for i in range(5):
        ring.send(state(i))  # nobody holds it
    last = state(7)
    assert same(ring.send(last).deliver(), last)


def test_without_pinned_memory_it_warns_once_and_works():
    ring = StagingRing(SlowDevice(pinned=False), 3)
    sent = [state(i) for i in range(7)]
    with pytest.warns(RuntimeWarning, match="No pinned memory for snapshots") as warned:
        travelling = [ring.send(each) for each in sent]
    assert len(warned) == 1
    assert all(same(t.deliver(), each) for t, each in zip(travelling, sent, strict=True))


@pytest.mark.parametrize("slots", [0, 1, 5])
def test_so_many_slots(slots):
    with pytest.raises(ValueError, match="it takes 2 to 4"):
        StagingRing(SlowDevice(), slots)


@pytest.fixture
def slow_store(monkeypatch, tmp_path):
    """A store that takes the way of a device, with engines on the CPU."""
    store = al.SnapshotStore(limit=6, directory=tmp_path)
    ring = StagingRing(SlowDevice())
    monkeypatch.setattr(store, "_travels", lambda device: True)
    monkeypatch.setattr(store, "_ring", lambda device: store._rings.setdefault(device, ring))
    yield store
    store.close()


def test_a_store_counts_and_reads_what_still_travels(slow_store):
    with engine() as running:
        slow_store._writer.put = lambda entry, gone: None  # it would wait for the events
        added = fill(slow_store, running, 5)
        nbytes = slow_store[0].nbytes
        assert slow_store.nbytes[:2] == (3 * nbytes, 2 * nbytes)  # three slots, two have arrived
        assert slow_store[4].tier == "device" and slow_store[0].tier == "host"
        assert torch.equal(slow_store[4].psi, added[10])
        assert slow_store.nbytes[:2] == (2 * nbytes, 3 * nbytes)


def test_a_store_writes_what_travels(slow_store):
    with engine("ConvLSTMUNet", size=4) as running:
        added = fill(slow_store, running, 9)
        slow_store.flush()
        assert slow_store.nbytes.device == 0 and slow_store.steps == [8, 10, 12, 14, 16, 18]
        for snapshot in slow_store:
            assert torch.equal(snapshot.psi, added[snapshot.step])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(tmp_path):
    law = al.laws.ConvLSTMUNet(4, hidden=8, levels=1).cuda()
    psi = al.lattice.random(128, 4, seed=0).cuda()
    with al.Engine(law, psi) as running, al.SnapshotStore(limit=20, directory=tmp_path) as store:
        wanted = []
        for _ in range(20):
            running.step(3)
            store.add(running)
            wanted.append(running.state())
        assert 0 < store.nbytes.pinned < 4 * 2 * store[0].nbytes + 4096
        for snapshot, state in zip(store, wanted, strict=True):
            assert snapshot.psi.device.type == "cpu" and same(snapshot.state(), state)
        store.flush()
        assert store.nbytes.device == 0
        store[4].restore(running)
        running.step(3)
        assert torch.equal(running.psi.cpu(), wanted[5].psi)
