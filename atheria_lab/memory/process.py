"""What the C library and the kernel say of this process's memory; ``None`` where they do not."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


@functools.cache
def _mallinfo2() -> Any:
    try:
        function = ctypes.CDLL(None).mallinfo2  # glibc >= 2.33
    except (OSError, AttributeError, TypeError):
        return None
    function.restype = _Mallinfo2
    return function


@functools.cache
def _psutil_process() -> Any:
    try:
        import psutil
    except ImportError:
        return None
    return psutil.Process()


def heap_in_use() -> int | None:
    """Bytes that the C heap has handed out: tensors on the CPU are among them, cached pages not."""
    mallinfo2 = _mallinfo2()
    if mallinfo2 is not None:
        info = mallinfo2()
        return int(info.uordblks + info.hblkhd)
    try:
        from psutil import heap_info
    except ImportError:
        return None
    info = heap_info()
    return int(info.heap_used + info.mmap_used)


def heap_kept() -> int:
    """Bytes that the C heap keeps for later, free but still of this process; 0 if unknown."""
    mallinfo2 = _mallinfo2()
    return 0 if mallinfo2 is None else int(mallinfo2().fordblks)


def resident() -> int | None:
    """RSS: pages in memory, also those that the allocator keeps for later and shared ones."""
    try:
        # Ten times a second: without pathlib it costs a tenth.
        file = os.open("/proc/self/statm", os.O_RDONLY)
        try:
            return int(os.read(file, 200).split()[1]) * _page_size()
        finally:
            os.close(file)
    except OSError:
        process = _psutil_process()
        return None if process is None else int(process.memory_info().rss)


def unique() -> int | None:
    """USS: pages that only this process has. The kernel walks through all of them: slow."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        process = _psutil_process()
        return None if process is None else int(process.memory_full_info().uss)
    kib = (int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return sum(kib) * 1024


def virtual(field: str) -> int | None:
    """A size of ``/proc/self/status``: "VmSize" (address space), "VmData" (data segment)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{field}:")), None)
    return None if found is None else int(found.split()[1]) * 1024


def resource_limits() -> list[tuple[str, int, int | None]]:
    """The soft resource limits on address space and data: name, bytes, and how much is used."""
    if sys.platform == "win32":
        return []
    import resource

    found = []
    for name, kind, field in (
        ("RLIMIT_AS", resource.RLIMIT_AS, "VmSize"),
        ("RLIMIT_DATA", resource.RLIMIT_DATA, "VmData"),
    ):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            found.append((name, soft, virtual(field)))
    return found


@functools.cache
def _page_size() -> int:
    return os.sysconf("SC_PAGE_SIZE")
