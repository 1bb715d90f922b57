"""The quickstart's bench: four sliders, one button, and where the bytes go."""

from __future__ import annotations

import html
import threading

import ipywidgets as ui
import torch

from atheria_lab import lattice
from atheria_lab.laws import Conv
from atheria_lab.memory import format_seconds, format_size, room_bytes
from atheria_lab.rollout import BudgetError, RolloutPlan, SaveAt
from atheria_lab.rollout.cost import LossCost, StepCost
from atheria_lab.rollout.planner import survey
from atheria_lab.rollout.predict import Job
from atheria_lab.rollout.stepper import Stepper
from atheria_lab.step import Step
from atheria_lab.training import EpisodeReport, Trainer, Trajectory, comparison
from atheria_lab.widgets import pictures
from atheria_lab.widgets.parts import choice, close_all
from atheria_lab.widgets.worker import Worker

_MIB = 2**20
_SIZES = (16, 32, 64, 128, 256)
_STEPS = (25, 50, 100, 200, 400, 800, 1600)
_BUDGETS = tuple(2**power for power in range(20, 33))


class Stopped(Exception):  # noqa: N818  # not an error: the user asked for it
    """The user pressed Stop."""


class Quickstart(ui.VBox):
    """Train a law within a memory budget: move the sliders, look at the plan, press Train.

    Every slider shows at once what it costs, from one measured step; nothing runs for it.

    Args:
        size: cells along each side, one of 16 to 256.
        steps: of a rollout.
        keep: states that the loss sees.
        budget: bytes.
        d_state: complex amplitudes in a cell.
        hidden: channels of the law, a ``Conv``.
        episodes: that the button trains.
    """

    def __init__(
        self,
        size: int = 64,
        steps: int = 200,
        keep: int = 10,
        budget: int = 16 * _MIB,
        *,
        d_state: int = 8,
        hidden: int = 32,
        episodes: int = 5,
    ) -> None:
        self._d_state, self._hidden, self._episodes = d_state, hidden, episodes
        self.size = choice("size", _SIZES, size, lambda value: f"{value} x {value}")
        self.steps = choice("steps", _STEPS, steps, str)
        self.keep = choice("kept states", tuple(range(1, 26)), keep, str)
        self.budget = choice("budget", _BUDGETS, budget, format_size)
        self.train = ui.Button(
            description=f"Train {episodes} episodes", button_style="primary", icon="play",
            tooltip="train a fresh law with these settings",
        )  # fmt: skip
        self.stop = ui.Button(description="Stop", icon="stop", disabled=True,
                              tooltip="end after the episode in progress")  # fmt: skip
        self.progress = ui.IntProgress(max=episodes, description="", layout=_wide())
        self.status = ui.HTML()
        self.plan = ui.HTML()
        self.bars = ui.Image(format="png", layout=ui.Layout(max_width="720px", width="100%"))
        self.psi = ui.Image(format="png", layout=ui.Layout(width="390px", margin="8px 0 0 0"))
        self.reports: list[EpisodeReport] = []
        self.rows: list[comparison.Row] = []
        self._costs: dict[int, StepCost] = {}
        self._losses: dict[tuple[int, int], LossCost] = {}
        self._stopping = threading.Event()
        self._worker = Worker(self._show_error)
        buttons = ui.HBox([self.train, self.stop])
        sliders = [self.size, self.steps, self.keep, self.budget]
        left = ui.VBox(
            [*sliders, buttons, self.progress, self.status, self.psi],
            layout=ui.Layout(width="400px", flex="0 0 auto"),
        )
        right = ui.VBox([self.bars, self.plan], layout=ui.Layout(flex="1 1 420px", min_width="0"))
        super().__init__([ui.HBox([left, right], layout=ui.Layout(flex_flow="row wrap"))])
        for slider in (self.size, self.steps, self.keep, self.budget):
            slider.observe(lambda _: self._worker.post("plan", self._replan), names="value")
        self.train.on_click(lambda _: self._start())
        self.stop.on_click(lambda _: self._stopping.set())
        self._worker.post("plan", self._replan)

    def wait(self, timeout: float | None = None) -> bool:
        """Until all that was asked for is shown; ``False`` if that took longer than ``timeout``."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """End the work, and free every part of the bench."""
        if not hasattr(self, "_worker"):  # refused before it was built
            return
        self._stopping.set()
        self._worker.close()
        close_all(self)
        super().close()

    def _start(self) -> None:
        self._stopping.clear()
        self._worker.post("train", self._train)

    def _settings(self) -> tuple[int, int, int, int]:
        return self.size.value, self.steps.value, self.keep.value, self.budget.value

    def _replan(self) -> None:
        size, steps, keep, budget = self._settings()
        trainer = self._trainer(size, steps, keep, None)
        job = self._job(trainer, size, steps, keep)
        psi = lattice.zeros(2, self._d_state)
        try:
            plan = survey(job, Stepper(Step(trainer.law), psi), budget)
        except BudgetError as error:
            self._say(
                f"No exact plan fits {format_size(budget)}. The least that does: "
                f"{format_size(error.smallest_bytes)}.",
                warn=True,
            )
            self.train.disabled = True
            plan = survey(job, Stepper(Step(trainer.law), psi), None)
            cheapest = min(plan.costs, key=lambda cost: cost.peak_bytes)
            self._show_plan(plan, comparison.compare(job, cheapest.plan), budget)
            return
        self.train.disabled = False
        self._say(f"{plan.plan!r} fits: {format_size(plan.predicted_bytes)} predicted.")
        self._show_plan(plan, comparison.compare(job, plan.plan), budget)

    def _show_plan(self, plan: RolloutPlan, rows: list[comparison.Row], budget: int) -> None:
        self.plan.value = f'<div style="overflow-x:auto">{plan._repr_html_()}</div>'
        self._show_rows(rows, budget)

    def _show_rows(self, rows: list[comparison.Row], budget: int) -> None:
        self.rows = rows
        self.bars.value = pictures.png(pictures.bytes_figure(rows, budget))

    def _train(self) -> None:
        size, steps, keep, budget = self._settings()
        trainer = self._trainer(size, steps, keep, budget)
        job = self._job(trainer, size, steps, keep)
        self.train.disabled, self.stop.disabled = True, False
        self.progress.value, self.reports = 0, []
        rows: list[comparison.Row] = []
        try:
            self._say("training …")
            for _ in range(self._episodes):
                if self._stopping.is_set():
                    raise Stopped
                report = trainer.train_episode(self._show_psi)
                self.reports.append(report)
                self.progress.value = len(self.reports)
                took = format_seconds(report.seconds)
                self._say(f"episode {report.episode}: loss {report.loss:.4g}, {took}")
                if not rows:
                    rows = comparison.compare(job, report.plan)
                    rows[-1] = comparison.Row(
                        rows[-1].name, report.predicted_bytes, report.peak_bytes
                    )
                    self._show_rows(rows, budget)
            self._say("measuring the other ways …")
            # Half of what is free: the others are big, and a notebook must live on.
            comparison.measure(
                rows, trainer, self.reports[0].plan, room=room_bytes() // 2,
                on_row=lambda rows: self._measured(rows, budget),
            )  # fmt: skip
            saved = 1 - (self.reports[0].peak_bytes or 0) / rows[0].predicted_bytes
            self._say(f"done: {saved:.1%} less than with every state kept, the same gradient.")
        except Stopped:
            self._say("stopped.")
        finally:
            self.train.disabled, self.stop.disabled = False, True

    def _measured(self, rows: list[comparison.Row], budget: int) -> None:
        self._show_rows(rows, budget)
        if self._stopping.is_set():
            raise Stopped

    def _trainer(self, size: int, steps: int, keep: int, budget: int | None) -> Trainer:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            law = Conv(self._d_state, self._hidden, activation="tanh")
        return Trainer(law, size, steps, budget, SaveAt.at_most(keep))

    def _job(self, trainer: Trainer, size: int, steps: int, keep: int) -> Job:
        """One step is measured for each size, one loss for each number of kept states."""
        kept = trainer.save_at.resolve(steps)
        if size not in self._costs or (size, len(kept)) not in self._losses:
            job = trainer.job()
            self._costs.setdefault(size, job.cost)
            self._losses[size, len(kept)] = job.loss
        return Job(self._costs[size], self._losses[size, len(kept)], steps, kept)

    def _show_psi(self, trajectory: Trajectory) -> None:
        self.psi.value = pictures.png(pictures.psi_figure(trajectory[-1]))

    def _show_error(self, error: Exception) -> None:
        self._say(f"{type(error).__name__}: {error}", warn=True)

    def _say(self, text: str, *, warn: bool = False) -> None:
        colour = "var(--jp-error-color1, #d9534f)" if warn else "var(--jp-ui-font-color1, #808890)"
        self.status.value = (
            f'<div style="color:{colour};line-height:1.4;max-width:360px">{html.escape(text)}</div>'
        )


def _wide() -> ui.Layout:
    return ui.Layout(width="350px")
