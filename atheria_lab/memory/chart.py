"""Curves of bytes as a small inline SVG, without matplotlib: readable on light and on dark."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from atheria_lab.memory.sizes import format_size

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 220, 70, 28
_INK = "#808890"
_COLOURS = ("#2f6db3", "#d98032", "#3a9a5b", "#9467bd", "#c44e52", "#17a2b8", "#8c6d31", "#7f7f7f")


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: in the legend.
        points: of x, least and most bytes.
        colour: of CSS; by default one of its own.
        dashed: or drawn through.
    """

    name: str
    points: Sequence[tuple[float, int, int]]
    colour: str | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Shade:
    """A stretch of the x axis with a ground of its own.

    Attributes:
        start: x.
        end: x.
        colour: of CSS.
    """

    start: float
    end: float
    colour: str


def chart(
    lines: Sequence[Line],
    *,
    x_label: str = "",
    shades: Sequence[Shade] = (),
    legend: Sequence[tuple[str, str]] = (),
    limit: int | None = None,
) -> str:
    """An SVG of the lines over their shades, with a legend and the limit as a dashed line.

    Args:
        lines: to draw; the first one lies lowest.
        x_label: below the axis.
        shades: behind the lines.
        legend: of the shades: names and colours.
        limit: bytes.
    """
    right = max([*(line.points[-1][0] for line in lines if line.points), 1e-9])
    most = max([*(p[2] for line in lines for p in line.points), limit or 0, 1]) * 1.05

    def x(value: float) -> str:
        return f"{_LEFT + value / right * (_WIDTH - _LEFT - 10):.1f}"

    def y(size: float) -> str:
        return f"{10 + (1 - size / most) * (_HEIGHT - _BOTTOM - 10):.1f}"

    bottom = _HEIGHT - _BOTTOM
    parts = [
        f'<rect x="{x(s.start)}" y="10" width="{float(x(s.end)) - float(x(s.start)):.1f}" '
        f'height="{bottom - 10}" fill="{s.colour}" opacity="0.18"/>'
        for s in shades
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        size = share * most / 1.05
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y(size)}" y2="{y(size)}" '
            f'stroke="{_INK}" opacity="0.25"/><text x="{_LEFT - 6}" y="{y(size)}" '
            f'text-anchor="end" dominant-baseline="middle">{format_size(int(size))}</text>'
        )
    if limit is not None:
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y(limit)}" y2="{y(limit)}" '
            'stroke="#d9534f" stroke-width="1.5" stroke-dasharray="6 3"/>'
        )
    named = list(legend)
    for place, line in enumerate(lines):
        colour = line.colour or _COLOURS[place % len(_COLOURS)]
        named.append((line.name, colour))
        path = " ".join(
            f"{x(at)},{y(size)}" for at, low, high in line.points for size in sorted({low, high})
        )
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"'
            + (' stroke-dasharray="4 3"/>' if line.dashed else "/>")
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(x_label)} (to {right:,.4g})</text>"
    )
    words = " ".join(
        f'<span style="color:{colour}">&#9632;</span> {html.escape(name)}&ensp;'
        for name, colour in named
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        f'style="max-width:100%;font:11px sans-serif;fill:{_INK}">{"".join(parts)}</svg>'
        f'<div style="font-size:12px">{words}</div>'
    )
