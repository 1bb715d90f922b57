"""Episodes within a budget: the plan is chosen once, and a smaller one if the device runs out."""

from __future__ import annotations

import gc
import logging
import traceback
import warnings
from typing import Literal

import torch

from atheria_lab.memory import Limits, format_size
from atheria_lab.memory.device import is_out_of_memory
from atheria_lab.rollout import BudgetError, RolloutPlan, plans
from atheria_lab.rollout.planner import fit, survey
from atheria_lab.rollout.stepper import OnStep, Stepper
from atheria_lab.training.episode import Episodes, Outcome, Watch

Measure = Literal["first", "always", "never"]

log = logging.getLogger(__name__)


class PlannedEpisodes:
    """Runs episodes under the fastest exact plan that fits the budget.

    Attributes:
        episodes: what is run.
        budget: bytes, or ``None``; it is halved when the device runs out of memory.
        given: the plan that the caller chose, if so.
        plan: the plan in use; ``None`` until one is needed.
        predicted_bytes: of the plan in use.
        limits: of the process, if any; they are looked at before every episode.
        measure: when the peak is measured on the CPU.
    """

    def __init__(
        self,
        episodes: Episodes,
        budget: int | None,
        given: plans.Plan | None,
        measure: Measure,
        limits: Limits | None = None,
    ) -> None:
        self.episodes = episodes
        self.budget = budget
        self.given = given
        self.measure = measure
        self.limits = limits
        self.plan: plans.Plan | None = None
        self.predicted_bytes = 0
        self._measured: set[plans.Plan] = set()

    def survey(self, episode: int) -> RolloutPlan:
        """Every plan for the episodes' rollouts, the loss included."""
        stepper = Stepper(*self.episodes.start(episode))
        return survey(self.episodes.job(episode), stepper, self.budget)

    def ready(self, episode: int) -> plans.Plan:
        """The plan in use, chosen now if there is none, and within the limits.

        Raises:
            BudgetError: no exact plan meets the budget.
            LimitError: not even the smallest plan stays within the hard limit.
        """
        plan = self.plan or self._choose(episode)
        if self.limits is not None and not self.limits.make_room(self.predicted_bytes):
            if self.given is None:
                plan = self._choose_smaller(episode, self.limits)
            self.limits.check(
                self.predicted_bytes,
                f"an episode of {self.episodes.steps} steps with {plan!r}",
                "Save fewer states, take a smaller lattice or batch, leave out the plan, or free "
                "something: %memory says who holds what.",
            )
        return plan

    def _choose_smaller(self, episode: int, limits: Limits) -> plans.Plan:
        """The fastest exact plan under the soft limit; the smallest of all if none is."""
        tried = self.predicted_bytes
        job = self.episodes.job(episode)
        stepper = Stepper(*self.episodes.start(episode))
        try:
            chosen = survey(job, stepper, max(1, min(limits.comfort(), tried))).chosen
        except BudgetError as error:
            chosen = survey(job, stepper, error.smallest_bytes).chosen
        if chosen.peak_bytes >= tried and self.plan is not None:
            return self.plan
        self.plan, self.predicted_bytes = chosen.plan, chosen.peak_bytes
        log.info(
            "past the soft limit: %r, %s, instead of %s",
            chosen.plan, format_size(chosen.peak_bytes), format_size(tried),
        )  # fmt: skip
        return chosen.plan

    def gradient(
        self, episode: int, watch: Watch | None = None, on_step: OnStep | None = None
    ) -> tuple[Outcome, plans.Plan]:
        """An episode's gradient, left in the parameters, and the plan that it took.

        If the device runs out of memory, the episode is repeated with a smaller plan. After any
        other error no gradient is left.

        Raises:
            BudgetError: no exact plan meets the budget.
        """
        warned = False
        while True:
            try:
                plan = self.ready(episode)
                first = self.measure == "first" and plan not in self._measured
                measured = first or self.measure == "always"
                outcome = self.episodes.run(
                    episode, plan, measured=measured, watch=watch, on_step=on_step
                )
            except BaseException as error:
                self.episodes.law.zero_grad(set_to_none=True)
                # The frames of the failed episode would keep its tensors alive.
                if error.__traceback__ is not None:
                    traceback.clear_frames(error.__traceback__)
                if not is_out_of_memory(error):
                    raise
                self._shrink(error, warn=not warned)
                warned = True
            else:
                self._measured |= {plan} if measured else set()
                return outcome, plan
            gc.collect()
            if self.episodes.device.type == "cuda":
                torch.cuda.empty_cache()

    def _choose(self, episode: int) -> plans.Plan:
        plan = self.given
        if plan is None and self.budget is None:
            plan = plans.StoreAll()
        if plan is not None:
            self.predicted_bytes = fit(plan, self.episodes.job(episode), self.budget)
        else:
            chosen = self.survey(episode).chosen
            plan, self.predicted_bytes = chosen.plan, chosen.peak_bytes
        self.plan = plan
        return plan

    def _shrink(self, error: BaseException, *, warn: bool) -> None:
        """After the device ran out of memory: half of what was tried."""
        tried = self.predicted_bytes or self.budget
        if not tried or self.given is not None:
            raise error
        self.budget, self.plan = tried // 2, None
        if warn:
            warnings.warn(
                f"Out of memory with a plan of {format_size(tried)}; the episode is repeated from "
                f"the same seed within {format_size(self.budget)}. Give a smaller budget to avoid "
                "the failed try.",
                RuntimeWarning,
                stacklevel=4,
            )
        log.info("replanned within %s after: %s", format_size(self.budget), error)
