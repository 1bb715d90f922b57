"""Which plan fits a budget, and what each would cost."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from atheria_lab._checks import integer
from atheria_lab.memory import format_seconds, format_size, parse_size
from atheria_lab.memory.owners import PROBE, work
from atheria_lab.rollout import fake
from atheria_lab.rollout.cost import LossCost, StepCost, measure_loss, measure_step
from atheria_lab.rollout.execute import check_plan, check_save_at, kept_indices
from atheria_lab.rollout.plans import Binomial, Plan, Reversible, Segmented, StoreAll, Truncated
from atheria_lab.rollout.predict import Job, largest_binomial, peak_bytes, seconds
from atheria_lab.rollout.randomness import cuda_devices
from atheria_lab.rollout.saveat import SaveAt
from atheria_lab.rollout.stepper import StepFunction, Stepper


class BudgetError(ValueError):
    """No exact plan stays within the budget.

    Attributes:
        smallest_bytes: the least budget that would do.
    """

    def __init__(self, message: str, smallest_bytes: int) -> None:
        super().__init__(message)
        self.smallest_bytes = smallest_bytes


@dataclass(frozen=True)
class PlanCost:
    """What one plan would cost.

    Attributes:
        plan: it.
        peak_bytes: what the rollout would add at its peak, in tensors.
        needs_bytes: the same with what operators take inside, on the CPU: this must fit.
        seconds: how long forward and backward would take, without the loss.
        forward_steps: how often the step would be made; a table shows it as work, in
            multiples of the rollout's steps.
        fits: it stays within the budget; ``None`` without a budget.
    """

    plan: Plan
    peak_bytes: int
    needs_bytes: int
    seconds: float
    forward_steps: int
    fits: bool | None


@dataclass(frozen=True)
class RolloutPlan:
    """Every plan for one rollout, and the one to take: the fastest exact one that fits.

    Attributes:
        chosen: the cost of that one.
        costs: of all that were looked at, the fastest first.
        budget: bytes, or ``None``.
        smallest_bytes: the least budget that an exact plan could meet.
        steps: of the rollout.
        cost: of one step.
        loss: the cost of the loss.
        assumptions: under which it holds, where no step was run: for a device that is not here.
    """

    chosen: PlanCost
    costs: tuple[PlanCost, ...]
    budget: int | None
    smallest_bytes: int
    steps: int
    cost: StepCost
    loss: LossCost
    assumptions: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """The plan to take."""
        return self.chosen.plan

    @property
    def predicted_bytes(self) -> int:
        """What the rollout adds at its peak under that plan."""
        return self.chosen.peak_bytes

    def __repr__(self) -> str:
        lines = [self._title()]
        rows = [_HEADER, *(self._row(cost) for cost in self.costs)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
        for row in rows:
            left = f"{row[0]:1} {row[1]:<{widths[1]}}"
            right = (f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True))
            lines.append(f"  {left}  {'  '.join(right)}")
        lines += [f"  assumed: {text}" for text in self.assumptions]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:right'>{name}</th>" for name in _HEADER)
        body = "".join(
            f'<tr style="font-weight:{"600" if cost is self.chosen else "400"};'
            f'opacity:{"0.5" if cost.fits is False else "1"}">'
            + "".join(
                f"<td style='text-align:right'>{html.escape(cell)}</td>" for cell in self._row(cost)
            )
            + "</tr>"
            for cost in self.costs
        )
        title = html.escape(self._title())
        assumed = "".join(f"<li>{html.escape(text)}</li>" for text in self.assumptions)
        return (
            f"<p>{title}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            + (f"<p>Assumed:</p><ul>{assumed}</ul>" if assumed else "")
        )

    def _title(self) -> str:
        budget = "no budget" if self.budget is None else f"a budget of {format_size(self.budget)}"
        return (
            f"{self.steps:,} steps, {budget}: {self.plan!r}, "
            f"{format_size(self.predicted_bytes)} at its peak"
        )

    def _row(self, cost: PlanCost) -> tuple[str, ...]:
        fits = {None: "", True: "yes", False: "no"}[cost.fits]
        return (
            "→" if cost is self.chosen else "",
            repr(cost.plan),
            format_size(cost.peak_bytes),
            "unknown" if self.assumptions else format_seconds(cost.seconds),
            f"{cost.forward_steps / self.steps:.2f}x",
            fits,
        )


_HEADER = ("", "plan", "peak", "time", "work", "fits")


def plan_rollout(
    step: StepFunction,
    state: Any,
    steps: int,
    budget: int | str | None = None,
    save_at: SaveAt | None = None,
    *,
    loss: Callable[[list[Any]], Tensor] | None = None,
    device: torch.device | str | None = None,
) -> RolloutPlan:
    """Measure one step, and predict from it what every plan would cost.

    The other arguments are those of :func:`atheria_lab.rollout`.

    Args:
        step: the step.
        state: the initial state. With ``device`` it may be on "meta": shapes without numbers.
        steps: how many.
        budget: bytes, or "8 GiB", that the rollout may add. On the CPU, what operators take
            inside (``needs_bytes``) must fit too.
        save_at: which states are returned.
        loss: of the saved states.
        device: predict for this one, which need not be here: the bytes follow from the shapes
            of one step, nothing runs. The plan says what it assumes.

    Returns:
        A :class:`RolloutPlan`: print it, or show it in a notebook, for a table.

    Raises:
        BudgetError: no exact plan meets the budget; it says the least that would do.
    """
    steps = integer("steps", steps)
    indices = check_save_at(save_at).resolve(steps)
    size = None if budget is None else parse_size(budget, name="budget")
    if device is None:
        stepper = Stepper(step, state)
        return survey(measure_job(stepper, steps, indices, loss), stepper, size)
    there = torch.device(device)
    job, stepper = fake.fake_job(step, state, steps, indices, loss, there)
    return replace(survey(job, stepper, size), assumptions=fake.assumptions(there))


def choose(
    stepper: Stepper,
    steps: int,
    indices: Sequence[int],
    budget: int,
    *,
    plan: Plan | None = None,
    loss: Callable[[list[Any]], Tensor] | None = None,
) -> tuple[Plan, int]:
    """The plan to take within a budget, and its predicted peak; ``plan`` itself if it fits."""
    job = measure_job(stepper, steps, indices, loss)
    best = plan or stepper.agreed(lambda: survey(job, stepper, budget).chosen.plan)
    stepper.agreed(lambda: fit(best, job, budget))
    return best, peak_bytes(best, job)


def fit(plan: Plan, job: Job, budget: int | None) -> int:
    """The predicted peak of a plan that the caller chose.

    Raises:
        BudgetError: it does not stay within the budget.
    """
    needs = peak_bytes(plan, job.with_scratch())
    if budget is not None and needs > budget:
        raise BudgetError(
            f"budget: got {format_size(budget)}, but {plan!r} needs {format_size(needs)} for "
            f"{job.steps} steps. Give it that, or leave out the plan.",
            needs,
        )
    return peak_bytes(plan, job)


def measure_job(
    stepper: Stepper,
    steps: int,
    indices: Sequence[int],
    loss: Callable[[list[Any]], Tensor] | None,
) -> Job:
    """Probe one step and the loss."""
    with work(PROBE):
        cost = measure_step(stepper, steps)
        loss_cost = measure_loss(loss, stepper, cost, len(indices))
    return Job(
        cost,
        loss_cost,
        steps,
        tuple(kept_indices(indices, steps)),
        felt=None if loss is None else indices[-1],
        on_cpu=not cuda_devices(stepper.leaves),
    )


def survey(job: Job, stepper: Stepper, budget: int | None) -> RolloutPlan:
    """Every plan for a job, and the fastest exact one within the budget.

    Raises:
        BudgetError: there is none.
    """
    inside = job.with_scratch()
    plans = candidates(inside, budget)
    if stepper.invertible:
        plans.append(Reversible())
    costs = []
    for plan in plans:
        check_plan(plan, stepper)
        peak = peak_bytes(plan, job)
        needs = peak_bytes(plan, inside)
        fits = None if budget is None else needs <= budget
        work_done = plan.forward_steps(job.steps, job.kept)
        costs.append(PlanCost(plan, peak, needs, seconds(plan, job), work_done, fits))
    costs.sort(key=lambda cost: (cost.seconds, cost.peak_bytes))
    exact = [cost for cost in costs if cost.plan.exact]
    fitting = [cost for cost in exact if cost.fits is not False]
    smallest = min(exact, key=lambda cost: cost.needs_bytes)
    if not fitting:
        assert budget is not None
        raise BudgetError(_refusal(inside, exact, smallest, budget), smallest.needs_bytes)
    return RolloutPlan(
        fitting[0], tuple(costs), budget, smallest.needs_bytes, job.steps, job.cost, job.loss
    )


def candidates(job: Job, budget: int | None) -> list[Plan]:
    """The plans worth a look: of each kind the best for this job, and binomial ones to compare."""
    segmented = best_segmented(job)
    ends = sorted({*job.kept, job.steps})
    longest = max(end - start for start, end in zip([0, *ends], ends, strict=False))
    slots = {1, *(least_slots(longest, visits) for visits in (1, 2, 3, 4, 6))}
    if budget is not None:
        largest = largest_binomial(job, budget)
        slots |= {largest.slots} if largest else set()
    return [
        StoreAll(),
        segmented,
        *(Binomial(count) for count in sorted(slots, reverse=True)),
        Truncated(segmented.k),
    ]


def best_segmented(job: Job) -> Segmented:
    """The segment length with the least peak."""
    graph = max(1, job.cost.graph + job.cost.keeps_either)
    centre = math.sqrt(job.steps * max(1, job.cost.state) / graph)
    lengths = {max(1, min(job.steps, round(centre * factor / 16))) for factor in range(4, 65, 2)}
    return min((Segmented(k) for k in sorted(lengths)), key=lambda plan: peak_bytes(plan, job))


def least_slots(steps: int, visits: int) -> int:
    """The fewest slots with which no step is advanced over more than ``visits`` times."""
    low, high = 1, steps
    while low < high:
        middle = (low + high) // 2
        if math.comb(middle + visits, visits) >= steps:
            high = middle
        else:
            low = middle + 1
    return low


def _refusal(job: Job, exact: Sequence[PlanCost], smallest: PlanCost, budget: int) -> str:
    lines = [
        f"budget: got {format_size(budget)}, and no exact plan makes {job.steps} steps within it. "
        f"The smallest that would do is {format_size(smallest.needs_bytes)} "
        f"({smallest.plan!r}, about {format_seconds(smallest.seconds)}). Give it that, save fewer "
        "states, or make the lattice smaller. Within this budget:"
    ]
    for cost in sorted(exact, key=lambda cost: cost.needs_bytes):
        reach = _reach(cost.plan, job, budget)
        lines.append(
            f"  {cost.plan!r} needs {format_size(cost.needs_bytes)} and gets {reach} steps far"
        )
    return "\n".join(lines)


def _reach(plan: Plan, job: Job, budget: int) -> int:
    """How many steps this plan could make within the budget, with as many saved states."""
    low, high = 0, job.steps
    while low < high:
        middle = (low + high + 1) // 2
        kept = sorted({max(1, index * middle // job.steps) for index in job.kept if index})
        shorter = replace(job, steps=middle, kept=tuple(kept), felt=None)
        if peak_bytes(plan, shorter) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
