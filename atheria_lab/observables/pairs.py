"""How two states differ."""

from __future__ import annotations

import torch
from torch import Tensor

from atheria_lab import lattice
from atheria_lab._checks import number
from atheria_lab.observables._inputs import EMPTY, pair


def difference(a: Tensor, b: Tensor) -> Tensor:
    """``|a(x) - b(x)|``, the Euclidean distance in each cell, real ``[B, H, W]``."""
    a, b = pair(a, b)
    apart: Tensor = torch.linalg.vector_norm(_real(a - b), dim=(-2, -1))
    return apart


def distance(a: Tensor, b: Tensor) -> Tensor:
    """``sqrt(sum_x |a(x) - b(x)|^2)``, the Euclidean distance of the two lattices, ``[B]``."""
    a, b = pair(a, b)
    apart: Tensor = torch.linalg.vector_norm(_real(a - b), dim=(1, 2, 3, 4))
    return apart


def damage(a: Tensor, b: Tensor, threshold: float = 0.0) -> Tensor:
    """The fraction of damaged cells, ``[B]``.

    ``(1/N) #{x: |a(x) - b(x)| > threshold * max_x |a(x) - b(x)|}``. A threshold of 0 counts every
    cell that differs by a single bit, as for the discrete states of the source; above 0 it sees the
    shape of the damage, whatever its size. Equal states, empty or not: 0.

    Source: Stanley, Stauffer, Kertesz & Herrmann, Phys. Rev. Lett. 59 (1987) 2326.
    """
    threshold = number("threshold", threshold, least=0.0, most=1.0)
    damaged, unknown = damaged_cells(difference(a, b), threshold)
    return damaged.to(unknown.dtype).mean(dim=(1, 2)) + unknown


def damaged_cells(differences: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Which cells ``[B, H, W]`` are damaged; and ``[B]``: 0, or NaN where that is not known."""
    largest = differences.amax(dim=(1, 2))
    return differences > threshold * largest[:, None, None], 0 * largest


def fidelity(a: Tensor, b: Tensor) -> Tensor:
    """``F = |<a, b>|^2 / (<a, a> <b, b>)``, ``[B]``, in [0, 1].

    1 if the two are the same up to one complex factor, 0 if they are orthogonal. A unitary law
    keeps the fidelity of twins that start apart. (The echo of Peres, Phys. Rev. A 30 (1984) 1610,
    is the fidelity of one start under two slightly different laws: give this function their two
    states.) Both lattices empty: 1; only one of them: 0.
    """
    a, b = pair(a, b)
    return overlap(a, b, lattice.density(a), lattice.density(b))


def overlap(a: Tensor, b: Tensor, rho_a: Tensor, rho_b: Tensor) -> Tensor:
    """:func:`fidelity` of states whose densities are known."""
    norms = [rho.mean(dim=(1, 2)) for rho in (rho_a, rho_b)]
    share = torch.view_as_real((a.conj() * b).sum(-1).mean(dim=(1, 2)))
    # One norm at a time: their product, or the square first, would leave float32's range.
    for norm in norms:
        share = share / norm.clamp_min(EMPTY).sqrt()[:, None]
    value = share.square().sum(-1).clamp_max(1)
    empty = [norm < EMPTY for norm in norms]
    return torch.where(empty[0] | empty[1], (empty[0] & empty[1]).to(value.dtype), value)


def _real(psi: Tensor) -> Tensor:
    return torch.view_as_real(psi.resolve_conj())
