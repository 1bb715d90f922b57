"""The lesson of this package in three rows: what keeping less does to the memory, and what not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from atheria_lab.memory import format_size
from atheria_lab.rollout import plans
from atheria_lab.rollout.predict import Job, peak_bytes
from atheria_lab.training.trainer import Trainer


@dataclass(frozen=True)
class Row:
    """One way to train.

    Attributes:
        name: of the way.
        predicted_bytes: at the peak of an episode.
        measured_bytes: likewise; ``None`` where it was not measured.
    """

    name: str
    predicted_bytes: int
    measured_bytes: int | None = None

    def __repr__(self) -> str:
        measured = "-" if self.measured_bytes is None else format_size(self.measured_bytes)
        return f"{self.name}: predicted {format_size(self.predicted_bytes)}, measured {measured}"


def compare(job: Job, plan: plans.Plan) -> list[Row]:
    """Every state kept, psi_history thinned to the saved states, and a plan: predicted peaks."""
    everything = replace(job, kept=tuple(range(1, job.steps + 1)))
    return [
        Row("every state kept", peak_bytes(plans.StoreAll(), everything)),
        Row(f"psi_history thinned to {len(job.kept)}", peak_bytes(plans.StoreAll(), job)),
        Row(repr(plan), peak_bytes(plan, job)),
    ]


def measure(
    rows: list[Row],
    trainer: Trainer,
    plan: plans.Plan,
    *,
    room: int,
    on_row: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """The same rows with measured peaks, the smallest first; none that needs more than ``room``.

    Args:
        rows: from :func:`compare`.
        trainer: whose episodes are measured; its law is left as it is.
        plan: of the third row.
        room: bytes that may be used.
        on_row: called after each measurement.
    """
    runs = [
        lambda: trainer.try_plan(plans.StoreAll(), keep_all=True),
        lambda: trainer.try_plan(plans.StoreAll()),
        lambda: trainer.try_plan(plan),
    ]
    for place in reversed(range(len(rows))):
        if rows[place].measured_bytes is None and rows[place].predicted_bytes <= room:
            rows = [*rows]
            rows[place] = replace(rows[place], measured_bytes=runs[place]())
            on_row(rows)
    return rows
