"""A curve of fixed size for a session of any length."""

from __future__ import annotations

from typing import NamedTuple

MOST_POINTS = 1000


class Point(NamedTuple):
    """Some samples in a row.

    Attributes:
        time: of the first of them, in seconds.
        low: the least.
        high: the most.
    """

    time: float
    low: int
    high: int


class Curve:
    """At most 1,000 points; when full, neighbours are joined, and keep their least and most.

    Attributes:
        points: in order.
        last: the newest sample; ``None`` if that was unknown.
    """

    def __init__(self, most: int = MOST_POINTS) -> None:
        self.points: list[Point] = []
        self.last: int | None = None
        self._most = most
        self._each = 1  # samples that a point joins
        self._in_last = 0

    def add(self, time: float, value: int | None) -> None:
        """One sample more; an unknown one leaves a gap."""
        self.last = value
        if value is None:
            self._in_last = self._each  # the next sample starts a point of its own
            return
        if self.points and self._in_last < self._each:
            self.points[-1] = _joined(self.points[-1], Point(time, value, value))
            self._in_last += 1
            return
        if len(self.points) >= self._most:
            self._halve()
        self.points.append(Point(time, value, value))
        self._in_last = 1

    @property
    def peak(self) -> int | None:
        """The most of all samples; ``None`` if every one was unknown."""
        return max((point.high for point in self.points), default=None)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"Curve({len(self)} points, last {self.last}, peak {self.peak})"

    def _halve(self) -> None:
        old = list(self.points)
        pairs = zip(old[::2], old[1::2], strict=False)
        self.points = [_joined(a, b) for a, b in pairs] + old[len(old) // 2 * 2 :]
        self._each *= 2


def _joined(a: Point, b: Point) -> Point:
    return Point(a.time, min(a.low, b.low), max(a.high, b.high))
