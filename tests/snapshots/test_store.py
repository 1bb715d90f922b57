"""SnapshotStore: what it keeps, gives back, counts and refuses."""

import gc
import re
import subprocess
import sys
import threading
import weakref
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import engine, fill

import atheria_lab as al
from atheria_lab.snapshots.retention import victim
from atheria_lab.snapshots.store import TierBytes

PSI = 6 * 6 * 2 * 8  # bytes of a small engine's psi
NOISE = al.Noise(0.2, 0.05)


@pytest.fixture(params=["memory", "disk"])
def place(request, tmp_path):
    return {} if request.param == "memory" else {"directory": tmp_path / "run"}


def test_it_gives_back_what_it_was_given(place):
    with engine() as running, al.SnapshotStore(**place) as store:
        added = fill(store, running, 5)
        assert len(store) == 5 and store.steps == [2, 4, 6, 8, 10]
        assert [snapshot.step for snapshot in store] == store.steps
        for step, psi in added.items():
            assert torch.equal(store.nearest(step).psi, psi)
        assert store[0].step == 2 and store[-1].step == 10 and store[-1].shape == (1, 6, 6, 2)
        assert [snapshot.step for snapshot in store[1:4]] == [4, 6, 8]
        assert [snapshot.step for snapshot in store[::-2]] == [10, 6, 2]
        assert store.nearest(0).step == 2 and store.nearest(10**9).step == 10
        assert store.nearest(7).step == 8  # of two, the one added last
        with pytest.raises(IndexError, match="index: got 5; the store holds 5 snapshots"):
            store[5]


@pytest.mark.parametrize(
    ("law", "backend"),
    [("MLP", "native"), ("MLP", "torch"), ("Brickwork", "native"), ("ConvLSTMUNet", "torch")],
)
@pytest.mark.parametrize("compression", [None, "zstd", "pcodec"])
def test_it_goes_on_bit_for_bit(law, backend, compression, tmp_path):
    """Noise, hidden tensors and the step count included, from memory, disk and a later process."""
    options = {"law": law, "size": (4, 8), "backend": backend, "noise": NOISE, "seed": 11}
    with engine(**options) as first, engine(**options) as second:
        place = {} if compression is None else {"directory": tmp_path, "compression": compression}
        with al.SnapshotStore(**place) as store:
            first.step(3)
            store.add(first)
            first.step(4)
            store[0].restore(second)
            assert second.steps_done == 3
            second.step(4)
            assert torch.equal(second.psi, first.psi)
        if place:
            with al.SnapshotStore(**place) as store:
                assert store[0].tier == "disk"
                store[0].restore(second)
                second.step(4)
        assert second.steps_done == first.steps_done
        for mine, other in zip(
            (second.psi, *second.hidden), (first.psi, *first.hidden), strict=True
        ):
            assert torch.equal(mine, other)


def test_a_snapshot_is_a_copy(place):
    with engine() as running, al.SnapshotStore(**place) as store:
        store.add(running).psi.zero_()
        running.step(3)
        assert store[0].psi.abs().sum() > 1


