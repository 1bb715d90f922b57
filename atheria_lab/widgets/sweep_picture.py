"""The losses of a sweep over one of its settings, as a figure."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atheria_lab.scale import SweepResult, SweepResults
from atheria_lab.scale.space import show
from atheria_lab.widgets.curves import palette
from atheria_lab.widgets.pictures import INK, grey

_MOST_COLOURS = 10


def sweep_figure(
    results: SweepResults, x: str | None, colour: str | None = None, episode: int | None = None
) -> Figure:
    """A dot for each result, and a line through the means: the loss over one setting.

    Args:
        results: those that are there are drawn.
        x: the setting of the axis, one of ``results.varied``; ``None``: the place in the sweep.
        colour: the setting that colours tell apart, if it has at most ten values.
        episode: whose loss; ``None``: the last one of each.
    """
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    ticks = _values(results, x)
    numeric = all(isinstance(value, int | float) for value in ticks.values())
    kinds = list(_values(results, colour)) if colour is not None else []
    colours = palette(len(kinds)) if 0 < len(kinds) <= _MOST_COLOURS else []
    groups: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results.done:
        loss = _loss(result, episode)
        if loss is None:
            continue
        text = show(result.point[x]) if x is not None else result.fingerprint
        at = ticks[text] if numeric else list(ticks).index(text)
        kind = show(result.point[colour]) if colours and colour is not None else ""
        groups[kind][at].append(loss)
    for kind in kinds if colours else [""]:
        dots = groups[kind]
        ink = colours[kinds.index(kind)] if colours else palette(1)[0]
        places = sorted(dots)
        axes.plot(
            places, [sum(dots[at]) / len(dots[at]) for at in places],
            color=ink, linewidth=1.2, alpha=0.8, label=kind if places else None,
        )  # fmt: skip
        axes.plot(
            [at for at in places for _ in dots[at]], [loss for at in places for loss in dots[at]],
            "o", color=ink, markersize=4,
        )  # fmt: skip
    _axis(axes, x, ticks, numeric)
    axes.set_ylabel("loss" if episode is None else f"loss, episode {episode}", color=INK)
    if colours and any(groups.values()):
        legend = axes.legend(title=colour, frameon=False, fontsize=8, labelcolor=INK)
        legend.get_title().set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    grey(axes)
    return figure


def _values(results: SweepResults, name: str | None) -> dict[str, Any]:
    """The values of a setting by how they read, in the order of the space."""
    if name is None:
        return {point.fingerprint: place for place, point in enumerate(results.points)}
    return {show(point.given[name]): point.given[name] for point in results.points}


def _axis(axes: Axes, x: str | None, ticks: dict[str, Any], numeric: bool) -> None:
    axes.set_xlabel("training" if x is None else x, color=INK)
    places = list(ticks.values()) if numeric else list(range(len(ticks)))
    low, high = min(places, default=0), max(places, default=0)
    if numeric and low > 0 and high > 50 * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
    else:
        margin = 0.05 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
    if x is not None and len(ticks) <= _MOST_COLOURS:
        axes.set_xticks(places, list(ticks), fontsize=8)
        axes.minorticks_off()


def _loss(result: SweepResult, episode: int | None) -> float | None:
    """The loss of an episode, if there is one to draw."""
    losses = result.losses
    if not losses or (episode is not None and episode >= len(losses)):
        return None
    loss = losses[-1 if episode is None else episode]
    return loss if math.isfinite(loss) else None
