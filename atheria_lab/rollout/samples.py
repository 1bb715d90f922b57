"""To see that a state is the same when its step is made again: a few numbers of some states.

Of each leaf some elements, and the sum of all, so that a single cell that differs shows too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
        self._numbers: dict[int, list[_Sample]] = {}
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
            if not _same(before, _sample(leaf), leaf.dtype):
                yield name


@dataclass(frozen=True)
class _Sample:
    """Of a leaf: some elements, the sum of all, and by how much the sum may differ for its size."""

    elements: list[Any]
    total: Any
    spread: float


def _sample(leaf: Tensor) -> _Sample:
    """About 64 elements, spread over the leaf, as numbers; and the sum of all."""
    leaf = leaf.detach()
    view, budget = leaf, _ELEMENTS
    for dim, size in enumerate(view.shape):
        take = min(size, max(1, round(budget ** (1 / (view.dim() - dim)))))
        view = view[(slice(None),) * dim + (slice(None, None, max(1, size // max(1, take))),)]
        view = view.narrow(dim, 0, take)
        budget = max(1, budget // max(1, take))
    return _Sample(view.flatten().tolist(), leaf.sum().item(), math.sqrt(leaf.numel()))


def _same(before: _Sample, after: _Sample, dtype: torch.dtype) -> bool:
    """Equal up to what other kernels for the same operation may round differently."""
    itemsize = dtype.itemsize // (2 if dtype.is_complex else 1)
    allowed = {8: 1e-9, 4: 1e-4}.get(itemsize, 5e-2)
    pairs = [*zip(before.elements, after.elements, strict=True)]
    scale = max((abs(number) for number, _ in pairs if math.isfinite(abs(number))), default=0.0)
    return all(_close(a, b, allowed * scale) for a, b in pairs) and _close(
        before.total, after.total, allowed * scale * before.spread
    )


def _close(a: Any, b: Any, allowed: float) -> bool:
    return bool(a == b or (a != a and b != b) or abs(a - b) <= allowed)
