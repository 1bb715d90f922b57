"""A handful of numbers for the live curves of a bench."""

from __future__ import annotations

import torch
from torch import Tensor

from atheria_lab import lattice
from atheria_lab.observables._inputs import pair, relative, state
from atheria_lab.observables.information import (
    binned_information,
    entropy_over_cells,
    entropy_over_channels,
    power,
)
from atheria_lab.observables.occupation import participation
from atheria_lab.observables.pairs import distance, overlap
from atheria_lab.observables.phases import vortex_density
from atheria_lab.observables.position import centroid_of


def summary(psi: Tensor, previous: Tensor | None = None) -> dict[str, float]:
    """The observables that are cheap enough for every frame, as floats, under their own names.

    Each is the mean over the batch, with its own function's defaults; ``centroid_y`` and
    ``centroid_x`` are those of the batch's mean density. One wait for the device in all, no
    gradient.

    Args:
        psi: complex ``[B, H, W, d_state]``.
        previous: an earlier state; adds ``distance``, ``fidelity`` and ``mutual_information`` (of
            the densities) between then and now.
    """
    with torch.no_grad():
        powers = power(state(psi))
        rho = powers.sum(-1)
        centroid = centroid_of(rho.mean(0, keepdim=True))[0]
        share = relative(rho)
        values = {
            "mean_density": rho.mean(dim=(1, 2)),
            "active_fraction": (share > 0.1).to(rho.dtype).mean(dim=(1, 2)) + 0 * share.sum((1, 2)),
            "participation_ratio": participation(rho),
            "spatial_entropy": entropy_over_cells(rho),
            "channel_entropy": entropy_over_channels(powers),
            "vortex_density": vortex_density(psi),
            "centroid_y": centroid[0],
            "centroid_x": centroid[1],
        }
        if previous is not None:
            pair(psi, previous)
            values["distance"] = distance(psi, previous)
            rho_before = lattice.density(previous)
            values["fidelity"] = overlap(psi, previous, rho, rho_before)
            values["mutual_information"] = binned_information(
                rho, rho_before, bins=8, corrected=True
            )
        numbers = torch.stack([value.mean() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))
