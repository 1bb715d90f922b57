"""Where the density is, and how wide, on a torus.

A row y becomes an angle ``2 pi y / H``, and the density's mean direction is taken: an ordinary
mean would depend on where the border happens to lie.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atheria_lab.observables._inputs import relative
from atheria_lab.observables.occupation import density


def centroid(psi: Tensor) -> Tensor:
    """The circular mean ``(y, x)`` of the density, in cells, ``[B, 2]``.

    Rows in ``[0, H)``, columns in ``[0, W)``:
    ``y = (H / 2 pi) arg sum_x rho(x) exp(2 pi i y / H)``, and x likewise. A density that is spread
    evenly along an axis has no middle there, nor has the empty lattice: NaN.

    Source: Bai & Breen, J. Graph. Tools 13(4) (2008) 53.
    """
    return centroid_of(density(psi))


def spread(psi: Tensor) -> Tensor:
    """The circular standard deviation ``(y, x)`` of the density, in cells, ``[B, 2]``.

    ``sigma_y = (H / 2 pi) sqrt(-2 ln R)`` with ``R = |sum rho exp(2 pi i y / H)| / sum rho``; it is
    exact for a (wrapped) Gaussian. Infinite where :func:`centroid` is NaN: the density is spread
    evenly, or empty. Widths below the root of the precision (1e-4 of the side in complex64) are
    rounding.

    Source: Mardia & Jupp, Directional Statistics (2000).
    """
    direction, sides = _direction(density(psi))
    length = torch.hypot(direction[..., 0], direction[..., 1]).clamp_max(1)
    width = (-2 * length.log()).clamp_min(0).sqrt() * sides / (2 * math.pi)
    return torch.where(_nowhere(length), torch.full_like(width, torch.inf), width)


def centroid_of(rho: Tensor) -> Tensor:
    """:func:`centroid` of a density ``[B, H, W]``."""
    direction, sides = _direction(rho)
    turn = torch.atan2(direction[..., 1], direction[..., 0]) / (2 * math.pi)
    place = (turn * sides).remainder(sides)
    # The remainder of a tiny negative number rounds to the side itself.
    place = torch.where(place == sides, torch.zeros_like(place), place)
    length = torch.hypot(direction[..., 0], direction[..., 1])
    return torch.where(_nowhere(length), torch.full_like(place, torch.nan), place)


def _direction(rho: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of ``(cos, sin)`` along both axes, ``[B, 2, 2]``, and the sides ``[2]``."""
    rho = relative(rho)
    means = []
    for marginal in (rho.mean(2), rho.mean(1)):
        side = marginal.shape[1]
        angle = torch.arange(side, dtype=rho.dtype, device=rho.device) * (2 * math.pi / side)
        circle = torch.stack([angle.cos(), angle.sin()], dim=-1)
        means.append(marginal @ circle / side)
    return torch.stack(means, dim=1), rho.new_tensor(rho.shape[1:])


def _nowhere(length: Tensor) -> Tensor:
    """A mean direction that is rounding alone."""
    return length < 8 * torch.finfo(length.dtype).eps
