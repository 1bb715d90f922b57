"""What an episode does to the memory, part after part: predicted over measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atheria_lab._files import write_atomically
from atheria_lab.memory import format_size, track_peak
from atheria_lab.memory.chart import Line, Shade, chart
from atheria_lab.memory.owners import (
    CHECKPOINTS,
    GRADIENTS,
    GRAPH,
    LOSS,
    OPTIMIZER,
    PROBE,
    PSI,
    SEGMENT,
    SNAPSHOTS,
)
from atheria_lab.memory.spans import Span, record_spans
from atheria_lab.rollout.plans import Plan
from atheria_lab.rollout.predict import predicted_spans

if TYPE_CHECKING:
    from atheria_lab.training.trainer import Trainer

# A step without a graph, after the loss.
AGAIN = "again"
# What the parts of an episode are called, and their colours.
PHASES = {
    PSI: ("forward", "#4c90d0"),
    GRAPH: ("forward, every step kept", "#2f6db3"),
    AGAIN: ("steps made again", "#e8b23d"),
    CHECKPOINTS: ("checkpoint copies", "#17a2b8"),
    SEGMENT: ("recomputed segment", "#d98032"),
    LOSS: ("loss", "#9467bd"),
    GRADIENTS: ("backward", "#3a9a5b"),
    OPTIMIZER: ("optimizer step", "#c44e52"),
    SNAPSHOTS: ("snapshot copies", "#8c6d31"),
}
_MOST_DRAWN = 1000


@dataclass(frozen=True, repr=False)
class Timeline:
    """One episode as spans: each step made, made again or gone back through, and the loss.

    Bytes are over what was live when the rollout started, as ``peak_bytes`` counts them.

    Attributes:
        plan: how the rollout was stored.
        measured: what happened, in order; empty where it was not measured.
        predicted: what the planner expected; it ends before the optimizer's step.
        budget: bytes, or ``None``.
    """

    plan: Plan
    measured: list[Span]
    predicted: list[Span]
    budget: int | None = None

    @property
    def peak_bytes(self) -> int | None:
        """The most that was measured; ``None`` where nothing was."""
        return max((span.peak for span in self.measured), default=None)

    @property
    def predicted_bytes(self) -> int:
        """The most that was expected."""
        return max(span.peak for span in self.predicted)

    def save(self, path: str | Path) -> None:
        """Write it as JSON: every span as [owner, steps, peak, after], in bytes."""
        facts = {
            "plan": repr(self.plan),
            "budget": self.budget,
            "peak_bytes": self.peak_bytes,
            "predicted_bytes": self.predicted_bytes,
            "measured": self.measured,
            "predicted": self.predicted,
        }
        write_atomically(Path(path), json.dumps(facts).encode())

    def phases(self) -> list[tuple[str, float, float]]:
        """Each phase's name, start and end, on the axis of steps."""
        found: list[tuple[str, float, float]] = []
        at, back = 0, False
        for span in self.measured or self.predicted:
            back = back or span.owner == LOSS
            owner = AGAIN if back and span.owner == PSI else span.owner
            name = PHASES.get(owner, (owner, ""))[0]
            if found and found[-1][0] == name:
                found[-1] = (name, found[-1][1], at + span.steps)
            else:
                found.append((name, at, at + span.steps))
            at += span.steps
        return found

    def __repr__(self) -> str:
        peak = "not measured" if self.peak_bytes is None else format_size(self.peak_bytes)
        return (
            f"Timeline({self.plan!r}, {sum(span.steps for span in self.predicted)} parts, "
            f"predicted peak {format_size(self.predicted_bytes)}, measured {peak})"
        )

    def _repr_html_(self) -> str:
        lines = [Line("measured", points(self.measured), "#2f6db3")] if self.measured else []
        lines.append(Line("predicted", points(self.predicted), "#e07b39", dashed=True))
        colours = dict(PHASES.values())
        shades = [
            Shade(start, end, colours.get(name, "#808890")) for name, start, end in self.phases()
        ]
        legend = list(colours.items())
        seen = {name for name, _, _ in self.phases()}
        return chart(
            lines, x_label=f"steps made, made again and gone back through, {self.plan!r}",
            shades=shades, legend=[one for one in legend if one[0] in seen], limit=self.budget,
        )  # fmt: skip


def points(spans: list[Span]) -> list[tuple[float, int, int]]:
    """A line through the spans' peaks: x, least and most; at most a thousand points."""
    each = -(-len(spans) // _MOST_DRAWN)
    line, at = [], 0
    for start in range(0, len(spans), max(1, each)):
        part = spans[start : start + each]
        steps = sum(span.steps for span in part)
        peaks = [span.peak for span in part]
        line.append((at + steps / 2, min(peaks), max(peaks)))
        at += steps
    return line


def record(trainer: Trainer) -> Timeline:
    """Train one episode, and follow every storage while it runs."""
    trainer.planned.ready(trainer.episode)
    plan, job = trainer.plan, trainer.job()
    assert plan is not None
    with track_peak() as peak, record_spans(peak) as spans:
        trainer.train_episode()
    # The initial state belongs to what is live when the rollout starts.
    while spans and spans[0].owner == PROBE:
        del spans[0]
    base = spans.pop(0).after or 0
    measured = [
        span._replace(peak=max(0, span.peak - base), after=max(0, (span.after or 0) - base))
        for span in spans
    ]
    return Timeline(plan, measured, predicted_spans(plan, job), trainer.budget)
