"""Bytes: how many there are, at most and now, and whose. This room knows torch only."""

from atheria_lab.memory.cap import OverBudgetError, cap
from atheria_lab.memory.cuda_history import cuda_history
from atheria_lab.memory.guard import LimitError, Limits
from atheria_lab.memory.holders import Holding, Holdings, holders
from atheria_lab.memory.limits import Limit, holding_limit, memory_limits, room_bytes
from atheria_lab.memory.monitor import Monitor
from atheria_lab.memory.owners import Owners, claim, owner, owners
from atheria_lab.memory.release import Released, release
from atheria_lab.memory.sizes import format_seconds, format_size, parse_size
from atheria_lab.memory.track import Peak, track_peak

__all__ = [
    "Holding",
    "Holdings",
    "Limit",
    "LimitError",
    "Limits",
    "Monitor",
    "OverBudgetError",
    "Owners",
    "Peak",
    "Released",
    "cap",
    "claim",
    "cuda_history",
    "format_seconds",
    "format_size",
    "holders",
    "holding_limit",
    "memory_limits",
    "owner",
    "owners",
    "parse_size",
    "release",
    "room_bytes",
    "track_peak",
]
