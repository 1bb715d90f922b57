"""PlanExplorer: what a rollout would cost, before it runs."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ipywidgets as ui
from torch import Tensor

from atheria_lab._checks import integer
from atheria_lab.memory import format_size, parse_size
from atheria_lab.rollout import BudgetError, RolloutPlan, SaveAt
from atheria_lab.rollout.execute import kept_indices
from atheria_lab.rollout.planner import measure_job, survey
from atheria_lab.rollout.predict import Job
from atheria_lab.rollout.stepper import StepFunction, Stepper
from atheria_lab.widgets.parts import choice, close_all
from atheria_lab.widgets.plan_picture import picture
from atheria_lab.widgets.worker import Worker

_STEPS = (10, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800)
_KEPT = (1, 2, 3, 5, 10, 20, 50, 100)
_BUDGETS = tuple(2**power for power in range(18, 38))


class PlanExplorer(ui.VBox):
    """Sliders for a rollout's length, kept states and budget; every plan as a point.

    It works for any step function over any pytree of tensors. One step is measured, and one loss
    for each number of kept states; the rollout itself never runs. ::

        al.widgets.PlanExplorer(step, state, budget="512 MiB")

    Args:
        step: ``step(state, i)`` returns the next state.
        state: the initial one.
        steps: of the rollout.
        keep: states that the loss sees.
        budget: bytes, or "64 MiB"; ``None`` takes the largest that the slider has.
        loss: a function of the list of kept states; see :func:`atheria_lab.rollout`.

    Raises:
        TypeError, ValueError: as :func:`atheria_lab.plan_rollout`.
    """

    def __init__(
        self,
        step: StepFunction,
        state: Any,
        steps: int = 400,
        keep: int = 10,
        budget: int | str | None = None,
        *,
        loss: Callable[[list[Any]], Tensor] | None = None,
    ) -> None:
        self._stepper = Stepper(step, state)
        self._loss = loss
        self._jobs: dict[int, Job] = {}
        self._least = 0
        size = _BUDGETS[-1] if budget is None else parse_size(budget, name="budget")
        self.steps = choice("steps", _with(_STEPS, integer("steps", steps)), steps)
        self.keep = choice("kept states", _with(_KEPT, integer("keep", keep)), keep)
        self.budget = choice("budget", _with(_BUDGETS, size), size, format_size)
        self.least = ui.Button(description="", layout=ui.Layout(width="auto", display="none"))
        self.status = ui.HTML()
        self.picture = ui.HTML(layout=ui.Layout(width="100%", max_width="560px"))
        self.table = ui.HTML()
        self.plan: RolloutPlan | None = None
        self._worker = Worker(lambda error: self._say(f"{type(error).__name__}: {error}"))
        super().__init__(
            [self.steps, self.keep, self.budget, self.status, self.least, self.picture, self.table]
        )
        for slider in (self.steps, self.keep, self.budget):
            slider.observe(lambda _: self._worker.post("plan", self._replan), names="value")
        self.least.on_click(lambda _: self._worker.post("least", self._take_least))
        self._worker.post("plan", self._replan)

    def wait(self, timeout: float | None = None) -> bool:
        """Until all that was asked for is shown; ``False`` if that took longer than ``timeout``."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """End the work, and free every part."""
        if not hasattr(self, "_worker"):
            return
        self._worker.close()
        close_all(self)
        super().close()

    def _job(self, steps: int, indices: list[int]) -> Job:
        count = len(indices)
        if count not in self._jobs:
            self._jobs[count] = measure_job(self._stepper, steps, indices, self._loss)
        kept = tuple(kept_indices(indices, steps))
        felt = None if self._loss is None else indices[-1]
        return replace(self._jobs[count], steps=steps, kept=kept, felt=felt)

    def _replan(self) -> None:
        steps, budget = self.steps.value, self.budget.value
        job = self._job(steps, list(SaveAt.at_most(self.keep.value).resolve(steps)))
        self.plan, said, least = plan_within(job, self._stepper, budget)
        self._say(said)
        self.least.layout.display = "none" if least is None else ""
        if least is not None:
            self.least.description = f"Take {format_size(least)}"
            self._least = least
        self.picture.value = picture(self.plan, budget)
        self.table.value = f'<div style="overflow-x:auto">{self.plan._repr_html_()}</div>'

    def _take_least(self) -> None:
        take(self.budget, self._least)

    def _say(self, text: str) -> None:
        self.status.value = f'<div style="line-height:1.4">{html.escape(text)}</div>'


def plan_within(job: Job, stepper: Stepper, budget: int) -> tuple[RolloutPlan, str, int | None]:
    """The plans, what there is to say of them, and the least budget if this one is too small."""
    try:
        plan = survey(job, stepper, budget)
    except BudgetError as error:
        least = error.smallest_bytes
        said = f"No exact plan fits {format_size(budget)}; the least that does: "
        return survey(job, stepper, None), said + f"{format_size(least)}.", least
    chosen = plan.chosen
    times = chosen.seconds / min(cost.seconds for cost in plan.costs)
    said = f"{chosen.plan!r}: {format_size(chosen.needs_bytes)} at the peak, {times:.2f}x the time"
    return plan, f"{said} of keeping all.", None


def take(slider: ui.SelectionSlider, least: int) -> None:
    """Move a slider of sizes to the smallest one that is enough."""
    values = [value for _, value in slider.options]
    slider.value = next((value for value in sorted(values) if value >= least), max(values))


def _with(values: tuple[int, ...], value: int) -> tuple[int, ...]:
    return tuple(sorted({*values, value}))
