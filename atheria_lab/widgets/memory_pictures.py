"""Pictures of memory over an episode, predicted over measured."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from atheria_lab.memory import format_size
from atheria_lab.memory.spans import Span
from atheria_lab.training.timeline import PHASES, Timeline, points

_INK, _LIMIT = "#808890", "#d9534f"
_PREDICTED, _MEASURED = "#e07b39", "#2f6db3"
_LINES = ("#2f6db3", "#d98032", "#3a9a5b", "#9467bd", "#c44e52", "#17a2b8", "#8c6d31")
_MIB = 2**20


def timeline_figure(timelines: Sequence[Timeline]) -> Figure:
    """One row a timeline: phases shaded, the predicted line over the measured area, the budget."""
    rows = len(timelines)
    figure = Figure(figsize=(8.6, 0.6 + 2.9 * rows), layout="constrained")
    for axes, timeline in zip(figure.subplots(rows, squeeze=False)[:, 0], timelines, strict=True):
        colours = dict(PHASES.values())
        handles: dict[str, object] = {}
        for name, start, end in timeline.phases():
            shade = axes.axvspan(start, end, color=colours.get(name, _INK), alpha=0.22, linewidth=0)
            handles.setdefault(name, Patch(color=shade.get_facecolor()))
        if timeline.measured:
            x, y = _line(timeline.measured)
            axes.fill_between(x, y, color=_MEASURED, alpha=0.25, linewidth=0)
            handles["measured"] = axes.plot(x, y, color=_MEASURED, linewidth=2.2)[0]
        x, y = _line(timeline.predicted)
        handles["predicted"] = axes.plot(x, y, color=_PREDICTED, linewidth=1, linestyle="--")[0]
        if timeline.budget is not None:
            line = axes.axhline(timeline.budget / _MIB, color=_LIMIT, linestyle=(0, (4, 2)))
            handles[f"budget {format_size(timeline.budget)}"] = line
        axes.set_title(_title(timeline), fontsize=9, color=_INK)
        axes.legend(
            list(handles.values()), list(handles), fontsize=8, loc="center left",
            bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=_INK, borderaxespad=0,
        )  # fmt: skip
        axes.set_ylim(0)
        axes.margins(x=0)
        _finish(axes)
    return figure


def overlay_figure(timelines: Sequence[Timeline], budget: int | None = None) -> Figure:
    """The same training under several plans, one line each on a logarithmic axis.

    The plans that go over the budget are drawn thinner and paler.

    Args:
        timelines: measured ones are drawn as measured, others as predicted (dashed).
        budget: bytes, a dashed line.
    """
    figure = Figure(figsize=(8.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for place, timeline in enumerate(timelines):
        x, y = _line(timeline.measured or timeline.predicted)
        peak = timeline.peak_bytes or timeline.predicted_bytes
        fits = budget is None or peak <= budget
        axes.plot(
            x, y, color=_LINES[place % len(_LINES)], linewidth=1.8 if fits else 1,
            alpha=1 if fits else 0.4, linestyle="-" if timeline.measured else "--",
            label=f"{timeline.plan!r}: {format_size(peak)}{'' if fits else ', too much'}",
        )  # fmt: skip
    if budget is not None:
        axes.axhline(budget / _MIB, color=_LIMIT, linestyle=(0, (4, 2)))
    axes.set_yscale("log")
    axes.margins(x=0)
    axes.legend(fontsize=8, frameon=False, labelcolor=_INK)
    _finish(axes)
    return figure


def _title(timeline: Timeline) -> str:
    peak = timeline.peak_bytes
    measured = "not measured" if peak is None else f"{format_size(peak)} measured"
    return f"{timeline.plan!r}: {measured}, {format_size(timeline.predicted_bytes)} predicted"


def _line(spans: list[Span]) -> tuple[list[float], list[float]]:
    """Peaks in MiB; where a point sums up several, down to the least and up to the most."""
    line = [(at, size) for at, low, high in points(spans) for size in sorted({low, high})]
    return [at for at, _ in line], [size / _MIB for _, size in line]


def _finish(axes: Axes) -> None:
    axes.set_xlabel("steps made, made again and gone back through", color=_INK, fontsize=9)
    axes.set_ylabel("MiB added", color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_edgecolor(_INK)
