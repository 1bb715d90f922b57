"""Bytes over seconds, in constant memory for a session of any length."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from atheria_lab.series import Series

MOST_POINTS = 1000


class Point(NamedTuple):
    """Some samples in a row.

    Attributes:
        time: the middle of them, in seconds.
        low: the least.
        high: the most.
    """

    time: float
    low: int
    high: int


class Curve(Series):
    """A :class:`~atheria_lab.series.Series` of bytes, in which a sample may be unknown.

    Args:
        most: points, at least 2.
    """

    def __init__(self, most: int = MOST_POINTS) -> None:
        super().__init__(most)

    def sample(self, time: float, value: int | None) -> None:
        """One sample more; an unknown one leaves a gap."""
        self.add(time, math.nan if value is None else value)

    @property
    def points(self) -> list[Point]:
        """What is known, in order."""
        b = self.buckets()
        return [
            Point(float(x), int(low), int(high))
            for x, low, high, count in zip(b.x, b.low, b.high, b.counts, strict=True)
            if count
        ]

    @property
    def newest(self) -> int | None:
        """The newest sample; ``None`` if that was unknown."""
        return None if math.isnan(self.last) else int(self.last)

    @property
    def peak(self) -> int | None:
        """The most of all samples; ``None`` if every one was unknown."""
        return int(np.nanmax(self.high)) if self.count else None
