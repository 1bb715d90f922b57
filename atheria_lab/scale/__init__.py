"""Past one machine: ranks that share a lattice or a batch, and sweeps over many runs."""

from __future__ import annotations

import importlib
from typing import Any

# Imported when asked for: training imports ``scale.parallel``, and some of these import training.
_HOMES = {"RankLostError": "ranks", "SplitState": "halo", "SplitStep": "halo", "joined": "ranks"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"atheria_lab.scale.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