@given(
    limit=st.integers(1, 12),
    budget=st.none() | st.integers(1, 12),
    keep=st.sampled_from(["newest", "even"]),
    counts=st.lists(st.integers(1, 9), max_size=30),
)
def test_limits_hold_and_bytes_are_exact(limit, budget, keep, counts):
    budget = None if budget is None else budget * PSI
    with engine() as running, al.SnapshotStore(limit, budget, keep=keep) as store:
        added = {}
        for stride in counts:
            added |= fill(store, running, 1, stride)
            room = limit if budget is None else min(limit, budget // PSI)
            assert len(store) == min(len(added), room)
            live = sum(entry.state.psi.nbytes for entry in store._entries)
            assert store.nbytes == TierBytes(device=0, host=live, disk=0, pinned=0)
            steps = list(added)
            assert store.steps[-1] == steps[-1]
            if keep == "newest":
                assert store.steps == steps[-room:]
            elif room > 1:
                assert store.steps[0] == steps[0]
        for snapshot in store:
            assert torch.equal(snapshot.psi, added[snapshot.step])


@settings(max_examples=25)
@given(
    limit=st.integers(1, 5),
    budget=st.none() | st.integers(1, 3),
    keep=st.sampled_from(["newest", "even"]),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    compression=st.sampled_from([None, "zstd"]),
)
def test_with_a_directory_memory_is_bounded_and_disk_has_all(
    tmp_path_factory, limit, budget, keep, counts, compression
):
    folder = tmp_path_factory.mktemp("run")
    host = None if budget is None else budget * PSI
    options = {"keep": keep, "sync": "process", "compression": compression, "directory": folder}
    with engine() as running:
        with al.SnapshotStore(limit, host, **options) as store:
            added = {}
            for stride in counts:
                added |= fill(store, running, 1, stride)
                assert store.nbytes.host <= (PSI * limit if host is None else host)
            store.flush()
            assert len(store) == min(limit, len(added))
            on_disk = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            assert store.nbytes.disk == on_disk
            steps = store.steps
        with al.SnapshotStore(limit, host, **options) as store:
            assert store.steps == steps and store.nbytes == TierBytes(0, 0, on_disk, 0)
            for snapshot in store:
                assert torch.equal(snapshot.psi, added[snapshot.step])


@given(limit=st.integers(3, 40), count=st.integers(1, 400))
def test_even_keeps_both_ends_and_no_gap_is_wide(limit, count):
    steps = []
    for step in range(0, 100 * count, 100):
        steps.append(step)
        if len(steps) > limit:
            steps.pop(victim(steps, "even"))
    assert steps[0] == 0 and steps[-1] == 100 * (count - 1) and len(steps) == min(limit, count)
    gaps = [b - a for a, b in pairwise(steps)]
    if gaps:
        assert max(gaps) <= max(100, 3 * 100 * count / limit)


def test_even_takes_a_run_that_went_back():
    assert victim([100, 200, 900, 300, 400, 500], "even") in (1, 4)


def test_a_released_snapshot_says_so(place):
    with engine() as running, al.SnapshotStore(limit=2, **place) as store:
        first = store.add(running)
        fill(store, running, 2)
        store.flush()
        assert first.tier is None and "released" in repr(first)
        with pytest.raises(LookupError, match="the one of step 0 was released"):
            first.psi  # noqa: B018


def test_a_snapshot_outlives_its_store(tmp_path):
    with engine() as running:
        with al.SnapshotStore(directory=tmp_path) as store:
            store.add(running)
            store.flush()
            snapshot = store[0]
        assert torch.equal(snapshot.psi, running.psi)
        with al.SnapshotStore() as store:
            snapshot = store.add(running)
        with pytest.raises(LookupError, match="released"):
            snapshot.state()


def test_opening_again_goes_on_and_a_smaller_limit_waits_for_the_next_add(tmp_path):
    with engine() as running:
        with al.SnapshotStore(directory=tmp_path) as store:
            fill(store, running, 4)
        with al.SnapshotStore(limit=2, directory=tmp_path) as store:
            assert store.steps == [2, 4, 6, 8]
            fill(store, running, 1)
            store.flush()
            assert store.steps == [8, 10]
            assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_readers_look_on_while_one_writes(tmp_path):
    with engine() as running, al.SnapshotStore(limit=3, directory=tmp_path) as store:
        store.add(running)
        store.flush()
        with al.SnapshotStore(directory=tmp_path, readonly=True) as reader:
            assert reader.steps == [0]
            held = reader[0]
            added = fill(store, running, 4)
            store.flush()
            assert reader.steps == store.steps == [4, 6, 8]
            assert torch.equal(reader[-1].psi, added[8])
            with pytest.raises(LookupError, match="released"):
                held.psi  # noqa: B018
            with pytest.raises(RuntimeError, match="opened with readonly=True"):
                reader.add(running)


def test_a_second_writer_is_refused_in_this_process_and_another(tmp_path):
    with al.SnapshotStore(directory=tmp_path):
        with pytest.raises(RuntimeError, match="is being written by another store"):
            al.SnapshotStore(directory=tmp_path)
        code = f"import atheria_lab as al; al.SnapshotStore(directory={str(tmp_path)!r})"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert re.search(r"RuntimeError: directory: .* is being written by another", out.stderr)
    al.SnapshotStore(directory=tmp_path).close()


def test_what_a_process_added_is_written_when_it_ends_without_closing(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(__file__).rsplit("/", 1)[0]!r})
from runs import *
store = al.SnapshotStore(directory={str(tmp_path)!r})
fill(store, engine(), 12)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with al.SnapshotStore(directory=tmp_path, readonly=True) as store:
        assert store.steps == list(range(2, 26, 2)) and store.verify() == []


