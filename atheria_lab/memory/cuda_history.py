"""CUDA's own record of its allocations, for PyTorch's viewer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from atheria_lab._checks import integer


@contextmanager
def cuda_history(path: str | Path, *, most: int = 100_000) -> Generator[None]:
    """Record what a block allocates on CUDA, and write it for https://pytorch.org/memory_viz.

    The file is a pickle of PyTorch's, for that viewer; this package never reads one.

    Args:
        path: of the file.
        most: allocations and frees that are kept, the newest: the record cannot grow past it.

    Raises:
        RuntimeError: there is no CUDA device here.
        ValueError: ``most`` is not at least 1.
    """
    integer("most", most)
    if not torch.cuda.is_available():
        raise RuntimeError(
            "cuda_history: there is no CUDA device here. On the CPU, trainer.timeline() draws "
            "an episode, and Monitor the process."
        )
    memory = torch.cuda.memory
    memory._record_memory_history(max_entries=most)
    try:
        yield
        memory._dump_snapshot(str(path))
    finally:
        memory._record_memory_history(enabled=None)
