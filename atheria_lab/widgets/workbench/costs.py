"""What the settings of a workbench would cost, before anything runs."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from atheria_lab.lattice import zeros
from atheria_lab.memory import format_seconds, format_size
from atheria_lab.rollout import RolloutPlan, SaveAt
from atheria_lab.rollout.execute import kept_indices
from atheria_lab.rollout.predict import Job
from atheria_lab.rollout.stepper import Stepper
from atheria_lab.step import Step
from atheria_lab.widgets.plan_explorer import plan_within
from atheria_lab.widgets.workbench.settings import MOTION, MakeLaw, Settings

_MOST_JOBS = 64
_ENTRY_BYTES = 300  # of a usual entry of the log


class Costs(NamedTuple):
    """What settings cost.

    Attributes:
        plan: every plan for a training rollout.
        said: of the chosen one, in words.
        least: the least budget, where the one there is too small.
        rows: (what, what it costs).
    """

    plan: RolloutPlan
    said: str
    least: int | None
    rows: list[tuple[str, str]]

    def table(self) -> str:
        """The rows as HTML."""
        rows = "".join(
            f'<tr><td style="opacity:.75;padding:1px 10px 1px 0;text-align:left">'
            f'{html.escape(what)}</td><td style="text-align:left">{html.escape(cost)}</td></tr>'
            for what, cost in self.rows
        )
        return f'<table style="font-size:12px;line-height:1.45">{rows}</table>'


class Estimator:
    """Measures one step and one loss of each setting once, and predicts from that."""

    def __init__(self, makers: Mapping[str, MakeLaw]) -> None:
        self._makers = makers
        self._jobs: dict[tuple[object, ...], Job] = {}

    def knows(self, settings: Settings) -> bool:
        """Whether nothing has to be measured for these."""
        return self._key(settings) in self._jobs

    def costs(self, settings: Settings) -> Costs:
        """What these settings cost; where it is not known, a step and a loss are measured."""
        kept = list(SaveAt.at_most(settings.keep).resolve(settings.steps))
        job = replace(
            self._job(settings), steps=settings.steps, felt=kept[-1],
            kept=tuple(kept_indices(kept, settings.steps)),
        )  # fmt: skip
        law = settings.make_law(self._makers)
        stepper = Stepper(Step(law), zeros(2, settings.d_state))
        plan, said, least = plan_within(job, stepper, settings.budget)
        chosen = plan.chosen
        state = 8 * settings.size**2 * settings.d_state
        hidden = job.cost.state - state
        snapshot = state + max(0, hidden)
        inside = min(settings.limit, settings.host_budget // snapshot)
        beyond = max(0, settings.limit - inside)
        store_all = next(c for c in plan.costs if type(c.plan).__name__ == "StoreAll")
        rows = [
            ("episode", f"{format_size(chosen.needs_bytes)}, {format_seconds(chosen.seconds)}"),
            ("keeping every step", f"{format_size(store_all.needs_bytes)}, "
                                   f"{format_seconds(store_all.seconds)}"),
            ("kept states", f"{len(kept)} x {format_size(state)} = "
                            f"{format_size(len(kept) * state)}"),
            ("snapshots", f"{settings.limit} x {format_size(snapshot)}: {inside} in memory, "
                          f"{format_size(inside * snapshot)}"
                          + (f"; {beyond} on disk, {format_size(beyond * snapshot)}"
                             if beyond else "")),
            ("log", f"about {format_size(settings.entries * _ENTRY_BYTES)}"),
        ]  # fmt: skip
        return Costs(plan, said, least, rows)

    def _key(self, settings: Settings) -> tuple[object, ...]:
        kept = len(SaveAt.at_most(settings.keep).resolve(settings.steps))
        return (*settings.key(MOTION), kept)

    def _job(self, settings: Settings) -> Job:
        key = self._key(settings)
        if key not in self._jobs:
            while len(self._jobs) >= _MOST_JOBS:
                self._jobs.pop(next(iter(self._jobs)))
            law = settings.make_law(self._makers)
            self._jobs[key] = settings.make_trainer(law, None).job()
        return self._jobs[key]
