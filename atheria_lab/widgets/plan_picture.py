"""Every plan as a point: what it takes in bytes, and in time."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from atheria_lab.memory import format_seconds, format_size
from atheria_lab.rollout import RolloutPlan
from atheria_lab.rollout.planner import PlanCost

_WIDTH, _HEIGHT = 430, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 34
_COLOURS = {
    "StoreAll": "#808890",
    "Segmented": "#d98032",
    "Binomial": "#2f6db3",
    "Reversible": "#3a9a5b",
    "Truncated": "#b0658f",
}
_LIMIT = "#d9534f"
_SLOWEST = 8  # times the fastest: what is slower is in the table only


def picture(plan: RolloutPlan, budget: int | None = None) -> str:
    """An SVG of the plans, memory over time, both logarithmic; the chosen one has a ring.

    Args:
        plan: from :func:`atheria_lab.plan_rollout`.
        budget: drawn as a line; what lies above it does not fit. By default the plan's own.
    """
    budget = plan.budget if budget is None else budget
    slowest = _SLOWEST * min(cost.seconds for cost in plan.costs)
    shown = [cost for cost in plan.costs if cost.seconds <= slowest or cost is plan.chosen]
    sizes = [cost.needs_bytes for cost in shown] + ([budget] if budget else [])
    times = [max(cost.seconds, 1e-9) for cost in shown]
    low, high = math.log(min(sizes)) - 0.25, math.log(max(sizes)) + 0.35
    fast, slow = math.log(min(times)) - 0.08, math.log(max(times)) + 0.12

    def x(seconds: float) -> float:
        share = (math.log(max(seconds, 1e-9)) - fast) / (slow - fast)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(size: float) -> float:
        return _TOP + (high - math.log(size)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_grid(x, y, low, high, times)]
    if budget:
        edge = y(budget)
        parts.append(
            f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT - _RIGHT}" '
            f'height="{max(0.0, edge - _TOP):.1f}" fill="{_LIMIT}" opacity="0.07"/>'
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{edge:.1f}" y2="{edge:.1f}" '
            f'stroke="{_LIMIT}" stroke-dasharray="5 3"/>'
            f'<text x="{_WIDTH - _RIGHT - 4}" y="{edge - 4:.1f}" text-anchor="end" '
            f'fill="{_LIMIT}">budget {format_size(budget)}</text>'
        )
    for cost in shown:
        place = x(cost.seconds), y(cost.needs_bytes)
        parts.append(_point(cost, *place))
        if cost is plan.chosen:
            parts.append(_ring(cost, *place, below=place[1] > 185))
    kinds = dict.fromkeys(_kind(cost) for cost in shown)
    words = "".join(
        f'<span style="white-space:nowrap"><span style="color:{_COLOURS.get(kind, "#808890")}">'
        f"&#9679;</span> {html.escape(kind)}{' (not exact)' if kind == 'Truncated' else ''}"
        "</span> "
        for kind in kinds
    )
    said = f"{plan.chosen.plan!r}: {format_size(plan.chosen.needs_bytes)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(said)}" '
        'style="width:100%;max-width:520px;font:11px var(--jp-ui-font-family,sans-serif);'
        f'fill:var(--jp-ui-font-color2,#808890)">{"".join(parts)}</svg>'
        f'<div style="font-size:11px;line-height:1.5">{words}</div>'
    )


def _point(cost: PlanCost, x: float, y: float) -> str:
    faint = ' opacity="0.4"' if cost.fits is False else ""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_COLOURS.get(_kind(cost), "#808890")}"'
        f"{faint}><title>{_told(cost)}</title></circle>"
    )


def _ring(cost: PlanCost, x: float, y: float, *, below: bool) -> str:
    """The mark of the chosen plan, its words clear of the budget's line."""
    left = x > _WIDTH / 2
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke-width="2" '
        f'stroke="{_COLOURS.get(_kind(cost), "#808890")}"/>'
        f'<text x="{x + (-9 if left else 9):.1f}" y="{y + (-12 if below else 20):.1f}" '
        f'text-anchor="{"end" if left else "start"}" font-weight="600" '
        f'style="fill:var(--jp-ui-font-color1,#606870)">{_told(cost)}</text>'
    )


def _told(cost: PlanCost) -> str:
    return html.escape(
        f"{cost.plan!r}: {format_size(cost.needs_bytes)}, {format_seconds(cost.seconds)}"
    )


def _grid(x: object, y: object, low: float, high: float, times: Sequence[float]) -> str:
    assert callable(x) and callable(y)
    step = max(1, round((high - low) / math.log(2) / 5))
    powers = range(math.ceil(low / math.log(2)), math.floor(high / math.log(2)) + 1)
    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(2.0**power):.1f}" '
        f'y2="{y(2.0**power):.1f}" stroke="#808890" opacity="0.2"/>'
        f'<text x="{_LEFT - 6}" y="{y(2.0**power) + 4:.1f}" text-anchor="end">'
        f"{format_size(2**power).replace('.0', '')}</text>"
        for power in powers
        if power % step == 0
    ]
    ends = {min(times): "start", max(times): "end"}
    parts += [
        f'<text x="{x(seconds):.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">'
        f"{format_seconds(seconds)}</text>"
        for seconds in (ends if max(times) > 1.02 * min(times) else [min(times)])
    ]
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">'
        "time of an episode, there and back</text>"
    )
    return "".join(parts)


def _kind(cost: PlanCost) -> str:
    return type(cost.plan).__name__
