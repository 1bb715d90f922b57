"""What a device's allocator says: how it refuses, and what was its peak."""

import pytest
import torch

from atheria_lab.memory.device import is_out_of_memory, peak_of


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
