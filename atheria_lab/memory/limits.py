"""How much memory there is, and which limit really holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from atheria_lab.memory import process

# cgroup v1 writes "no limit" as a number near 2**63.
_UNLIMITED = 2**60


@dataclass(frozen=True)
class Limit:
    """One limit on memory.

    Attributes:
        name: what sets it.
        bytes: how much it allows in all.
        used: how much is used of it, less the file cache that is given up on demand, or ``None``
            where that is not known.
    """

    name: str
    bytes: int
    used: int | None = None


def memory_limits(root: Path = Path("/")) -> list[Limit]:
    """The limits on this process: the machine, its cgroups (v2 and v1), resources, CUDA devices.

    The smallest of all but the last is the one that holds for CPU memory. A device's is the part
    of it that torch may use.

    Args:
        root: where ``proc`` and ``sys`` are mounted.
    """
    limits = []
    machine = _machine(root)
    if machine is not None:
        limits.append(machine)
    limits += _cgroups(root)
    if root == Path("/"):
        limits += [Limit(*limit) for limit in process.resource_limits()]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = f"cuda:{index} {torch.cuda.get_device_name(index)}"
        part = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(index)
        limits.append(Limit(name, int(part * total), total - free))
    return limits


def holding_limit(device: torch.device | str = "cpu", budget: int | None = None) -> Limit | None:
    """The limit that really holds: the smallest of all on that memory, and of a budget.

    Args:
        device: whose memory; "cpu", or one of CUDA.
        budget: bytes that somebody set.
    """
    kind = torch.device(device)
    name = f"cuda:{kind.index or 0} " if kind.type == "cuda" else "cuda:"
    limits = [
        limit
        for limit in (memory_limits() if kind.type in ("cpu", "cuda") else [])
        if limit.name.startswith(name) == (kind.type == "cuda")
    ]
    if budget is not None:
        limits.append(Limit("budget", budget))
    return min(limits, key=lambda limit: limit.bytes, default=None)


def _machine(root: Path) -> Limit | None:
    path = root / "proc/meminfo"
    if not path.exists():
        return None
    fields = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * 1024
    total, available = fields["MemTotal"], fields.get("MemAvailable")
    return Limit("machine", total, None if available is None else total - available)


def _cgroups(root: Path) -> list[Limit]:
    """The limits of this process's cgroup and of every ancestor of it."""
    path = root / "proc/self/cgroup"
    if not path.exists():
        return []
    limits = []
    for line in path.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, limit_file, used_file = "sys/fs/cgroup", "memory.max", "memory.current"
            cache_field = "inactive_file"
        elif "memory" in controllers.split(","):
            mount = "sys/fs/cgroup/memory"
            limit_file, used_file = "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache_field = "total_inactive_file"
        else:
            continue
        parts = [part for part in group.split("/") if part and part != ".."]
        # Inside a container the mount is already the group, and the path leads nowhere: then
        # only its root answers.
        for depth in range(len(parts), -1, -1):
            folder = root / mount / "/".join(parts[:depth])
            limit = _number(folder / limit_file)
            if limit is not None and limit < _UNLIMITED:
                used = _number(folder / used_file)
                if used is not None:
                    used = max(0, used - _field(folder / "memory.stat", cache_field))
                limits.append(Limit(f"cgroup /{'/'.join(parts[:depth])}", limit, used))
    return limits


def _field(path: Path, name: str) -> int:
    """A number in a file of ``name number`` lines; 0 where it is not there."""
    try:
        return int(dict(line.split() for line in path.read_text().splitlines()).get(name, 0))
    except OSError:
        return 0


def _number(path: Path) -> int | None:
    """The number in a file; ``None`` where there is no file, or no limit ("max")."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def room_bytes() -> int:
    """Bytes of CPU memory that are still free under the tightest limit; 0 if none is known."""
    free = [
        limit.bytes - limit.used
        for limit in memory_limits()
        if limit.used is not None and not limit.name.startswith("cuda:")
    ]
    return max(0, min(free, default=0))
