"""Which snapshot goes when there are too many."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

Keep = Literal["newest", "even"]
KEEPS = ("newest", "even")


def victim(steps: Sequence[int], keep: Keep) -> int:
    """The index of the one to release.

    Args:
        steps: of all snapshots in the order of their making, at least two.
        keep: "newest": the oldest goes. "even": the one goes whose neighbours are then the
            least far apart, the earliest of several; the first and the last always stay.
    """
    if keep == "newest" or len(steps) < 3:
        return 0
    # Distances and not differences: a run may have gone back to an earlier snapshot.
    gaps = [abs(b - a) for a, b in pairwise(steps)]
    merged = [a + b for a, b in pairwise(gaps)]
    return 1 + merged.index(min(merged))
