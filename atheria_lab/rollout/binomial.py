"""The optimal schedule of checkpoints, from its closed form.

Griewank & Walther, "Algorithm 799: revolve", ACM TOMS 26 (2000). With ``s`` checkpoints and
at most ``r`` visits of any step, ``beta(s, r) = C(s + r, s)`` steps can be reversed. The fewest
forward steps that reverse ``l`` steps are ``t(l, s) = r l - beta(s + 1, r - 1)``, where ``r`` is
the least number with ``beta(s, r) >= l``. The initial state counts as a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

Action = tuple[Literal["load", "advance", "store", "reverse", "drop"], int]


def advances(length: int, slots: int) -> int:
    """``t(length, slots)``: the forward steps between checkpoints, at their fewest.

    The ``length`` steps that are made once more, each with its graph, come on top.
    """
    if slots == 1:
        return length * (length - 1) // 2
    r, beta = _visits(length, slots)
    # beta(s + 1, r - 1) = beta(s, r) * r / (s + 1)
    return r * length - beta * r // (slots + 1)


def split(length: int, slots: int) -> int:
    """How far from the present checkpoint the next one lies; optimal, as ``advances`` counts.

    Args:
        length: steps from the present checkpoint to the end, at least 2.
        slots: checkpoints for them, the present one included, at least 2.
    """
    r, beta = _visits(length, slots)
    earlier = beta * r // (slots + r)  # beta(s, r - 1)
    before = earlier * (r - 1) // (slots + r - 1)  # beta(s, r - 2)
    right = beta - earlier  # beta(s - 1, r) = beta(s, r) - beta(s, r - 1)
    return min(length - 1, max(1, before, length - right))


def sweep(length: int, slots: int) -> list[int]:
    """Where the forward sweep leaves its checkpoints: rising positions, 0 first."""
    positions = [0]
    while (free := slots - len(positions)) > 0 and length - positions[-1] > 1:
        positions.append(positions[-1] + split(length - positions[-1], free + 1))
    return positions


def reverse(
    positions: list[int], end: int, slots: int, anchors: Sequence[int] = (0,)
) -> Iterator[Action]:
    """What to do, in order, to reverse the steps ``end - 1 ... 0`` after a forward sweep.

    Args:
        positions: of the stored checkpoints, rising, 0 first; it is used up.
        end: the reversal starts here.
        slots: checkpoints that may be stored at once; of the anchors one counts.
        anchors: positions among the first that are there in any case.

    Yields:
        ``("load", p)``: go to the checkpoint at p, the last one stored; ``("advance", p)``: step
        to p; ``("store", p)``: keep the state here; ``("reverse", p)``: make step p with its graph
        and go back through it; ``("drop", p)``: forget the checkpoint at p, the last one stored.
    """
    free_of_charge = frozenset(anchors)
    while positions:
        here = positions[-1]
        if here >= end:
            yield "drop", positions.pop()
            continue
        yield "load", here
        stored = 1 + sum(position not in free_of_charge for position in positions)
        while (length := end - here) > 1 and (free := slots - stored) > 0:
            here += split(length, free + 1)
            yield "advance", here
            yield "store", here
            positions.append(here)
            stored += 1
        if here < end - 1:
            yield "advance", end - 1
        yield "reverse", end - 1
        end -= 1


def _visits(length: int, slots: int) -> tuple[int, int]:
    """The least r with ``beta(slots, r) >= length``, at least 1, and that beta."""
    r, beta = 1, slots + 1
    while beta < length:
        r += 1
        beta = beta * (slots + r) // r
    return r, beta
