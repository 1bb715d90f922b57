"""The waves that a state is made of, and how far it keeps its phase."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from atheria_lab import lattice
from atheria_lab.observables._inputs import state
from atheria_lab.observables.occupation import participation


def structure_factor(psi: Tensor, of: Literal["psi", "density"] = "psi") -> Tensor:
    """The power of each wave, ``S(k)``, ``[B, H, W]`` in the order of ``torch.fft.fftfreq``.

    ``"psi"``: ``S(k) = (1/N) sum_d |sum_x psi_d(x) exp(-i k x)|^2``. Its mean over k is the mean
    density (Parseval). Independent amplitudes: flat on average; a plane wave: N times the density
    at its own k.
    ``"density"``: ``S(k) = (1/N) |sum_x (rho(x) - mean rho) exp(-i k x)|^2``, the static structure
    factor of the density; its mean over k is the variance of rho.

    The empty lattice: 0. Source: Chaikin & Lubensky, Principles of Condensed Matter Physics (1995).
    """
    state(psi)
    if of == "psi":
        waves = torch.fft.fft2(psi, dim=(1, 2), norm="ortho")
        return lattice.density(waves)
    if of == "density":
        rho = lattice.density(psi)
        waves = torch.fft.fft2(rho - rho.mean(dim=(1, 2), keepdim=True), norm="ortho")
        return lattice.density(waves.unsqueeze(-1))
    raise ValueError(f"of: got {of!r}; it takes 'psi' or 'density'.")


def radial_average(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """A spectrum ``[B, H, W]`` averaged over the directions of k.

    Shells are as wide as the finest wave number, 1 over the longer side.

    Returns:
        The mean wave number of each shell in waves per cell ``[K]`` (1 / wavelength), and the mean
        of the spectrum there ``[B, K]``.
    """
    if not isinstance(spectrum, Tensor) or spectrum.dim() != 3 or not spectrum.is_floating_point():
        got = tuple(spectrum.shape) if isinstance(spectrum, Tensor) else type(spectrum).__name__
        raise ValueError(
            f"spectrum: got {got}; it takes real numbers [B, H, W], as structure_factor returns."
        )
    height, width = spectrum.shape[1:]
    k_y, k_x = (
        torch.fft.fftfreq(side, dtype=spectrum.dtype, device=spectrum.device)
        for side in (height, width)
    )
    k = torch.hypot(k_y[:, None], k_x[None, :]).flatten()
    shell = (k * max(height, width)).round().long()
    # Known from the sides alone, so that no device is waited for.
    longest = ((height // 2 / height) ** 2 + (width // 2 / width) ** 2) ** 0.5
    shells = round(longest * max(height, width)) + 1
    shell.clamp_(max=shells - 1)
    # Rows: how many cells a shell has, the sum of their k, and of each lattice's spectrum.
    rows = torch.cat([torch.stack([torch.ones_like(k), k]), spectrum.flatten(1)])
    sums = rows.new_zeros(len(rows), shells).index_add(1, shell, rows)
    means = sums[1:] / sums[0]
    return means[0], means[1:]


def coherence_length(psi: Tensor) -> Tensor:
    """How far the field stays in phase with itself, in cells, ``[B]``.

    ``xi = sqrt(sum_r |g(r)|^2)``, the side of the coherence area, with the correlation
    ``g(r) = sum_x <psi(x), psi(x + r)> / sum_x rho(x)``. By Parseval ``xi^2 = N sum_k S(k)^2 /
    (sum_k S(k))^2``: N over the number of waves that take part.

    A plane wave: ``sqrt(N)``, the whole lattice. One cell, or noise: near 1; independent complex
    Gaussian amplitudes: ``sqrt(1 + 1/d_state)``, since one sample of noise has correlations by
    chance. A Gaussian packet whose density has the width w: ``2 sqrt(pi) w``. The empty lattice: 0.

    Source: the coherence area of Goodman, Statistical Optics (1985), there for an ensemble, here
    for one state.
    """
    share = participation(structure_factor(psi))
    # An empty lattice has no waves, and no length.
    return torch.where(share == 0, share, share.clamp_min(1e-30).rsqrt())