def test_bad_input(tmp_path):
    for options, error, text in (
        ({"limit": 0}, ValueError, "limit: got 0"),
        ({"limit": 1.5}, TypeError, "limit: got 1.5"),
        ({"host_budget": "much"}, ValueError, "host_budget: got 'much'"),
        ({"host_budget": 0}, ValueError, "host_budget: got 0"),
        ({"keep": "best"}, ValueError, "keep: got 'best'"),
        ({"sync": "never"}, ValueError, "sync: got 'never'"),
        ({"readonly": True}, ValueError, "readonly: got True without a directory"),
        ({"compression": "zstd"}, ValueError, "compression: got one without a directory"),
        ({"directory": tmp_path, "compression": "zip"}, ValueError, "compression: got 'zip'"),
        ({"directory": tmp_path, "compression": 3}, TypeError, "compression: got 3"),
        ({"directory": __file__}, NotADirectoryError, "is a file; it takes a directory"),
        ({"directory": tmp_path / "no", "readonly": True}, FileNotFoundError, "is not there"),
    ):
        with pytest.raises(error, match=re.escape(text)):
            al.SnapshotStore(**options)
    with engine() as running, al.SnapshotStore(host_budget=PSI - 1) as store:
        with pytest.raises(ValueError, match="host_budget: got 575 B; one state .* takes 576 B"):
            store.add(running)
        with pytest.raises(TypeError, match="engine: got 3; it takes an Engine"):
            store.add(3)
        with pytest.raises(LookupError, match="holds no snapshot yet"):
            store.nearest(3)


def test_a_snapshot_of_another_law_shape_or_seed_is_refused(place):
    with al.SnapshotStore(**place) as store:
        with engine() as running:
            store.add(running)
        for options, text in (
            ({"law": "Brickwork"}, "its law is"),
            ({"size": 7}, "its psi's shape is"),
            ({"seed": 3}, "its seed is"),
        ):
            with engine(**options) as other, pytest.raises(ValueError, match=text):
                store[0].restore(other)


def test_no_permission(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, whom no permission stops.
    monkeypatch.setattr("atheria_lab.snapshots.lock.os.open", refuse)
    with pytest.raises(PermissionError, match="directory: no permission to write in"):
        al.SnapshotStore(directory=tmp_path)


def test_closing_frees_everything(place):
    with engine() as running:
        store = al.SnapshotStore(**place)
        fill(store, running, 3)
        tensor = weakref.ref(store._entries[0].state.psi)
        store.close()
        store.close()
        assert tensor() is None and store.closed and "closed" in repr(store)
        assert "closed" in store._repr_html_()
        for use in (lambda: store.add(running), lambda: len(store), store.flush, store.__enter__):
            with pytest.raises(RuntimeError, match="This store is closed"):
                use()


def test_a_forgotten_store_writes_what_waits_and_goes(tmp_path):
    before = threading.active_count()
    with engine() as running:
        store = al.SnapshotStore(directory=tmp_path)
        fill(store, running, 5)
        gone = weakref.ref(store)
        del store
        gc.collect()
        assert gone() is None and threading.active_count() == before
    with al.SnapshotStore(directory=tmp_path) as store:
        assert len(store) == 5


def test_it_shows_itself(place):
    with engine() as running, al.SnapshotStore(host_budget="1 MiB", **place) as store:
        assert "none yet" in store._repr_html_()
        fill(store, running, 3)
        store.flush()
        assert repr(store).startswith("SnapshotStore(3 of at most 500, steps 2 to 6, keep='newest'")
        assert "<td style='text-align:left'>1.7 KiB of 1.0 MiB</td>" in store._repr_html_()
        assert repr(store[1]) == "Snapshot(step 4, psi 1x6x6x2, 576 B, on host)"
        assert "step 4" in store[1]._repr_html_()


def test_threads_may_add_and_read_at_once(tmp_path):
    errors = []

    def look(store, stop):
        try:
            while not stop.is_set():
                for snapshot in store:
                    try:
                        assert torch.isfinite(torch.view_as_real(snapshot.psi)).all()
                    except LookupError:  # released between the two
                        assert snapshot.tier is None
        except BaseException as error:
            errors.append(error)

    with engine() as running, al.SnapshotStore(4, 2 * PSI, tmp_path, sync="process") as store:
        stop = threading.Event()
        thread = threading.Thread(target=look, args=(store, stop))
        thread.start()
        fill(store, running, 150, 1)
        stop.set()
        thread.join()
    assert errors == []
