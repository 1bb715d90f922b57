"""What ends a step on a tile, and what begins its way back: norm and noise."""

from __future__ import annotations

import triton
import triton.language as tl

from atheria_lab.triton_step.parts import turned


@triton.jit
def finish(y, next_psi, density, at, there, cell, phase, sign, key0, key1, step0, step1,
           NORM: tl.constexpr, NOISE: tl.constexpr, M: tl.constexpr, W: tl.constexpr):  # fmt: skip
    """Write the updated tile, with its cells' norm and noise; for a lattice's norm, its density."""
    y = tl.where(there, y, 0.0)
    if NORM == "lattice":
        tl.store(density, tl.sum(tl.sum(y * y, axis=1), axis=0).to(tl.float64))
    if NORM == "cell":
        squares = tl.sum(y * y, axis=1)
        y *= (1.0 / tl.sqrt(tl.where(squares < 1e-30, 1e-30, squares)))[:, None]
    y = turned(y, cell, phase, sign, key0, key1, step0, step1, NOISE, False, M, W)
    tl.store(next_psi + at, y, mask=there)


@triton.jit
def before_finish(gradient, next_psi, scale, share, at, there, cell, phase, sign, key0, key1,
                  step0, step1, NORM: tl.constexpr, NOISE: tl.constexpr, M: tl.constexpr,
                  W: tl.constexpr):  # fmt: skip
    """The gradient before the noise and a lattice's norm."""
    g = tl.load(gradient + at, mask=there, other=0.0)
    if NORM == "lattice":
        along = tl.load(next_psi + at, mask=there, other=0.0) * tl.load(share)
        g = (g - along) * tl.load(scale)
    return turned(g, cell, phase, sign, key0, key1, step0, step1, NOISE, True, M, W)


@triton.jit
def before_cell_norm(g, y):
    """The gradient before a cell's norm; below the least density the scale is a constant."""
    density = tl.sum(y * y, axis=1)
    at_least = tl.where(density < 1e-30, 1e-30, density)
    along = tl.where(density < 1e-30, 0.0, tl.sum(y * g, axis=1) / at_least)
    return (g - y * along[:, None]) * (1.0 / tl.sqrt(at_least))[:, None]
