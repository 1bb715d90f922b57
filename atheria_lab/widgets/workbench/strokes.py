"""What the pointer does to psi: take a region out, or stir it."""

from __future__ import annotations

import torch
from torch import Tensor

from atheria_lab.widgets.lattice_view import Stroke

# A stirred cell has this many times the mean density.
_BRIGHT = 4.0


def brush(psi: Tensor, stroke: Stroke, generator: torch.Generator) -> int:
    """Change psi ``[B, H, W, d_state]`` in place, on the torus, in every lattice of the batch.

    "damage" makes the cells empty; "excite" fills them with random amplitudes, complex normal,
    of four times the mean density.

    Args:
        psi: to change.
        stroke: which cells, and how far around them.
        generator: of the random amplitudes, on the CPU.

    Returns:
        How many cells were changed.
    """
    height, width, d_state = psi.shape[1:]
    touched = torch.zeros(height, width, dtype=torch.bool)
    reach = torch.arange(-stroke.radius, stroke.radius + 1)
    dy, dx = torch.meshgrid(reach, reach, indexing="ij")
    disc = dy.square() + dx.square() <= stroke.radius**2
    dy, dx = dy[disc], dx[disc]
    for y, x in stroke.cells:
        touched[(y + dy) % height, (x + dx) % width] = True
    cells = int(touched.sum())
    with torch.no_grad():
        here = touched.to(psi.device)
        if stroke.tool == "damage":
            psi[:, here] = 0
            return cells
        mean = float(psi.abs().square().sum(-1).mean()) or 1.0
        drawn = torch.randn(psi.shape[0], cells, d_state, dtype=psi.dtype, generator=generator)
        psi[:, here] = drawn.to(psi.device) * (_BRIGHT * mean / d_state) ** 0.5
    return cells
