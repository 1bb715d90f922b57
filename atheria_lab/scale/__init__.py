"""Past one machine: sweeps over many trainings, and ranks that share a lattice or a batch."""

from __future__ import annotations

import importlib
from typing import Any

# Imported when asked for: training imports ``scale.parallel``, and some of these import training.
_HOMES = {
    "Point": "space",
    "RankLostError": "ranks",
    "ResultStore": "store",
    "SplitState": "halo",
    "SplitStep": "halo",
    "SweepResult": "results",
    "SweepResults": "results",
    "joined": "ranks",
    "points": "space",
    "sweep": "sweeping",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"atheria_lab.scale.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
