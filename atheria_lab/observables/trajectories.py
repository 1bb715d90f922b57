"""What twins tell: Lyapunov exponent, front speed, damage, fidelity."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from atheria_lab._checks import integer
from atheria_lab.observables.following import EVERYWHERE, Region, cells_from, follow_twins
from atheria_lab.step import LatticeState, Step


@dataclass(frozen=True, repr=False)
class TwinRun:
    """What :func:`twins` measured; ``[steps + 1, B]`` on the CPU, from the start on.

    Attributes:
        distance: Euclidean distance of the two psi, before any renormalisation.
        log_growth: ``ln(distance / distance at the start)``, as if nothing had been renormalised.
        damage: fraction of cells that differ by more than the threshold.
        fidelity: see :func:`~atheria_lab.observables.fidelity`.
        front: cells from the region to the farthest damaged cell.
        farthest: cells from the region to the farthest cell of the lattice: where fronts end.
        radius: cells of influence in one step, as the law says; ``None`` if it does not.
    """

    distance: Tensor
    log_growth: Tensor
    damage: Tensor
    fidelity: Tensor
    front: Tensor
    farthest: int
    radius: int | None

    @property
    def steps(self) -> int:
        """Steps that were made."""
        return len(self.front) - 1

    def lyapunov(self, transient: int = 0) -> Tensor:
        """The largest Lyapunov exponent, per step, ``[B]``.

        ``lambda = (1 / t) ln(|delta(t0 + t)| / |delta(t0)|)``: positive for chaos, 0 for a unitary
        law, ``-inf`` where the twins became one. It is the exponent of a small difference only
        while the difference is small: see ``renormalise_every``.

        Args:
            transient: steps t0 that are left out, until the difference has turned into the
                direction that grows fastest.

        Source: Benettin, Galgani, Giorgilli & Strelcyn, Meccanica 15 (1980) 9; of cellular
        automata: Bagnoli, Rechtman & Ruffo, Phys. Lett. A 172 (1992) 34.
        """
        if integer("transient", transient, least=0) >= self.steps:
            raise ValueError(f"transient: got {transient}; the run has {self.steps} steps.")
        growth = self.log_growth[-1] - self.log_growth[transient]
        merged = torch.full_like(growth, -torch.inf)
        return torch.where(self.log_growth[-1] == merged, merged, growth / (self.steps - transient))

    def front_speed(self) -> Tensor:
        """Cells a step, ``[B]``: the line through the start that fits the front best.

        ``v = sum t f(t) / sum t^2`` over the steps before the front is at the farthest cell; NaN
        where the first step takes it there. Through the start, so that a front inside the light
        cone (``f(t) <= radius t``) never has a speed beyond ``radius``.
        """
        t = torch.arange(self.steps + 1, dtype=self.front.dtype)[:, None]
        free = (self.front.cummax(0).values < self.farthest) | self.front.isnan()
        return (t * self.front * free).sum(0) / (t.square() * free).sum(0)

    @property
    def within_light_cone(self) -> Tensor | None:
        """Whether no front was ever beyond ``radius`` cells a step, ``[B]``; ``None``: not known.

        A local law has a strict cone, where a quantum lattice with a Hamiltonian has one up to
        exponentially small tails (Lieb & Robinson, Commun. Math. Phys. 28 (1972) 251). The norm
        "lattice" adds one number that all cells share: a tail of the size of the kick over the
        number of cells, which a threshold above it does not see.
        """
        if self.radius is None:
            return None
        t = torch.arange(self.steps + 1)[:, None]
        return (self.front <= self.radius * t).all(0)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for reading."""
        cone = "" if self.radius is None else f" (light cone: {self.radius})"
        exponent = _listed(self.lyapunov()) if self.steps else "after the first step"
        return [
            ("steps", str(self.steps)),
            ("Lyapunov exponent per step", exponent),
            ("front speed, cells a step", _listed(self.front_speed()) + cone),
            ("damage, fraction of cells", _listed(self.damage[-1])),
            ("distance", _listed(self.distance[-1])),
            ("fidelity", _listed(self.fidelity[-1])),
        ]

    def __repr__(self) -> str:
        return f"TwinRun({', '.join(f'{name}: {value}' for name, value in self.rows())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td>{html.escape(value)}</td></tr>"
            for name, value in self.rows()
        )
        return f"<table>{rows}</table>"


