"""Shannon entropies and the mutual information of two times, all in nats.

They are entropies of densities, as distributions over channels or cells. None of them measures
quantum correlations between cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atheria_lab import lattice
from atheria_lab._checks import integer
from atheria_lab.observables._inputs import EMPTY, entropy, relative, state
from atheria_lab.observables.occupation import density


def channel_entropy(psi: Tensor) -> Tensor:
    """The Shannon entropy of each cell's shares of its channels, in nats, ``[B, H, W]``.

    ``H(x) = -sum_d p_d ln p_d`` with ``p_d = |psi_d(x)|^2 / rho(x)``: 0 where one channel holds
    all, ``ln d_state`` where all are equal. For independent complex Gaussian amplitudes its
    expectation is ``1/2 + 1/3 + ... + 1/d_state``. An empty cell: 0.

    Source: Shannon, Bell Syst. Tech. J. 27 (1948) 379.
    """
    return entropy_over_channels(power(state(psi)))


def power(psi: Tensor) -> Tensor:
    """``|psi_d(x)|^2``, real ``[B, H, W, d_state]``."""
    parts = torch.view_as_real(psi.resolve_conj()).square()
    return parts[..., 0] + parts[..., 1]  # a sum over a side of 2 takes 9 times as long


def entropy_over_channels(power: Tensor) -> Tensor:
    """:func:`channel_entropy` of the powers ``[B, H, W, d_state]``."""
    rho = power.sum(dim=-1, keepdim=True)
    value = entropy(power / rho.clamp_min(EMPTY), (-1,))
    return torch.where(rho.squeeze(-1) < EMPTY, torch.zeros_like(value), value)


def spatial_entropy(psi: Tensor) -> Tensor:
    """The Shannon entropy of the density as a distribution over the cells, in nats, ``[B]``.

    ``S = -sum_x p(x) ln p(x)`` with ``p(x) = rho(x) / sum rho``: ``ln N`` where the density is
    flat, 0 where one cell holds all; ``exp(S)`` is an effective number of cells. For independent
    complex Gaussian amplitudes its expectation is ``digamma(d N + 1) - digamma(d + 1)``, with N
    cells of d channels. The empty lattice: 0.

    Source: Shannon, Bell Syst. Tech. J. 27 (1948) 379.
    """
    return entropy_over_cells(density(psi))


def entropy_over_cells(rho: Tensor) -> Tensor:
    """:func:`spatial_entropy` of a density ``[B, H, W]``."""
    return entropy(relative(rho) / rho[0].numel(), (1, 2))


def mutual_information(a: Tensor, b: Tensor, *, bins: int = 8, corrected: bool = True) -> Tensor:
    """What a cell's value in one state tells about its value in the other, in nats, ``[B]``.

    ``I = sum_ij p_ij ln(p_ij / (p_i p_j))``, with ``p_ij`` the fraction of cells whose value lies
    in bin i of ``a`` and in bin j of ``b``; the bins are equal parts of each map's own range. For
    ``a is b`` it is the entropy of the binned values; a flat map has one bin, and tells nothing.

    The estimate from N cells is biased upwards, by about ``(K_ij - K_i - K_j + 1) / 2N`` with K the
    numbers of occupied bins (Miller 1955; Roulston, Physica D 125 (1999) 285), which is taken off:
    independent states then give 0 on average, and single values may be a little negative. The
    correction is good for ``N >> bins^2``; correlated neighbours make N smaller than it looks
    (Paninski, Neural Comput. 15 (2003) 1191, on what is left). Finer methods need no bins (Kraskov,
    Stoegbauer & Grassberger, Phys. Rev. E 69 (2004) 066138).

    Args:
        a: psi, whose density is then taken, or any real map ``[B, H, W]`` of your own, such as
            ``lattice.phase(psi)`` (the norm "cell" leaves no density to look at).
        b: the same of another time.
        bins: of each map, at least 2.
        corrected: take the bias off.

    Returns:
        ``[B]``; the empty lattice: 0.
    """
    bins = integer("bins", bins, least=2)
    first, second = _map(a, "a"), _map(b, "b")
    if first.shape != second.shape:
        raise ValueError(
            f"b: got a map of {tuple(second.shape)}, but a has one of {tuple(first.shape)}; the "
            "two are compared cell by cell."
        )
    return binned_information(first, second, bins, corrected)


def binned_information(a: Tensor, b: Tensor, bins: int, corrected: bool) -> Tensor:
    """:func:`mutual_information` of two real maps ``[B, H, W]``."""
    batch, cells = a.shape[0], a[0].numel()
    (i, a_known), (j, b_known) = _bins(a, bins), _bins(b, bins)
    lattices = torch.arange(batch, device=a.device)[:, None]
    joint = ((lattices * bins + i) * bins + j).flatten()
    counts = torch.bincount(joint, minlength=batch * bins**2).reshape(batch, bins, bins)
    p = counts.to(a.dtype) / cells
    value = entropy(p.sum(2), (1,)) + entropy(p.sum(1), (1,)) - entropy(p, (1, 2))
    if corrected:
        occupied = counts > 0
        rows, columns = occupied.any(2).sum(1), occupied.any(1).sum(1)
        value = value - (occupied.sum(dim=(1, 2)) - rows - columns + 1) / (2 * cells)
    return torch.where(a_known & b_known, value, torch.full_like(value, torch.nan))


def _map(values: Tensor, name: str) -> Tensor:
    if not isinstance(values, Tensor) or values.is_complex():
        return lattice.density(state(values, name)).detach()
    if not values.is_floating_point() or values.dim() != 3 or values.numel() == 0:
        raise ValueError(
            f"{name}: got {values.dtype} of shape {tuple(values.shape)}; it takes psi, complex "
            "[B, H, W, d_state], or a real map [B, H, W]."
        )
    return values.detach()


def _bins(values: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The bin of each cell ``[B, N]``, and whether a lattice's values are all known ``[B]``."""
    values = values.flatten(1)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    span = high - low
    # What differs by rounding alone is flat.
    rounding = 8 * torch.finfo(values.dtype).eps * torch.maximum(low.abs(), high.abs())
    place = ((values - low) / torch.where(span > rounding, span, torch.inf) * bins).nan_to_num(0)
    return place.long().clamp(0, bins - 1), span.isfinite().squeeze(1)
