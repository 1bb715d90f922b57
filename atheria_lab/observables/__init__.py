"""What a researcher measures of a state, of two states, and of two trajectories.

Every function takes psi, complex ``[B, H, W, d_state]``, on any device, and returns a value for
each lattice of the batch (or a map), on that device, without waiting for it. What is made of
sums is differentiable; what counts (bins, windings, damaged cells) is not.

Two rules hold for all of them:

- **An empty lattice** (mean density below 1e-30) has the values that its docstring names.
- **NaN and infinity** are not refused: a run that blew up is worth seeing. They make the values
  of their own lattice NaN, never a number that looks right, and leave the rest of the batch alone.
"""

from atheria_lab.observables.curves import summary
from atheria_lab.observables.following import TwinMoment, follow_twins
from atheria_lab.observables.information import (
    channel_entropy,
    mutual_information,
    spatial_entropy,
)
from atheria_lab.observables.occupation import (
    active_fraction,
    density,
    mean_density,
    norm_before_normalisation,
    participation_ratio,
)
from atheria_lab.observables.pairs import damage, difference, distance, fidelity
from atheria_lab.observables.phases import vortex_density, vortices
from atheria_lab.observables.position import centroid, spread
from atheria_lab.observables.spectrum import coherence_length, radial_average, structure_factor
from atheria_lab.observables.trajectories import TwinRun, lyapunov_exponent, twins

__all__ = [
    "TwinMoment",
    "TwinRun",
    "active_fraction",
    "centroid",
    "channel_entropy",
    "coherence_length",
    "damage",
    "density",
    "difference",
    "distance",
    "fidelity",
    "follow_twins",
    "lyapunov_exponent",
    "mean_density",
    "mutual_information",
    "norm_before_normalisation",
    "participation_ratio",
    "radial_average",
    "spatial_entropy",
    "spread",
    "structure_factor",
    "summary",
    "twins",
    "vortex_density",
    "vortices",
]
