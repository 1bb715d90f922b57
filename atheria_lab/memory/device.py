"""What a device's allocator says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

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


@contextlib.contextmanager
def peak_of(device: torch.device, wanted: bool) -> Iterator[Callable[[], int | None]]:
    """What the block adds at its peak: CUDA's allocator knows, on the CPU storages are followed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
    elif wanted:
        with track_peak() as peak:
            yield lambda: peak.peak_bytes
    else:
        yield lambda: None
