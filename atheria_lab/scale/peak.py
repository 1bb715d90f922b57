"""What a training will take of its worker's memory, known before anything runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from atheria_lab.laws import Law
from atheria_lab.memory import format_size
from atheria_lab.rollout import BudgetError, plans
from atheria_lab.rollout.execute import kept_indices
from atheria_lab.rollout.planner import fit, survey
from atheria_lab.rollout.predict import Job, peak_bytes
from atheria_lab.rollout.stepper import Stepper
from atheria_lab.scale.space import Point

# What changes no byte of a step.
_BYTELESS = {"gamma", "lr", "seed", "episodes", "weight_decay", "clip", "schedule", "budget",
             "schedule_episodes", "plan", "measure", "steps", "save_at"}  # fmt: skip


class Foresight:
    """The memory that points declare, from shapes alone: no lattice is made, whatever its size.

    One step without data is looked at for each kind of step, and then remembered.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[Job, Stepper]] = {}
        self._laws: dict[str, Law] = {}

    def declared_bytes(self, point: Point) -> int:
        """Bytes that a training needs at most, beside the process it runs in.

        The law, the two moments of its optimizer and the initial state; over them the peak of an
        episode under any plan that it may take; and as much as a whole step for what operators
        take inside, which is not known before one runs. The last two are within the budget.

        Raises:
            ValueError: the law and the size do not fit each other, or no exact plan meets the
                budget (a :class:`~atheria_lab.BudgetError`); the message names the point.
        """
        try:
            job, stepper, standing = self._job(point)
            budget, plan = point.settings["budget"], point.settings["plan"]
            step = job.cost.record + job.cost.backprop
            if plan is not None:
                fit(plan, job, budget)
                peaks = [peak_bytes(plan, job)]
            elif budget is None:
                peaks = [peak_bytes(plans.StoreAll(), job)]
            else:
                # Which of them is the fastest is for the worker to measure.
                costs = survey(job, stepper, budget).costs
                peaks = [cost.peak_bytes for cost in costs if cost.fits and cost.plan.exact]
        except BudgetError as error:
            raise BudgetError(
                f"space: {point!r} is refused: no exact plan makes {job.steps} steps within its "
                f"budget. The smallest that would do is {format_size(error.smallest_bytes)}. Give "
                "it that, save fewer states, or make the lattice smaller.",
                error.smallest_bytes,
            ) from None
        except (TypeError, ValueError) as error:
            raise type(error)(f"space: {point!r} is refused: {error}") from error
        most = max(peaks) + step
        return standing + (most if budget is None else min(budget, most))

    def _job(self, point: Point) -> tuple[Job, Stepper, int]:
        """The cost of a point's rollout, what makes its steps, and what stands beside it."""
        law = self._law(point)
        trainer = point.trainer(law)
        steps, saved = trainer.steps, trainer.save_at.resolve(trainer.steps)
        facts = {name: value for name, value in point.facts.items() if name not in _BYTELESS}
        few = steps if facts["reset_every"] is not None else min(steps, 2)
        key = _text([facts, few, len(saved)])
        if key not in self._jobs:
            self._jobs[key] = trainer.planned.episodes.job_without_data()
        job, stepper = self._jobs[key]
        kept = tuple(kept_indices(saved, steps))
        job = replace(job, steps=steps, kept=kept, felt=saved[-1])
        weights = sum(parameter.nbytes for parameter in law.parameters())
        return job, stepper, 3 * weights + job.cost.state

    def _law(self, point: Point) -> Law:
        """A law of the point's kind; its numbers do not matter."""
        if isinstance(point.law, Law):
            return point.law
        key = _text(point.facts["law"])
        if key not in self._laws:
            self._laws[key] = point.law(0)
        return self._laws[key]


def _text(facts: Any) -> str:
    return json.dumps(facts, sort_keys=True)
