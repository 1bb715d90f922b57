"""How far a law carries the influence of one cell, measured."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in double precision, the same for the same seed."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cone(
    move: Callable[[Tensor], Tensor], channels: int, side: int, cell: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Cells that feel a change of one cell: how far up, down, left and right of it they are.

    ``move`` is a map of float64 ``[1, channels, side, side]``. The change is seen where the
    output differs by a single bit.
    """
    x = noise(1, channels, side, side)
    bump = torch.zeros_like(x)
    bump[:, :, cell[0], cell[1]] = 10
    with torch.no_grad():
        felt = (move(x) != move(x + bump)).any(dim=1)[0]
    middle = side // 2
    felt = felt.roll((middle - cell[0], middle - cell[1]), (0, 1))
    rows, columns = felt.any(1).nonzero().flatten(), felt.any(0).nonzero().flatten()
    return (
        int(middle - rows.min()),
        int(rows.max() - middle),
        int(middle - columns.min()),
        int(columns.max() - middle),
    )


def widest(
    move: Callable[[Tensor], Tensor], channels: int, side: int, period: int
) -> tuple[int, int, int, int]:
    """The widest :func:`cone` of the cells ``(k, k)``, k in a period; it goes round the torus."""
    cones = (cone(move, channels, side, (k, k)) for k in range(period))
    return tuple(map(max, zip(*cones, strict=True)))
