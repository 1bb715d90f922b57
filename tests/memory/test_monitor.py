"""Curves of this process's memory: what they catch, and what never happens."""

import gc
import logging
import os
import threading
import time
import warnings
import weakref

import pytest
import torch

import atheria_lab as al
from atheria_lab.memory import Monitor, monitor, process, track_peak

MIB = 2**20


def until(true, seconds=20):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return true()


def samplers():
    return [t for t in threading.enumerate() if t.name == "atheria-lab memory"]


def test_it_samples_while_the_block_runs():
    with Monitor(interval=0.005) as seen:
        assert seen.running
        assert until(lambda: len(seen.curves["heap in use"]) > 5)
        kept = torch.zeros(64 * MIB // 4)
        assert until(lambda: seen.curves["heap in use"].newest - kept.nbytes > 0)
    assert not seen.running
    assert not samplers()
    heap = seen.curves["heap in use"]
    assert heap.peak - heap.points[0].low >= 0.9 * kept.nbytes
    assert seen.limit is not None
    assert seen.limit.bytes == al.memory.holding_limit().bytes


def test_a_peak_between_two_samples_is_caught():
    watch = Monitor(interval=3600)
    with track_peak() as peak:
        watch.sample()
        large = torch.zeros(MIB)
        del large
        small = torch.zeros(10)
        watch.sample()
        watch.sample()
        assert [point.high for point in watch.curves["tensors"].points] == [0, 4 * MIB, 40]
        assert peak.peak_bytes == 4 * MIB  # the reading of one's own stays
    del small


def test_outside_a_tracked_block_tensors_are_unknown_not_zero():
    watch = Monitor()
    watch.sample()
    assert watch.curves["tensors"].newest is None
    assert "tensors: now unknown, peak unknown" in repr(watch)
    assert "<td>tensors</td><td>unknown</td>" in watch._repr_html_()


def test_to_start_twice_or_stop_twice_does_nothing():
    watch = Monitor(interval=0.01)
    watch.stop()
    assert watch.start() is watch.start()
    assert len(samplers()) == 1
    watch.stop()
    watch.stop()
    assert not samplers()
    with watch:
        assert watch.running


def test_a_monitor_that_is_never_stopped_ends_with_its_owner():
    watch = Monitor(interval=0.005).start()
    gone = weakref.ref(watch)
    del watch
    gc.collect()
    assert until(lambda: gone() is None)
    assert until(lambda: not samplers())


def test_a_reading_that_raises_is_shown_once_and_unknown(caplog):
    def faulty():
        raise OSError("no such thing")

    with caplog.at_level(logging.WARNING), Monitor(0.005, readings={"mine": faulty}) as watch:
        assert until(lambda: len(watch.curves["heap in use"]) > 5)
    assert watch.curves["mine"].newest is None
    assert [record.getMessage() for record in caplog.records] == [
        "Monitor: mine is unknown, its reading failed"
    ]


def test_readings_of_ones_own_and_claims_are_curves():
    held = torch.zeros(1000)
    al.memory.claim("test of the monitor", held)
    watch = Monitor(readings={"cache": lambda: 7})
    watch.sample()
    del held
    watch.sample()
    assert watch.curves["cache"].newest == 7
    claimed = watch.curves["of test of the monitor"]
    assert (claimed.peak, claimed.newest) == (4000, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_no_thread_and_may_start_one():
    with Monitor(interval=0.001) as watch:
        for _ in range(5):  # some of them fork while a sample is taken
            read, write = os.pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                try:
                    watch.sample()
                    idle = not watch.running
                    watch.start()
                    grows = until(lambda: len(watch.curves["resident"]) > 3)
                    os.write(write, b"well" if idle and grows else b"not")
                finally:
                    os._exit(0)
            os.close(write)
            assert os.read(read, 10) == b"well"
            os.close(read)
            os.waitpid(child, 0)
        assert watch.running


def test_the_smallest_limit_holds_and_a_budget_is_one():
    assert Monitor(budget="1 MiB").limit == al.memory.Limit("budget", MIB)
    assert Monitor(budget=2**60).limit.bytes < 2**60


@pytest.mark.parametrize("interval", [0, -1, "fast", float("nan")])
def test_bad_intervals_are_refused(interval):
    with pytest.raises((ValueError, TypeError), match="interval: got"):
        Monitor(interval)


def test_where_nothing_answers_all_is_unknown(monkeypatch):
    for reading in ("heap_in_use", "resident", "unique"):
        monkeypatch.setattr(process, reading, lambda: None)
    monkeypatch.setattr(monitor, "holding_limit", lambda budget: None)
    watch = Monitor()
    watch.sample()
    assert {name: curve.newest for name, curve in watch.curves.items() if name[:3] != "of "} == {
        "heap in use": None,
        "resident": None,
        "unique": None,
        "tensors": None,
    }
    assert "limit unknown" in repr(watch)


def test_the_readings_of_the_process_agree_with_psutil():
    psutil = pytest.importorskip("psutil")
    held = torch.ones(32 * MIB // 4)
    told = psutil.Process().memory_full_info()
    assert process.resident() == pytest.approx(told.rss, rel=0.05)
    assert process.unique() == pytest.approx(told.uss, rel=0.05)
    heap = psutil.heap_info()
    assert process.heap_in_use() == pytest.approx(heap.heap_used + heap.mmap_used, rel=0.05)
    assert process.heap_in_use() > held.nbytes
