"""Twins: two trajectories that start a little apart, and what becomes of the difference."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atheria_lab._checks import integer, number
from atheria_lab.lattice import density
from atheria_lab.noise import derive_seed
from atheria_lab.observables._inputs import EMPTY
from atheria_lab.observables.pairs import damaged_cells, difference, distance, fidelity
from atheria_lab.rollout.randomness import RandomState, cuda_devices
from atheria_lab.step import LatticeState, Step

Place = int | slice
Region = tuple[Place, Place]
EVERYWHERE: Region = (slice(None), slice(None))


class TwinMoment(NamedTuple):
    """The twins after some steps. Tensors ``[B]``, on their device, unless said otherwise.

    Attributes:
        step: steps made since the start.
        distance: Euclidean, of the two psi as they are, before any renormalisation.
        log_growth: ``ln(distance / distance at the start)``, as if nothing had been renormalised.
        damage: fraction of cells that differ by more than the threshold.
        fidelity: see :func:`~atheria_lab.observables.fidelity`.
        front: cells from the region to the farthest damaged cell, rows or columns, whichever is
            more; 0 where nothing is damaged.
        psi: one twin, ``[B, H, W, d_state]``, not a copy.
        other: the other, likewise.
    """

    step: int
    distance: Tensor
    log_growth: Tensor
    damage: Tensor
    fidelity: Tensor
    front: Tensor
    psi: Tensor
    other: Tensor


def follow_twins(
    step: Step | nn.Module,
    start: Tensor | LatticeState,
    *,
    epsilon: float | None = None,
    region: Region | None = None,
    threshold: float = 0.01,
    renormalise_every: int | None = None,
    seed: int = 0,
    first_step: int = 0,
) -> Iterator[TwinMoment]:
    """Two trajectories side by side, without gradients, a :class:`TwinMoment` after each step.

    It never ends, and holds two states however long it goes. The first moment is the start. Both
    twins see the same noise; a law that draws random numbers of torch's own draws the same ones.

    Args:
        step: a :class:`Step`, or a law, which is then stepped as ``Step(law)`` does.
        start: psi, or the :class:`LatticeState` from which a recurrent law goes on.
        epsilon: the kick: random, complex Gaussian, in the region's cells, of this part of the
            lattice's root mean square amplitude in each of them (on average; of 1 in an empty
            lattice). ``None``: the root of the precision, 3.5e-4 or 1.5e-8, in the middle between
            curvature and rounding.
        region: rows and columns that are kicked, whole numbers or slices, such as
            ``(32, slice(0, 8))``. ``None``: one cell in the middle.
        threshold: a cell counts as damaged past this part of the largest difference of any cell,
            0 to 1. With 0 a single bit counts: the light cone is sharp, but the norm "lattice",
            which multiplies all cells by one number, then damages all of them at once.
        renormalise_every: after so many steps the twin is drawn back along the difference to the
            distance of the start, so that it stays small for ever (Benettin et al., Meccanica 15
            (1980) 9); its hidden tensors (batch first) too, by the same factor. ``None``: never.
        seed: of the kick.
        first_step: index of the first step, for noise and ``reset_every``; of an engine that goes
            on, its ``steps_done``.

    Raises:
        TypeError: an argument is something else.
        ValueError: NaN in psi, limits out of range, a region without cells.
    """
    step = step if isinstance(step, Step) else Step(step)
    initial = step.initial(start.psi if isinstance(start, LatticeState) else start)
    if isinstance(start, LatticeState):
        initial = start
    psi = initial.psi.detach()
    if epsilon is None:
        epsilon = torch.finfo(psi.dtype).eps ** 0.5
    if number("epsilon", epsilon, least=0.0) == 0:
        raise ValueError("epsilon: got 0; it takes a positive number, or None.")
    number("threshold", threshold, least=0.0, most=1.0)
    if renormalise_every is not None:
        integer("renormalise_every", renormalise_every)
    integer("first_step", first_step, least=0)
    away = cells_from(region, psi)
    # Not the seed itself: lattice.random draws its states from that, and a kick along psi is none.
    generator = torch.Generator().manual_seed(derive_seed(integer("seed", seed, least=0), 1))
    kick = torch.randn(psi.shape, dtype=psi.dtype, generator=generator).to(psi.device)
    amplitude = density(psi).mean(dim=(1, 2)) / psi.shape[-1]
    amplitude = torch.where(amplitude < EMPTY, torch.ones_like(amplitude), amplitude).sqrt()
    kick = kick * (epsilon * amplitude)[:, None, None, None] * (away == 0)[None, :, :, None]
    if not bool((distance(psi, psi + kick) > 0).all()):
        raise ValueError(
            f"epsilon: got {epsilon:g}, which is lost in the rounding of {psi.dtype}; take more, "
            "or None."
        )
    twins = (LatticeState(psi, initial.hidden), LatticeState(psi + kick, initial.hidden))
    return _follow(step, twins, away, threshold, renormalise_every, first_step)


def _follow(
    step: Step,
    twins: tuple[LatticeState, LatticeState],
    away: Tensor,
    threshold: float,
    renormalise_every: int | None,
    first_step: int,
) -> Iterator[TwinMoment]:
    one, other = twins
    at_first = unit = distance(one.psi, other.psi)
    grown = torch.zeros_like(unit)
    for made in count():
        # No context is left open while the caller has its turn.
        with torch.no_grad():
            if made:
                one, other = _together(step, one, other, first_step + made - 1)
            apart = distance(one.psi, other.psi)
            log_growth = torch.where(apart == 0, -torch.inf, grown + (apart / unit).log())
            damaged, unknown = damaged_cells(difference(one.psi, other.psi), threshold)
            front = torch.where(damaged, away, 0).amax(dim=(1, 2)) + unknown
            share = damaged.to(unknown.dtype).mean(dim=(1, 2)) + unknown
            moment = TwinMoment(
                made, apart, log_growth, share, fidelity(one.psi, other.psi), front,
                one.psi, other.psi,
            )  # fmt: skip
        yield moment
        if renormalise_every is not None and made and made % renormalise_every == 0:
            with torch.no_grad():
                factor = torch.where(apart > 0, at_first / apart, 0)
                other = _closer(one, other, factor)
                # Not the distance of the start: what rounding makes of it.
                grown, unit = log_growth, distance(one.psi, other.psi)


def _together(
    step: Step, one: LatticeState, other: LatticeState, i: int
) -> tuple[LatticeState, LatticeState]:
    """Both after step ``i``, torch's own random numbers the same in both."""
    devices = cuda_devices([one.psi])
    draws = RandomState.capture(devices)
    after = step(one, i)
    draws.restore()
    return after, step(other, i)