def twins(
    step: Step | nn.Module,
    start: Tensor | LatticeState,
    steps: int,
    *,
    epsilon: float | None = None,
    region: Region | None = None,
    threshold: float = 0.01,
    renormalise_every: int | None = None,
    seed: int = 0,
    first_step: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TwinRun:
    """:func:`follow_twins` for so many steps, its curves kept: five numbers a step and lattice.

    Args:
        step: a :class:`Step`, or a law.
        start: psi, or a :class:`LatticeState`.
        steps: at least 0.
        epsilon: size of the kick.
        region: rows and columns that are kicked; ``None``: one cell in the middle.
        threshold: of damage, as part of the largest difference.
        renormalise_every: keeps the difference small, for the Lyapunov exponent.
        seed: of the kick.
        first_step: index of the first step.
        progress: called with the steps made and all steps.

    Example:
        >>> run = twins(law, lattice.random(64, 8), 100)
        >>> run.front_speed(), law.radius
    """
    integer("steps", steps, least=0)
    step = step if isinstance(step, Step) else Step(step)
    moments = follow_twins(
        step,
        start,
        epsilon=epsilon,
        region=region,
        threshold=threshold,
        renormalise_every=renormalise_every,
        seed=seed,
        first_step=first_step,
    )
    curves = []
    for moment in islice(moments, steps + 1):
        curves.append(
            torch.stack(
                [moment.distance, moment.log_growth, moment.damage, moment.fidelity, moment.front]
            )
        )
        if progress is not None:
            progress(moment.step, steps)
    series = torch.stack(curves, dim=1).cpu()
    psi = start.psi if isinstance(start, LatticeState) else start
    farthest = int(cells_from(region, psi).max())
    apart, log_growth, damage, fidelity, front = series
    return TwinRun(apart, log_growth, damage, fidelity, front, farthest, _radius(step.law))


def lyapunov_exponent(
    step: Step | nn.Module,
    start: Tensor | LatticeState,
    steps: int = 200,
    *,
    transient: int = 50,
    renormalise_every: int = 5,
    epsilon: float | None = None,
    seed: int = 0,
) -> Tensor:
    """The largest Lyapunov exponent, per step, ``[B]``, from twins kicked in every cell.

    Args:
        step: a :class:`Step`, or a law.
        start: psi, or a :class:`LatticeState`.
        steps: in all; the more, the better the average.
        transient: steps of these that are left out at the start.
        renormalise_every: steps between renormalisations; fewer where a law is strongly chaotic.
        epsilon: size of the kick, see :func:`follow_twins`.
        seed: of the kick.

    Source: see :meth:`TwinRun.lyapunov`.
    """
    if integer("transient", transient, least=0) >= integer("steps", steps):
        raise ValueError(f"transient: got {transient}; it takes less than steps ({steps}).")
    run = twins(
        step,
        start,
        steps,
        region=EVERYWHERE,
        epsilon=epsilon,
        renormalise_every=renormalise_every,
        seed=seed,
    )
    return run.lyapunov(transient)


def _radius(law: nn.Module) -> int | None:
    try:
        radius = getattr(law, "radius", None)
    except NotImplementedError:
        return None
    return radius if isinstance(radius, int) else None


def _listed(values: Tensor) -> str:
    """The first few values of a batch."""
    shown = ", ".join(f"{value:.4g}" for value in values[:4].tolist())
    return shown + (", …" if len(values) > 4 else "")
