"""Fit any rollout of a learned lattice law in a memory budget, exactly, and see every byte."""

from __future__ import annotations

import importlib
from typing import Any

from atheria_lab import lattice, laws, memory, noise, observables, scale, snapshots
from atheria_lab.bench import Bench
from atheria_lab.engine import Engine
from atheria_lab.eventlog import EventLog
from atheria_lab.hidden import ResetHidden
from atheria_lab.noise import Noise
from atheria_lab.rollout import (
    BudgetError,
    Rollout,
    RolloutPlan,
    SaveAt,
    plan_rollout,
    plans,
    rollout,
)
from atheria_lab.series import Series
from atheria_lab.snapshots import SimulationHistory, Snapshot, SnapshotStore
from atheria_lab.step import LatticeState, Step
from atheria_lab.training import EpisodeReport, Trainer

__version__ = "0.1.0"

__all__ = [
    "Bench",
    "BudgetError",
    "Engine",
    "EpisodeReport",
    "EventLog",
    "LatticeState",
    "Noise",
    "ResetHidden",
    "Rollout",
    "RolloutPlan",
    "SaveAt",
    "Series",
    "SimulationHistory",
    "Snapshot",
    "SnapshotStore",
    "Step",
    "Trainer",
    "lattice",
    "laws",
    "memory",
    "noise",
    "observables",
    "plan_rollout",
    "plans",
    "rollout",
    "scale",
    "snapshots",
    "sweep",
    "widgets",
]


def __getattr__(name: str) -> Any:
    # Jupyter, matplotlib and Dask are imported when somebody asks for them, not before.
    if name == "widgets":
        return importlib.import_module("atheria_lab.widgets")
    if name == "sweep":
        return importlib.import_module("atheria_lab.scale").sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext atheria_lab``: the magics %memory, %release and %%budget."""
    from atheria_lab import magics

    magics.load_ipython_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext atheria_lab``."""
    from atheria_lab import magics

    magics.unload_ipython_extension(shell)
