"""MemoryCurves: the memory of the process, live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from atheria_lab.memory import Monitor
from atheria_lab.memory.curve import Curve
from atheria_lab.widgets.curves import Curves, Line
from atheria_lab.widgets.ticker import Ticker

_SHOWN = ("heap in use", "resident", "tensors", "pinned host")


class MemoryCurves(Curves):
    """The curves of a :class:`~atheria_lab.memory.Monitor`, with the limit that holds.

    ::

        view = al.widgets.MemoryCurves()
        display(view)
        ...            # any PyTorch program
        view.close()

    A thread of its own takes them from the monitor; it ends with the view.

    Args:
        monitor: the one to follow; by default one is started, and stopped by ``close()``.
        extra: called for every picture: more limits by name, such as a budget or a prediction.
        per_second: pictures at most.
        traits: of :class:`Curves`.
    """

    def __init__(
        self,
        monitor: Monitor | None = None,
        *,
        extra: Callable[[], dict[str, float]] | None = None,
        per_second: float = 4.0,
        **traits: Any,
    ) -> None:
        self.monitor = monitor or Monitor(interval=0.1)
        self._own = monitor is None
        self._extra = extra
        defaults = {"title": "memory", "unit": "bytes", "x_label": "seconds"}
        super().__init__(per_second=per_second, **{**defaults, **traits})
        self.monitor.start()
        self._ticker = Ticker(self, lambda view: view.refresh(last=False), 1 / per_second)

    def refresh(self, *, last: bool = True) -> bool:
        """Show what the monitor has now."""
        curves = self.monitor.curves
        names = [name for name in curves if _is_shown(name, curves[name])]
        limits = dict(self._extra()) if self._extra is not None else {}
        if self.monitor.limit is not None:
            limits[self.monitor.limit.name] = self.monitor.limit.bytes
        return self.show({name: line_of(curves[name]) for name in names}, limits, last=last)

    def close(self) -> None:
        """End the thread, the monitor if it is the view's own, and free everything."""
        if hasattr(self, "_ticker"):
            self._ticker.close()
            if self._own:
                self.monitor.stop()
        super().close()


def line_of(curve: Curve) -> Line:
    """A curve of the monitor as the browser draws it: the most, with the least shaded below."""
    points = curve.points
    time = np.array([point.time for point in points], np.float64)
    low = np.array([point.low for point in points], np.float64)
    high = np.array([point.high for point in points], np.float64)
    return Line(time, high, low, high)


def _is_shown(name: str, curve: Curve) -> bool:
    return bool(curve.count) and (name in _SHOWN or name.startswith("cuda"))
