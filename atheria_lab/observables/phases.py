"""Phase vortices: the points round which the phase turns by a whole circle."""

from __future__ import annotations

import math

from torch import Tensor

from atheria_lab import lattice
from atheria_lab.observables._inputs import state


def vortices(psi: Tensor, channel: int = 0) -> Tensor:
    """The winding of the phase round each plaquette: -1, 0 or 1, real ``[B, H, W]``.

    ``n(y, x) = (1 / 2 pi) sum wrap(theta' - theta)`` over the four links round the cells
    ``(y, x)``, ``(y, x+1)``, ``(y+1, x+1)``, ``(y+1, x)``, in this order, each difference wrapped
    to ``[-pi, pi]``. ``psi = x + i y`` has a vortex of +1. On a torus the sum over all plaquettes
    is exactly 0.

    Independent random phases have a vortex in 1/3 of the plaquettes; a smooth isotropic random
    field ``<k^2> / 4 pi`` a cell, with k in radians (Berry & Dennis, Proc. R. Soc. A 456 (2000)
    2059). An empty cell has the phase 0; the empty lattice: 0. Where the amplitude is rounding
    alone, so is the phase, and so are its vortices: mask them with the density.

    Source: Kosterlitz & Thouless, J. Phys. C 6 (1973) 1181.
    """
    turns = lattice.phase(state(psi).detach(), channel) / (2 * math.pi)
    # The four differences add up to 0, so the winding is minus what the wraps took off: whole
    # numbers, each used by two plaquettes with opposite signs.
    down = (turns.roll(-1, 1) - turns).round()
    right = (turns.roll(-1, 2) - turns).round()
    # + 0 turns -0 into 0.
    return down - right - down.roll(-1, 2) + right.roll(-1, 1) + 0.0


def vortex_density(psi: Tensor, channel: int = 0) -> Tensor:
    """The fraction of plaquettes with a vortex of either sign, ``[B]``; see :func:`vortices`."""
    return vortices(psi, channel).abs().mean(dim=(1, 2))
