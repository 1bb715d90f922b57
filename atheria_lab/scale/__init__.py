"""Many trainings at once: sweeps over a space of settings, on the workers of Dask."""

from atheria_lab.scale.results import SweepResult, SweepResults
from atheria_lab.scale.space import Point, points
from atheria_lab.scale.store import ResultStore
from atheria_lab.scale.sweep import sweep

__all__ = ["Point", "ResultStore", "SweepResult", "SweepResults", "points", "sweep"]
