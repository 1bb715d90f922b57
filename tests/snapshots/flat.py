"""A long run that keeps everything it can, and what it costs: for the soak and for the tests."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import atheria_lab as al
from atheria_lab.memory import process

EVERY = 100


class Reading(NamedTuple):
    """Bytes in use after so many steps, and what of them the store and the history keep.

    The store fills up while it runs: what it says it keeps may grow up to its limits, and nothing
    else may.
    """

    step: int
    tensors: int
    heap: int
    store: int
    history: int

    @property
    def heap_beside(self) -> int:
        """The heap without what is kept."""
        return self.heap - self.store - self.history

    @property
    def tensors_beside(self) -> int:
        """The tensors without what is kept."""
        return self.tensors - self.store - self.history


def run(
    steps: int,
    *,
    limit: int = 500,
    host_budget: str = "32 MiB",
    size: int = 64,
    read_every: int = 1000,
    report: Callable[[Reading], None] = lambda reading: None,
) -> list[Reading]:
    """Step a native engine with snapshots, a history, a series and a log, and read the memory.

    The heap is read as well as the tensors: it is what malloc has handed out, so it has the
    Python objects, the index and the codecs too.
    """
    law = al.laws.MLP(d_state=8, hidden=16)
    readings: list[Reading] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        al.memory.track_peak() as tracked,
        al.Engine(law, al.lattice.random(size, 8), backend="native") as engine,
        al.SnapshotStore(limit=limit, host_budget=host_budget, directory=folder) as store,
    ):
        history = al.SimulationHistory(limit, side=32)
        norm, log = al.Series(200), al.EventLog(limit)
        while engine.steps_done < steps:
            engine.step(EVERY)
            store.add(engine)
            frame = history.add(engine)
            norm.add(engine.steps_done, frame.statistics.norm)
            log.add(f"step {engine.steps_done}: density up to {frame.statistics.high:.4g}")
            if engine.steps_done % read_every == 0:
                store.flush()
                gc.collect()
                heap = process.heap_in_use()
                assert heap is not None, "this C library does not say its heap; psutil >= 7.2 may"
                readings.append(
                    Reading(
                        engine.steps_done, tracked.live_bytes, heap, store.nbytes.host,
                        history.nbytes,
                    )
                )  # fmt: skip
                report(readings[-1])
        assert norm.count == log.total == history.seen == steps // EVERY
    return readings
