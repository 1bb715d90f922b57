"""What a device's allocator says."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch

from atheria_lab.memory.track import track_peak


def find_device(device: torch.device | str) -> torch.device:
    """A device that is here.

    Raises:
        ValueError: there is no such device.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: got {device!r}; it takes cpu, cuda or cuda:1.") from error
    count = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= count:
        raise ValueError(f"device: got {str(found)!r}, but torch finds {count} CUDA devices here.")
    return found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator refused: CUDA's own error, or the words of the CPU's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


class CudaMark:
    """The peak of a CUDA device since it was last taken.

    The allocator keeps one peak a device, and reading it for one asker would lose it for the
    others; so every taking tells all marks of that device.

    Args:
        device: of CUDA.
    """

    _all: ClassVar[weakref.WeakSet[CudaMark]] = weakref.WeakSet()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, device: torch.device) -> None:
        self._index = torch.cuda.current_device() if device.index is None else device.index
        self._most = 0
        with self._lock:
            self._all.add(self)
        self.take()

    def take(self) -> int:
        """The most bytes allocated since the last time; the search starts anew."""
        with self._lock:
            peak = torch.cuda.max_memory_allocated(self._index)
            torch.cuda.reset_peak_memory_stats(self._index)
            for mark in self._all:
                if mark._index == self._index:
                    mark._most = max(mark._most, peak)
            most, self._most = self._most, torch.cuda.memory_allocated(self._index)
        return most


@contextlib.contextmanager
def peak_of(device: torch.device, wanted: bool) -> Iterator[Callable[[], int | None]]:
    """What the block adds at its peak: CUDA's allocator knows, on the CPU storages are followed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        mark = CudaMark(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: mark.take() - before
    elif wanted:
        with track_peak() as peak:
            yield lambda: peak.peak_bytes
    else:
        yield lambda: None


def device_bytes(marks: dict[int, CudaMark]) -> dict[str, int | None]:
    """What every accelerator in use says; nothing that would wake one up.

    Args:
        marks: by CUDA device, for the peaks between two readings; filled as devices appear.
    """
    if torch.cuda.is_initialized():
        return _cuda_bytes(marks)
    if not torch.accelerator.is_available():
        return {}
    kind = torch.accelerator.current_accelerator()
    name = "accelerator" if kind is None else kind.type
    if name == "mps":
        return {
            "mps allocated": torch.mps.current_allocated_memory(),
            "mps reserved": torch.mps.driver_allocated_memory(),
        }
    allocated, reserved = (
        getattr(torch.accelerator, f"memory_{what}", lambda: None)
        for what in ("allocated", "reserved")
    )
    return {f"{name} allocated": allocated(), f"{name} reserved": reserved()}


def _cuda_bytes(marks: dict[int, CudaMark]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for index in range(torch.cuda.device_count()):
        stats = torch.cuda.memory_stats(index)
        if not stats.get("reserved_bytes.all.peak"):
            continue  # nobody has used this one
        mark = marks.setdefault(index, CudaMark(torch.device("cuda", index)))
        found[f"cuda:{index} allocated"] = mark.take()
        found[f"cuda:{index} reserved"] = stats.get("reserved_bytes.all.current")
        found[f"cuda:{index} inactive"] = stats.get("inactive_split_bytes.all.current")
        found[f"cuda:{index} device"] = device_used(index)
    if hasattr(torch.cuda, "host_memory_stats"):
        found["pinned host"] = torch.cuda.host_memory_stats().get("allocated_bytes.current")
    return found


def device_used(index: int) -> int | None:
    """Bytes in use on a CUDA device, by whatever process: NVML's figure, where it is installed."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    except pynvml.NVMLError:
        return None
