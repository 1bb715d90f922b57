"""What a worker runs: one point, from its settings to its result."""

from __future__ import annotations

import copy
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from atheria_lab.laws import Law
from atheria_lab.scale.space import Point

if TYPE_CHECKING:
    from distributed import Worker

# Of the events that say what begins, and what came of it.
TOPIC = "atheria-lab-sweep"
# Torch's random generator belongs to the process: of a worker with several threads one trains.
_ALONE = threading.Lock()


class Told(NamedTuple):
    """What comes back from a worker.

    Attributes:
        result: fields of a :class:`~atheria_lab.scale.results.SweepResult`.
        trainer: the file of the trained law, if it was asked for.
    """

    result: dict[str, Any]
    trainer: bytes | None


def train(point: Point, key: str, keep_trainer: bool) -> Told | None:
    """Train a point, on one thread.

    The result goes to the scheduler as an event, which hands it on at once: one that waits here
    to be fetched would be lost with this worker, and trained again. A trainer does wait here, as
    it may be large, and the scheduler keeps its events.

    Args:
        point: what to train.
        key: of the task, for the event.
        keep_trainer: return the result, with the trained law.

    Raises:
        BudgetError: no exact plan meets the budget.
        RuntimeError: the training does not come to anything, see :class:`~atheria_lab.Trainer`.
    """
    from distributed import get_worker

    worker = get_worker()
    with _ALONE:
        _tell(worker, {"key": key, "worker": worker.address})
        torch.set_num_threads(1)
        start = time.perf_counter()
        trainer = point.trainer(copy.deepcopy(point.law) if isinstance(point.law, Law) else None)
        reports = [trainer.train_episode() for _ in range(point.episodes)]
        peaks = [report.peak_bytes for report in reports if report.peak_bytes is not None]
        result = {
            "losses": tuple(report.loss for report in reports),
            "metrics": {
                name: tuple(report.metrics[name] for report in reports)
                for name in reports[0].metrics
            },
            "seconds": time.perf_counter() - start,
            "peak_bytes": max(peaks, default=None),
            "predicted_bytes": trainer.predicted_bytes,
            "plan": repr(trainer.plan),
        }
        if not keep_trainer:
            _tell(worker, {"key": key, "result": result})
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trainer.safetensors"
            trainer.save(path)
            return Told(result, path.read_bytes())


def _tell(worker: Worker, message: dict[str, Any]) -> None:
    """An event that the scheduler has when this returns: ``log_event`` would not wait for it."""
    from distributed.utils import sync

    sync(worker.loop, worker.scheduler.log_event, topic=TOPIC, msg=message)
