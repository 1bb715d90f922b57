"""What a device's allocator says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from atheria_lab.memory.track import track_peak


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
