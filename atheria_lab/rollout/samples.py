"""To see that a state is the same when its step is made again: a few numbers of some states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from atheria_lab.rollout.stepper import Leaves

# This many elements of a leaf are compared, about, at about this many of the indices.
_ELEMENTS = 64
_INDICES = 256


class Samples:
    """What some states of the first pass looked like.

    Args:
        names: of the leaves of a state.
        indices: where a look is worth it, rising; at most about 256 of them are sampled.
    """

    def __init__(self, names: Sequence[str], indices: Sequence[int]) -> None:
        self._names = list(names)
        self._indices: set[int] = set()
        self._numbers: dict[int, list[list[Any]]] = {}
        self.look_at(indices)

    def look_at(self, indices: Sequence[int]) -> None:
        """Sample some of these too, the last one among them."""
        stride = -(-len(indices) // _INDICES)
        self._indices |= {*indices[::stride], indices[-1]}

    def take(self, index: int, leaves: Leaves) -> None:
        """Remember a state of the first pass, if it is one to look at."""
        if index in self._indices:
            self._numbers[index] = [_sample(leaf) for leaf in leaves]

    def differing(self, index: int, leaves: Leaves) -> Iterable[str]:
        """The names of the leaves that are not what they were at this index the first time."""
        for name, before, leaf in zip(
            self._names, self._numbers.get(index, ()), leaves, strict=False
        ):
            if not _close(before, _sample(leaf), leaf.dtype):
                yield name


def _sample(leaf: Tensor) -> list[Any]:
    """About 64 elements, spread over the leaf, as numbers."""
    view, budget = leaf.detach(), _ELEMENTS
    for dim, size in enumerate(view.shape):
        take = min(size, max(1, round(budget ** (1 / (view.dim() - dim)))))
        view = view[(slice(None),) * dim + (slice(None, None, max(1, size // take)),)]
        view = view.narrow(dim, 0, take)
        budget = max(1, budget // max(1, take))
    numbers: list[Any] = [view.tolist()]
    while numbers and isinstance(numbers[0], list):
        numbers = [number for part in numbers for number in part]
    return numbers


def _close(before: list[Any], after: list[Any], dtype: torch.dtype) -> bool:
    """Equal up to what other kernels for the same operation may round differently."""
    if before == after:
        return True
    itemsize = dtype.itemsize // (2 if dtype.is_complex else 1)
    allowed = {8: 1e-9, 4: 1e-4}.get(itemsize, 5e-2)
    scale = max((abs(number) for number in before if math.isfinite(abs(number))), default=0.0)
    return all(
        a == b or (a != a and b != b) or abs(a - b) <= allowed * scale
        for a, b in zip(before, after, strict=True)
    )
