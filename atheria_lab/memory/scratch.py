"""The bytes that operators take and give back inside, which no tensor shows.

A convolution may unfold its input, a sum may fill a buffer for each thread: :func:`track_peak`
sees neither. The events that PyTorch's profiler records of the CPU's allocator show both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.profiler import record_function

from atheria_lab.memory.track import track_peak

log = logging.getLogger(__name__)

_AUTOGRAD: Any = torch.autograd
_MARK = "atheria-lab part"


def allocated_peaks(*parts: Callable[[], object]) -> list[tuple[int, int]] | None:
    """Run some functions; the peak of each by the CPU's allocator, and by ``track_peak``.

    Bytes are over what was live before the first of them. On the CPU and in this thread only.

    Returns:
        The two figures for each part; ``None`` if a profiler runs already, or the parts would
        not be told apart: the parts have run all the same.
    """
    tensors = []
    with track_peak() as peak:
        watching = _start()
        try:
            for part in parts:
                with record_function(_MARK):
                    pass
                peak.reset_peak()
                part()
                tensors.append(peak.peak_bytes)
        finally:
            threads = _stop() if watching else []
    allocated = next((found for found in map(_peaks, threads) if len(found) == len(parts)), None)
    if allocated is None:
        log.info("scratch is unknown: the allocator's events cannot be read here")
        return None
    return list(zip(allocated, tensors, strict=True))


def _start() -> bool:
    # The profiler's first kind: it writes nothing to stderr, as the newer one does.
    config = _AUTOGRAD.ProfilerConfig(
        _AUTOGRAD.ProfilerState.CPU, False, True, False, False, False,
        torch._C._profiler._ExperimentalConfig(),
    )  # fmt: skip
    try:
        _AUTOGRAD._enable_profiler_legacy(config)
    except RuntimeError:
        return False
    return True


def _stop() -> list[list[Any]]:
    threads: list[list[Any]] = _AUTOGRAD._disable_profiler_legacy()
    return threads


def _peaks(records: list[Any]) -> list[int]:
    """The most bytes in each part of a thread's records."""
    live, peaks = 0, []
    for record in records:
        if record.kind() == "push" and record.name() == _MARK:
            peaks.append(live)
        elif record.kind() == "memory_alloc" and peaks:
            live += record.cpu_memory_usage()
            peaks[-1] = max(peaks[-1], live)
    return peaks
