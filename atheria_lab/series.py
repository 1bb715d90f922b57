"""A series of numbers in constant memory, the whole session always in sight."""

from __future__ import annotations

import html
import math
import threading
from typing import NamedTuple, TypeVar

import numpy as np

from atheria_lab._checks import integer

_T = TypeVar("_T", float, np.ndarray)

# A power of two, so that no sum of finite numbers overflows: it costs nothing but bits of numbers
# below 1e-288.
_SCALE = 2.0**-64
# The rows of the table of buckets. A sum is kept in two parts, so that it is exact to rounding.
_FIRST, _LAST, _SUM, _ERROR, _LOW, _HIGH, _COUNT = range(7)


class Buckets(NamedTuple):
    """A series at one moment: five arrays of one length, copies.

    ``Line(*buckets[:4])`` is what :class:`atheria_lab.widgets.Curves` shows.

    Attributes:
        x: the middle of each bucket, float64, never falling.
        mean: of its numbers; NaN for a bucket without one, which is a gap.
        low: the least of them.
        high: the most of them.
        counts: how many they are, int64.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray


class Series:
    """Numbers over time (or steps), as they come, in a table of fixed size.

    The first ``max_points`` numbers are all kept. When the table is full, neighbours are joined
    two by two, and from then on each point stands for twice as many numbers: their least, their
    most and their exact mean are kept. So a whole session stays visible, and a peak of a single
    step is never lost. One thread may add while others read.

    A y that is NaN or infinite is no number to draw: it is counted in ``not_finite`` and in
    nothing else. A point of such ys alone is NaN, a gap in the curve.

    Args:
        max_points: at least 2; the memory is 56 bytes for each, from the start.
        name: what it is of, for its picture.

    Example:
        >>> loss = Series()
        >>> for step in range(100_000):
        ...     loss.add(step, 1 / (1 + step))
        >>> len(loss), loss.count, float(loss.high.max())
        (1563, 100000, 1.0)
    """

    def __init__(self, max_points: int = 2000, *, name: str = "") -> None:
        self.max_points = integer("max_points", max_points, least=2)
        self.name = name
        self._table = np.zeros((7, self.max_points))
        self._lock = threading.Lock()
        self._x: float
        self._y: float
        self._clear()

    def add(self, x: float, y: float) -> None:
        """One number more.

        Args:
            x: where: a step, or seconds; not below the x before.
            y: the number; NaN and infinite ones are counted as ``not_finite``.

        Raises:
            ValueError: x is NaN or infinite, or below the one before.
            TypeError: not real numbers.
        """
        x, y = float(x), float(y)
        with self._lock:
            if not (self._x <= x < math.inf):
                raise ValueError(
                    f"x: got {x!r} after {self._x!r}; it takes finite numbers that do not fall. "
                    "After going back, clear() this series or make a new one."
                )
            self._x, self._y = x, y
            if self._in_last == self._each:
                if self._length == self.max_points:
                    self._halve()
                # An odd table leaves its last bucket half full: it takes the new number.
                if self._in_last == self._each:
                    self._open(x)
            at = self._table[:, self._length - 1]
            at[_LAST] = x
            self._in_last += 1
            if not math.isfinite(y):
                self._not_finite += 1
                return
            total, error = _two_sum(float(at[_SUM]), y * _SCALE)
            at[_SUM] = total
            at[_ERROR] += error
            at[_LOW] = min(at[_LOW], y)
            at[_HIGH] = max(at[_HIGH], y)
            at[_COUNT] += 1
            self._count += 1

    def clear(self) -> None:
        """Forget all numbers and start with the finest points again."""
        with self._lock:
            self._clear()

    def buckets(self) -> Buckets:
        """All points at one moment, the newest last; it may still be filling."""
        with self._lock:
            table = self._table[:, : self._length].copy()
        count = table[_COUNT].astype(np.int64)
        gap = count == 0
        total = table[_SUM] + table[_ERROR]
        mean = total / np.where(gap, 1, count) / _SCALE
        low, high = table[_LOW], table[_HIGH]
        mean = np.clip(mean, low, high, where=~gap, out=mean)
        for row in (mean, low, high):
            row[gap] = np.nan
        return Buckets(0.5 * table[_FIRST] + 0.5 * table[_LAST], mean, low, high, count)

    @property
    def x(self) -> np.ndarray:
        """The middle of each point, float64; :meth:`buckets` for all arrays of one moment."""
        return self.buckets().x

    @property
    def mean(self) -> np.ndarray:
        """The mean of what each point stands for, float64."""
        return self.buckets().mean

    @property
    def low(self) -> np.ndarray:
        """The least of what each point stands for, float64."""
        return self.buckets().low

    @property
    def high(self) -> np.ndarray:
        """The most of what each point stands for, float64."""
        return self.buckets().high

    @property
    def count(self) -> int:
        """How many finite numbers came."""
        return self._count

    @property
    def not_finite(self) -> int:
        """How many came that were NaN or infinite."""
        return self._not_finite

    @property
    def last(self) -> float:
        """The newest y, as it came; NaN if there is none."""
        return self._y

    @property
    def each(self) -> int:
        """How many numbers a full point stands for: a power of two."""
        return self._each

    @property
    def nbytes(self) -> int:
        """Bytes of its table."""
        return self._table.nbytes

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Series({self._about()})"

    def _repr_html_(self) -> str:
        return f"{_picture(self.buckets())}<br><code>{html.escape(repr(self))}</code>"

    def _about(self) -> str:
        parts = [repr(self.name)] if self.name else []
        parts += [f"{self._count:,} numbers in {self._length:,} points"]
        if self._count:
            b = self.buckets()
            parts += [f"from {np.nanmin(b.low):.6g} to {np.nanmax(b.high):.6g}"]
            parts += [f"last {self._y:.6g}"]
        if self._not_finite:
            parts += [f"{self._not_finite:,} not finite"]
        return ", ".join(parts)

    def _clear(self) -> None:
        self._length = 0  # buckets in use
        self._each = 1  # numbers a full bucket stands for
        self._in_last = 1  # and how many came for the last one
        self._count = self._not_finite = 0
        self._x, self._y = -math.inf, math.nan

    def _open(self, x: float) -> None:
        self._table[:, self._length] = (x, x, 0.0, 0.0, math.inf, -math.inf, 0.0)
        self._length += 1
        self._in_last = 0

    def _halve(self) -> None:
        """Join neighbours two by two; an odd one out becomes the last, half full."""
        pairs, odd = divmod(self._length, 2)
        table = self._table
        a, b = table[:, : 2 * pairs : 2], table[:, 1 : 2 * pairs : 2]
        total, error = _two_sum(a[_SUM], b[_SUM])
        joined = [
            a[_FIRST], b[_LAST], total, error + a[_ERROR] + b[_ERROR],
            np.minimum(a[_LOW], b[_LOW]), np.maximum(a[_HIGH], b[_HIGH]), a[_COUNT] + b[_COUNT],
        ]  # fmt: skip
        left = table[:, 2 * pairs : 2 * pairs + odd].copy()
        table[:, :pairs] = np.stack(joined)
        table[:, pairs : pairs + odd] = left
        self._length = pairs + odd
        self._in_last = self._each if odd else 2 * self._each
        self._each *= 2


def _two_sum(a: _T, b: _T) -> tuple[_T, _T]:
    """The rounded sum and what the rounding lost: D. Knuth, TAOCP 2 (1969), 4.2.2."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _picture(b: Buckets, width: int = 420, height: int = 90) -> str:
    """The range as a band, the mean as a line; a gap stays empty."""
    known = b.counts > 0
    if not known.any():
        return ""
    bottom, top = float(b.low[known].min()), float(b.high[known].max())
    span, wide = (top / 2 - bottom / 2) * 2 or 1.0, float(b.x[-1] / 2 - b.x[0] / 2) * 2 or 1.0
    if not (math.isfinite(span) and math.isfinite(wide)):
        return ""
    across = np.round((b.x - b.x[0]) / wide * (width - 4) + 2, 1)

    def down(y: np.ndarray) -> np.ndarray:
        return np.round(height - 3 - (y - bottom) / span * (height - 6), 1)

    parts = []
    for run in np.split(np.arange(len(b.x)), np.flatnonzero(np.diff(known)) + 1):
        if not known[run[0]]:
            continue
        xs = across[run].tolist()
        lows, highs, means = (down(y[run]).tolist() for y in (b.low, b.high, b.mean))
        # A point that stands alone is drawn as a dash.
        line = "L".join(f"{x},{y}" for x, y in zip(xs, means, strict=True))
        edge = [*zip(xs, highs, strict=True), *zip(xs[::-1], lows[::-1], strict=True)]
        band = "L".join(f"{x},{y}" for x, y in edge)
        dash = "h0.5" if len(run) == 1 else ""
        parts.append(f"<path d='M{band}Z' fill='#2f6db3' stroke='none' opacity='0.25'/>")
        parts.append(f"<path d='M{line}{dash}' fill='none' stroke='#2f6db3'/>")
    return f"<svg width='{width}' height='{height}' role='img'>{''.join(parts)}</svg>"