def _closer(one: LatticeState, other: LatticeState, factor: Tensor) -> LatticeState:
    """``one + factor (other - one)``, lattice by lattice."""

    def between(a: Tensor, b: Tensor) -> Tensor:
        return a + factor.reshape(-1, *[1] * (a.dim() - 1)) * (b - a)

    hidden = tuple(map(between, one.hidden, other.hidden))
    return LatticeState(between(one.psi, other.psi), hidden)


def cells_from(region: Region | None, psi: Tensor) -> Tensor:
    """How many rows or columns, whichever is more, each cell is from the region, ``[H, W]``."""
    height, width = psi.shape[1:3]
    if region is None:
        region = (height // 2, width // 2)
    if not isinstance(region, tuple) or len(region) != 2:
        raise TypeError(
            f"region: got {region!r}; it takes (rows, columns), each a whole number or a slice."
        )
    rows, columns = (
        _cells_along(place, side, psi.device)
        for place, side in zip(region, (height, width), strict=True)
    )
    return torch.maximum(rows[:, None], columns[None, :])


def _cells_along(place: Any, side: int, device: torch.device) -> Tensor:
    """The shortest way round the circle from each cell to the chosen ones, ``[side]``."""
    if isinstance(place, slice):
        chosen = range(side)[place]
    else:
        chosen = range(side)[integer("region", place, least=-side) :][:1]
    if not chosen:
        raise ValueError(f"region: {place!r} has no cell of a side of {side}.")
    cells = torch.arange(side, device=device)
    away = (cells - torch.tensor(list(chosen), device=device)[:, None]).abs()
    return torch.minimum(away, side - away).amin(0)
