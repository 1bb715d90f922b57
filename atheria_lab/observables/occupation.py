"""How much there is, and how it is shared out over the cells."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from atheria_lab import lattice
from atheria_lab._checks import integer, number
from atheria_lab.observables._inputs import relative, state
from atheria_lab.step import LatticeState, Step


def density(psi: Tensor) -> Tensor:
    """``rho(x) = sum_d |psi_d(x)|^2``, real ``[B, H, W]``; the empty lattice: 0."""
    return lattice.density(state(psi))


def mean_density(psi: Tensor) -> Tensor:
    """``(1/N) sum_x rho(x)``, the squared norm per cell, ``[B]``; the empty lattice: 0.

    The norms "lattice" and "cell" keep it at 1, so that under them it says nothing: see
    :func:`norm_before_normalisation`.
    """
    return density(psi).mean(dim=(1, 2))


def norm_before_normalisation(step: Step, current: Tensor | LatticeState, i: int = 0) -> Tensor:
    """The mean density that step ``i`` would reach if its norm did not bring it back to 1.

    ``(1/N) sum_x |(1 - gamma) psi(x) + M(psi)(x)|^2``: above 1 the law feeds the lattice, below it
    starves it, and the norm hides both. It makes a step of its own to find out.

    Args:
        step: with any norm; with "none" this is the density after the step.
        current: psi, or the :class:`LatticeState` of a recurrent law.
        i: index of the step, for the noise (which keeps every density) and ``reset_every``.

    Returns:
        ``[B]``; differentiable.
    """
    if not isinstance(step, Step):
        raise TypeError(f"step: got {type(step).__name__}; it takes a Step: Step(law, gamma=...).")
    bare = copy.copy(step)
    bare.norm = "none"
    after = bare(current, integer("i", i, least=0))
    return mean_density(after.psi if isinstance(after, LatticeState) else after)


def active_fraction(
    psi: Tensor, threshold: float = 0.1, *, relative_to_mean: bool = True
) -> Tensor:
    """The fraction of cells whose density is above a threshold, ``[B]``.

    ``(1/N) #{x: rho(x) > threshold * mean rho}``. For independent complex Gaussian amplitudes in
    one channel it is ``exp(-threshold)``. The empty lattice: 0.

    Args:
        psi: complex ``[B, H, W, d_state]``.
        threshold: at least 0.
        relative_to_mean: a threshold in units of the lattice's mean density; otherwise a
            density: then a state that fades is seen to.
    """
    threshold = number("threshold", threshold, least=0.0)
    rho = density(psi)
    if relative_to_mean:
        rho = relative(rho)
    mean = rho.mean(dim=(1, 2))
    active = (rho > threshold).to(rho.dtype).mean(dim=(1, 2))
    return torch.where(mean.isfinite(), active, torch.full_like(active, torch.nan))


def participation_ratio(psi: Tensor) -> Tensor:
    """The fraction of the cells that take part: ``(sum rho)^2 / (N sum rho^2)``, ``[B]``.

    1 where the density is flat, 1/N where one cell holds all. For independent complex Gaussian
    amplitudes its expectation is close to ``d / (d + 1)``, with d channels. The empty lattice: 0.

    Source: Bell & Dean, Discuss. Faraday Soc. 50 (1970) 55; here divided by N.
    """
    return participation(density(psi))


def participation(rho: Tensor) -> Tensor:
    """:func:`participation_ratio` of a density, or of any weights ``[B, H, W]``."""
    share = relative(rho)
    return share.mean(dim=(1, 2)) / share.square().mean(dim=(1, 2)).clamp_min(0.5)
