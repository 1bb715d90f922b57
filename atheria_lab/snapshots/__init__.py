"""Whole states of a run: kept, bounded, written, read back bit for bit."""

from atheria_lab.snapshots.codecs import Lossy
from atheria_lab.snapshots.files import DamagedSnapshotError
from atheria_lab.snapshots.history import HistoryFrame, SimulationHistory, Statistics
from atheria_lab.snapshots.snapshot import Snapshot
from atheria_lab.snapshots.store import SnapshotStore, TierBytes

__all__ = [
    "DamagedSnapshotError",
    "HistoryFrame",
    "Lossy",
    "SimulationHistory",
    "Snapshot",
    "SnapshotStore",
    "Statistics",
    "TierBytes",
]
