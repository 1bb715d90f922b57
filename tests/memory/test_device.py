"""What a device's allocator says: how it refuses, and what was its peak."""

import sys

import pytest
import torch

from atheria_lab.memory import cuda_history
from atheria_lab.memory.device import CudaMark, device_bytes, is_out_of_memory, peak_of


def refusal():
    """What the CPU's own allocator says when it refuses."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    return caught.value


@pytest.mark.parametrize(
    ("make", "is_one"),
    [
        (refusal, True),
        (lambda: torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError, True),
        (lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (lambda: ValueError("budget: you tried to allocate memory"), False),
        (KeyboardInterrupt, False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(make, is_one):
    assert is_out_of_memory(make()) is is_one


def test_the_peak_of_a_block_on_the_cpu():
    with peak_of(torch.device("cpu"), True) as peak:
        torch.zeros(100) + torch.zeros(100)
    assert peak() == 1200
    with peak_of(torch.device("cpu"), False) as peak:
        torch.zeros(100)
    assert peak() is None


@pytest.mark.parametrize("wanted", [True, False])
def test_on_cuda_the_allocator_is_asked_for_what_was_added(monkeypatch, wanted):
    """The logic only, with an allocator that counts as CUDA's does: there is no device here."""
    now = {"allocated": 1000, "peak": 9000}

    def reset(device):
        now["peak"] = now["allocated"]

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: now["allocated"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: now["peak"])
    with peak_of(torch.device("cuda:1"), wanted) as peak:
        now["peak"] = 1700
    assert peak() == 700


class _Allocator:
    """Counts as CUDA's does: there is no device here."""

    def __init__(self, monkeypatch):
        self.now = self.peak = 1000
        for name, value in {
            "synchronize": lambda device: None,
            "memory_allocated": lambda device: self.now,
            "max_memory_allocated": lambda device: self.peak,
            "reset_peak_memory_stats": self.reset,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def reset(self, device):
        self.peak = self.now

    def rise_to(self, peak, now):
        self.peak, self.now = max(self.peak, peak), now


def test_a_monitor_that_takes_the_peak_takes_it_from_nobody(monkeypatch):
    """CUDA keeps one peak a device; a sampler resets it in the middle of an episode."""
    allocator = _Allocator(monkeypatch)
    device = torch.device("cuda", 0)
    sampler, other = CudaMark(device), CudaMark(torch.device("cuda", 1))
    with peak_of(device, True) as peak:
        allocator.rise_to(5000, 2000)
        assert sampler.take() == 5000
        assert sampler.take() == 2000
        allocator.rise_to(3000, 1500)
    assert peak() == 4000
    assert sampler.take() == 3000
    assert other._most == 1000


def test_what_cuda_tells_a_monitor(monkeypatch):
    _Allocator(monkeypatch)
    stats = {
        "reserved_bytes.all.peak": 9,
        "reserved_bytes.all.current": 8,
        "inactive_split_bytes.all.current": 3,
    }
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda index: stats if index == 0 else {})
    monkeypatch.setattr(torch.cuda, "host_memory_stats", lambda: {}, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert device_bytes({}) == {
        "cuda:0 allocated": 1000,
        "cuda:0 reserved": 8,
        "cuda:0 inactive": 3,
        "cuda:0 device": None,
        "pinned host": None,
    }


def test_the_history_of_cuda_is_bounded_and_ends_with_the_block(monkeypatch, tmp_path):
    """The logic only: there is no device here."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory = torch.cuda.memory
    monkeypatch.setattr(memory, "_record_memory_history", lambda **said: calls.append(said))
    monkeypatch.setattr(memory, "_dump_snapshot", calls.append)
    with cuda_history(tmp_path / "a.pickle", most=7):
        pass
    assert calls == [{"max_entries": 7}, str(tmp_path / "a.pickle"), {"enabled": None}]
    with pytest.raises(ZeroDivisionError), cuda_history(tmp_path / "b.pickle"):
        raise ZeroDivisionError
    assert calls[3:] == [{"max_entries": 100_000}, {"enabled": None}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_the_history_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="no CUDA device"), cuda_history(tmp_path / "a.pickle"):
        pass
