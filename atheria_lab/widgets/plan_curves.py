"""The same training under several plans, and where a budget cuts them off."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import partial
from typing import Any

import ipywidgets as ui
import torch

from atheria_lab.laws import MLP
from atheria_lab.memory import format_size
from atheria_lab.rollout import BudgetError, SaveAt, plans
from atheria_lab.rollout.planner import least_slots, survey
from atheria_lab.rollout.predict import predicted_spans
from atheria_lab.rollout.stepper import Stepper
from atheria_lab.training import Timeline, Trainer
from atheria_lab.widgets import memory_pictures
from atheria_lab.widgets.parts import close_all
from atheria_lab.widgets.pictures import png
from atheria_lab.widgets.worker import Worker


class PlanCurves(ui.VBox):
    """Curves of memory over an episode, one a plan; move the budget to see which one it takes.

    The five plans are measured once, one after the other; the one that the budget chooses is
    drawn dashed, as it is predicted, at once.

    Args:
        size: cells along each side.
        steps: of a rollout.
        d_state: complex amplitudes in a cell.
        hidden: of the law, an ``MLP``.
        keep: states that the loss sees.
        device: where it trains: "cpu", or "cuda" where there is one.
    """

    def __init__(
        self,
        size: int = 32,
        steps: int = 200,
        *,
        d_state: int = 4,
        hidden: int = 16,
        keep: int = 1,
        device: str = "cpu",
    ) -> None:
        self._make: dict[str, Any] = {
            "size": size, "steps": steps, "save_at": SaveAt.at_most(keep), "device": device,
            "measure": "never",
        }  # fmt: skip
        self._law = (d_state, hidden)
        trainer = self._trainer(None)
        self._job = trainer.job()
        # All that a survey asks of it is whether the step can be inverted.
        self._stepper = Stepper(lambda x, i: x, torch.zeros(1))
        costs = survey(self._job, self._stepper, None)
        segmented = next(c.plan for c in costs.costs if isinstance(c.plan, plans.Segmented))
        self.plans: Sequence[plans.Plan] = (
            plans.StoreAll(),
            segmented,
            *(plans.Binomial(least_slots(steps, visits)) for visits in (2, 3, 4)),
        )
        self.timelines: list[Timeline] = []
        most = max(cost.peak_bytes for cost in costs.costs)
        least = costs.smallest_bytes
        options = [int(least * (most / least) ** (place / 40)) + 1 for place in range(41)]
        self.budget = ui.SelectionSlider(
            options=[(format_size(size), size) for size in options], value=options[12],
            description="budget", continuous_update=False, layout=ui.Layout(width="420px"),
        )  # fmt: skip
        self.status = ui.HTML()
        self.picture = ui.Image(format="png", layout=ui.Layout(max_width="860px", width="100%"))
        self._worker = Worker(lambda error: self._say(f"{type(error).__name__}: {error}"))
        super().__init__([self.budget, self.status, self.picture])
        self.budget.observe(lambda _: self._worker.post("draw", self._draw), names="value")
        for plan in self.plans:
            self._worker.post(repr(plan), partial(self._measure, plan))

    def wait(self, timeout: float | None = None) -> bool:
        """Until all that was asked for is shown; ``False`` if that took longer than ``timeout``."""
        return self._worker.wait(timeout)

    @property
    def chosen(self) -> Timeline:
        """What the budget's plan is predicted to do."""
        try:
            plan = survey(self._job, self._stepper, self.budget.value).plan
        except BudgetError:
            plan = plans.Binomial(1)
        return Timeline(plan, [], predicted_spans(plan, self._job), self.budget.value)

    def close(self) -> None:
        """End the work, and free every part."""
        if not hasattr(self, "_worker"):
            return
        self._worker.close()
        close_all(self)
        super().close()

    def _trainer(self, plan: plans.Plan | None) -> Trainer:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            law = MLP(self._law[0], self._law[1])
        return Trainer(law, plan=plan, **self._make)

    def _measure(self, plan: plans.Plan) -> None:
        self._say(f"measuring {plan!r} …")
        self.timelines = [*self.timelines, self._trainer(plan).timeline()]
        self._draw()

    def _draw(self) -> None:
        chosen = self.chosen
        figure = memory_pictures.overlay_figure([*self.timelines, chosen], self.budget.value)
        self.picture.value = png(figure)
        self._say(
            f"a budget of {format_size(self.budget.value)} takes {chosen.plan!r}: "
            f"{format_size(chosen.predicted_bytes)} predicted"
        )

    def _say(self, text: str) -> None:
        self.status.value = f"<div>{html.escape(text)}</div>"
