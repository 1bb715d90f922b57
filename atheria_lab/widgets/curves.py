"""Curves: series that move, in the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import traitlets

from atheria_lab.colours import table
from atheria_lab.widgets.live import LiveView, text
from atheria_lab.widgets.stream import Message

_MOST_POINTS = 2000
_LIMIT = "#d9534f"


class Line(NamedTuple):
    """One curve, four arrays of one length.

    Attributes:
        x: where, rising.
        mean: the curve.
        low: the least of what each point stands for.
        high: the most.
        dashed: drawn with dashes, as what is predicted is.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    dashed: bool = False

    @classmethod
    def of(cls, x: Sequence[float], y: Sequence[float], *, dashed: bool = False) -> Line:
        """A curve of single values."""
        places, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return cls(places, values, values, values, dashed)


class Curves(LiveView):
    """Live curves with a shaded range, limits as dashed lines, and values under the pointer.

    Each message is the whole picture and the newest one wins, so neither side keeps a history:
    the memory is that of the lines that are shown.

    Args:
        title: above the curves.
        unit: "bytes" for sizes, else written as it is.
        x_label: below them.
        stacked: each curve stands on the one before, filled.
        log: a logarithmic axis.
        height: in pixels.
        per_second: pictures at most.
    """

    _esm = text("page.js", "curves.js")
    _css = text("curves.css")

    title = traitlets.Unicode("").tag(sync=True)
    unit = traitlets.Unicode("").tag(sync=True)
    x_label = traitlets.Unicode("").tag(sync=True)
    stacked = traitlets.Bool(False).tag(sync=True)
    log = traitlets.Bool(False).tag(sync=True)
    height = traitlets.Int(190, min=60, max=2000).tag(sync=True)

    def __init__(self, title: str = "", *, per_second: float = 8.0, **traits: Any) -> None:
        super().__init__(per_second=per_second, title=title, **traits)

    def show(
        self,
        lines: Mapping[str, Line],
        limits: Mapping[str, float] | None = None,
        *,
        last: bool = False,
    ) -> bool:
        """Show these curves in place of those before.

        Args:
            lines: by name, in the order of the legend; at most 2,000 points each.
            limits: values that are drawn as dashed lines, by name.
            last: show them even if the picture before has only just been shown.

        Returns:
            Whether a picture was made; ``False`` where none was due.

        Raises:
            ValueError: arrays of different lengths, or too many points.
        """
        for name, line in lines.items():
            lengths = {len(part) for part in line[:4]}
            if len(lengths) != 1 or max(lengths) > _MOST_POINTS:
                raise ValueError(
                    f"lines: {name!r} has arrays of {sorted(lengths)} points; it takes one length "
                    f"of at most {_MOST_POINTS:,}."
                )
        return self.stream.offer(lambda: self._message(lines, limits or {}), last=last)

    def _message(self, lines: Mapping[str, Line], limits: Mapping[str, float]) -> Message:
        parts = [
            np.asarray(part, np.float64) for line in lines.values() for part in self._parts(line)
        ]
        if self.stacked:
            parts = _stack(parts)
        content = {
            "kind": "curves",
            "names": list(lines),
            "colours": palette(len(lines)),
            "dashed": [line.dashed for line in lines.values()],
            "lengths": [len(line.x) for line in lines.values()],
            "limits": [[name, float(value), _LIMIT] for name, value in limits.items()],
        }
        return content, [np.concatenate([*parts, np.empty(0)]).tobytes()]

    @staticmethod
    def _parts(line: Line) -> tuple[np.ndarray, ...]:
        return line.x, line.mean, line.low, line.high


def palette(count: int) -> list[str]:
    """So many colours that differ, as CSS writes them; the first ones are always the same."""
    hues = table("cyclic")
    places = [(151 + 97 * i) % 256 for i in range(count)]
    return ["#" + bytes((0.86 * hues[place]).astype(np.uint8)).hex() for place in places]


def _stack(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Each line's values on top of the one before: all have the same x."""
    below: np.ndarray | float = 0.0
    for at in range(0, len(parts), 4):
        total = parts[at + 1] + below
        parts[at + 1 : at + 4] = [total, total, total]
        below = total
    return parts
