"""Widgets for notebooks: the only room that imports ipywidgets or matplotlib."""

from atheria_lab.widgets.curves import Curves, Line
from atheria_lab.widgets.event_log import EventLog
from atheria_lab.widgets.history_strip import HistoryStrip
from atheria_lab.widgets.lattice_view import LatticeView, Stroke
from atheria_lab.widgets.memory_curves import MemoryCurves
from atheria_lab.widgets.plan_curves import PlanCurves
from atheria_lab.widgets.plan_explorer import PlanExplorer
from atheria_lab.widgets.quickstart import Quickstart
from atheria_lab.widgets.snapshot_browser import SnapshotBrowser
from atheria_lab.widgets.snapshots import SnapshotBench
from atheria_lab.widgets.sweep_view import SweepView
from atheria_lab.widgets.workbench import Workbench

__all__ = [
    "Curves",
    "EventLog",
    "HistoryStrip",
    "LatticeView",
    "Line",
    "MemoryCurves",
    "PlanCurves",
    "PlanExplorer",
    "Quickstart",
    "SnapshotBench",
    "SnapshotBrowser",
    "Stroke",
    "SweepView",
    "Workbench",
]
