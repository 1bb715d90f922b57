"""Losses: what a trajectory is rated by.

A loss takes a :class:`Trajectory` and returns one real number, or that and a dict of metrics.
The named ones are in :data:`LOSSES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor, nn

from atheria_lab.lattice import Norm, density

Rated = Tensor | tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Trajectory(Sequence[Tensor]):
    """The saved states of a rollout, as a sequence of psi.

    Attributes:
        states: each complex ``[B, H, W, d_state]``.
        indices: how many steps each has behind it.
        norm: of the step that made them.
    """

    states: Sequence[Tensor]
    indices: Sequence[int]
    norm: Norm

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, place: int | slice) -> Tensor | Sequence[Tensor]:
        return self.states[place]

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.states)


Loss = Callable[[Trajectory], Rated]


def evolutionary(trajectory: Trajectory) -> Rated:
    """Survival, symmetry and complexity of the activity, averaged over the saved states.

    The *activity* of a cell is something that its norm leaves free: the density under
    "lattice" and "none"; under "cell", where the density is flat by construction, the
    disagreement with the neighbours, ``1 - Re <psi(x), psi(x + e)>`` averaged over both axes.

    - survival: the squared logarithm of the mean activity (it should stay near 1, neither die
      nor explode), plus that of the participation ratio ``(mean a)^2 / mean a^2`` over 1/3 (the
      activity should fill about a third of the lattice, neither one cell nor all).
    - symmetry: how far the activity is from its two mirror images,
      ``mean (a - mirror a)^2 / (2 var a)``: 0 for a symmetric picture, about 1 for noise.
    - complexity: minus the statistical complexity ``H D`` of the activity as a distribution over
      the cells, entropy (normalised) times disequilibrium (Lopez-Ruiz, Mancini & Calbet, Phys.
      Lett. A 209 (1995)), ``D`` scaled by the number of cells and squashed, ``D / (1 + D)``.
    """
    survival, symmetry, complexity = [], [], []
    for psi in trajectory:
        a = activity(psi, trajectory.norm)
        mean = a.mean(dim=(1, 2)).clamp_min(1e-12)
        variance = a.var(dim=(1, 2), correction=0)
        participation = mean.square() / a.square().mean(dim=(1, 2)).clamp_min(1e-24)
        survival.append(mean.log().square() + (3 * participation.clamp_min(1e-12)).log().square())

        mirrored = (a - a.flip(1)).square() + (a - a.flip(2)).square()
        symmetry.append(mirrored.mean(dim=(1, 2)) / (4 * variance + 1e-12))

        cells = a.shape[1] * a.shape[2]
        share = (a / (mean * cells)[:, None, None]).clamp_min(1e-20)
        entropy = -(share * share.log()).sum(dim=(1, 2)) / math.log(max(cells, 2))
        disequilibrium = variance / mean.square()
        complexity.append(-entropy * disequilibrium / (1 + disequilibrium))
    metrics = {
        "survival": torch.stack(survival).mean(),
        "symmetry": torch.stack(symmetry).mean(),
        "complexity": torch.stack(complexity).mean(),
    }
    return metrics["survival"] + metrics["symmetry"] + metrics["complexity"], metrics


def structure(trajectory: Trajectory) -> Rated:
    """Minus the share of the activity's power at middle wavelengths, in the final state.

    The power spectrum of the activity (without its mean) is split at wavelengths of 4 and of 16
    cells; the loss is minus the share between. Patterns of that scale lower it; a contrast below
    1e-5 of the mean counts as flat.
    """
    a = activity(trajectory[-1], trajectory.norm)
    power = torch.fft.fft2(a - a.mean(dim=(1, 2), keepdim=True)).abs().square()
    ky = torch.fft.fftfreq(a.shape[1], dtype=a.dtype, device=a.device)
    kx = torch.fft.fftfreq(a.shape[2], dtype=a.dtype, device=a.device)
    k = (ky[:, None].square() + kx[None, :].square()).sqrt()
    ring = (k >= 1 / 16) & (k <= 1 / 4)
    rounding = 1e-10 * a.sum(dim=(1, 2)).square() + 1e-12
    share = (power * ring).sum(dim=(1, 2)) / (power.sum(dim=(1, 2)) + rounding)
    return -share.mean(), {"ring_share": share.mean()}


def energy(trajectory: Trajectory) -> Rated:
    """The squared distance of the final mean density from 1.

    Only the norm "none" leaves that free: under "lattice" and "cell" the density's mean is 1 by
    construction, the loss is constant, and the trainer refuses it.
    """
    mean = density(trajectory[-1]).mean(dim=(1, 2))
    return (mean - 1).square().mean(), {"energy": mean.mean()}


LOSSES: dict[str, Loss] = {
    "evolutionary": evolutionary,
    "structure": structure,
    "energy": energy,
}


def activity(psi: Tensor, norm: Norm) -> Tensor:
    """What a norm leaves free to vary from cell to cell: real ``[B, H, W]``, at least 0."""
    if norm != "cell":
        return density(psi)
    cells = torch.view_as_real(psi)
    neighbours = cells.roll(1, 1) + cells.roll(1, 2)
    agreement = (cells * neighbours).sum(dim=(-2, -1))
    return (1 - agreement / 2).clamp_min(0)


def find_loss(loss: str | Loss, norm: Norm | None, law: nn.Module) -> Loss:
    """The loss of a name, or the callable itself.

    Raises:
        TypeError: neither a name nor callable.
        ValueError: an unknown name, or a loss that is constant under this norm and law.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss: got {loss!r}; it takes a name or a function of the trajectory.")
    if loss not in LOSSES:
        raise ValueError(
            f"loss: got {loss!r}; it takes one of {', '.join(map(repr, LOSSES))}, or a function "
            "of the trajectory."
        )
    unitary = getattr(law, "unitary", False)
    if loss == "energy" and (norm != "none" or unitary):
        kept = "a unitary law" if unitary else f'the norm "{norm or "lattice"}"'
        raise ValueError(
            f'loss: "energy" is constant under {kept}, which keeps the total energy, so there is '
            'nothing to learn. Take norm="none" with a law that is not unitary, or another loss.'
        )
    return LOSSES[loss]
