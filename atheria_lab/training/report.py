"""What an episode of training reports."""

from __future__ import annotations

import html
from dataclasses import dataclass

from atheria_lab.memory import format_seconds, format_size
from atheria_lab.rollout.plans import Plan


@dataclass(frozen=True, repr=False)
class EpisodeReport:
    """One episode.

    Attributes:
        episode: its number, from 0.
        loss: its value.
        metrics: what the loss told beside it.
        seconds: the whole episode.
        peak_bytes: measured: what rollout, loss and backward pass added at their peak;
            ``None`` where it was not measured.
        predicted_bytes: what the planner said it would be.
        plan: how the rollout was stored.
        gradient_norm: before clipping.
        skipped: the loss or the gradient was not finite, and the law was left as it was.
    """

    episode: int
    loss: float
    metrics: dict[str, float]
    seconds: float
    peak_bytes: int | None
    predicted_bytes: int
    plan: Plan
    gradient_norm: float
    skipped: bool

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for reading."""
        peak = "not measured" if self.peak_bytes is None else format_size(self.peak_bytes)
        rows = [
            ("episode", str(self.episode)),
            ("loss", f"{self.loss:.6g}"),
            *((name, f"{value:.6g}") for name, value in self.metrics.items()),
            ("gradient norm", f"{self.gradient_norm:.4g}"),
            ("plan", repr(self.plan)),
            ("predicted peak", format_size(self.predicted_bytes)),
            ("measured peak", peak),
            ("time", format_seconds(self.seconds)),
        ]
        return rows + ([("skipped", "the loss or the gradient was not finite")] * self.skipped)

    def __repr__(self) -> str:
        return f"EpisodeReport({', '.join(f'{name}: {value}' for name, value in self.rows())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td>{html.escape(value)}</td></tr>"
            for name, value in self.rows()
        )
        return f"<table>{rows}</table>"
