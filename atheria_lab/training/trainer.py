"""Train a law by rollouts that stay within a memory budget."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from atheria_lab._checks import instance, integer
from atheria_lab.hidden import ResetHidden
from atheria_lab.lattice import Norm, Size
from atheria_lab.laws.base import Law
from atheria_lab.memory import Limits, format_size, parse_size
from atheria_lab.memory.device import find_device
from atheria_lab.memory.owners import OPTIMIZER, claim, work
from atheria_lab.noise import Noise, Ramp
from atheria_lab.rollout import RolloutPlan, SaveAt, plans
from atheria_lab.rollout.predict import Job
from atheria_lab.rollout.stepper import OnStep
from atheria_lab.scale import parallel, ranks
from atheria_lab.training import saving
from atheria_lab.training.episode import Backend, Episodes, Outcome, Precision, Watch
from atheria_lab.training.losses import Loss, find_loss
from atheria_lab.training.planned import Measure, PlannedEpisodes
from atheria_lab.training.progress import progress_bar
from atheria_lab.training.report import EpisodeReport
from atheria_lab.training.settings import Schedule, checked, rate
from atheria_lab.training.timeline import Timeline, record

log = logging.getLogger(__name__)

# So many episodes in a row without a finite gradient end the training.
_MOST_SKIPPED = 5


class Trainer:
    """Trains a law: one rollout, one loss, one step of AdamW an episode.

    Each episode starts from a fresh state, fresh hidden tensors and random numbers of its own,
    all derived from ``seed`` and the episode's number: the same trainer repeats itself, and a
    loaded one goes on as the saved one would have.

    Inside an initialised process group (``torchrun``) it trains data-parallel: each rank takes its
    part of the batch, and all take the step of the whole batch, from the weights that rank 0
    began with. The numbers are those of one process, within rounding, for a loss that is a mean
    over the batch, and a law that draws no random numbers of its own. Every rank makes the same
    calls; the budget and the measured peak are each rank's own.

    Args:
        law: float32 (psi is complex64) or float64 (complex128).
        size: cells along each side, or ``(height, width)``.
        steps: of a rollout.
        budget: bytes, or "64 MiB", that rollout, loss and backward pass may add at their peak,
            over the law, its optimizer and the initial state. ``None``: plain autograd.
        save_at: the states that the loss sees.
        loss: "evolutionary", "structure", "energy", or a function of the
            :class:`~atheria_lab.training.losses.Trajectory` that returns a real number, or that
            and a dict of metrics.
        noise: a :class:`~atheria_lab.noise.Noise`, or a :class:`~atheria_lab.noise.Ramp` for a
            curriculum over the episodes.
        lr: learning rate.
        seed: of everything random.
        batch: lattices at once, on all ranks together: at least one a rank.
        gamma: see :class:`~atheria_lab.step.Step`.
        norm: likewise.
        reset_every: likewise.
        initial: makes the initial psi ``[batch, H, W, d_state]`` from a seed; by default
            ``lattice.random``.
        plan: take this one; it must fit the budget, if there is one.
        schedule: of the learning rate: "constant", or "cosine" down to 0.
        schedule_episodes: how long the cosine takes.
        weight_decay: of AdamW.
        clip: the largest norm of the gradient; longer ones are scaled down.
        precision: "full", or "bfloat16": autocast, on CUDA only.
        device: where to train; by default where the law is.
        measure: on the CPU, the measured peak costs time, so it is taken in the "first" episode
            of a plan, "always" or "never". On CUDA it costs nothing and is always there.
        history: how many reports are kept.
        limits: of the process: past the soft one a smaller plan is taken, past the hard one the
            episode is refused before it allocates. They belong to the machine: not saved.
        backend: "torch"; "native", the fused step (:mod:`atheria_lab.fused`), which saves its
            states only and is faster, with gradients equal within rounding; or "auto", the fused
            one where the law has one.
    """

    def __init__(
        self,
        law: nn.Module,
        size: Size,
        steps: int,
        budget: int | str | None = None,
        save_at: SaveAt | None = None,
        loss: str | Loss = "evolutionary",
        noise: Noise | Ramp | None = None,
        lr: float = 1e-4,
        seed: int = 0,
        *,
        batch: int = 1,
        gamma: float = 0.01,
        norm: Norm | None = None,
        reset_every: int | ResetHidden | None = None,
        initial: Callable[[int], Tensor] | None = None,
        plan: plans.Plan | None = None,
        schedule: Schedule = "constant",
        schedule_episodes: int = 1000,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        precision: Precision = "full",
        device: torch.device | str | None = None,
        measure: Measure = "first",
        history: int = 1000,
        limits: Limits | None = None,
        backend: Backend = "torch",
    ) -> None:
        self.settings = settings = checked(
            size=size, steps=steps, lr=lr, seed=seed, batch=batch, gamma=gamma, norm=norm,
            reset_every=reset_every, schedule=schedule, schedule_episodes=schedule_episodes,
            weight_decay=weight_decay, clip=clip, precision=precision, measure=measure,
            history=history, backend=backend,
        )  # fmt: skip
        if ranks.count() > 1:
            ranks.check_same({
                "code": ranks.code_fingerprint(), "law": type(law).__name__,
                "config": law.config() if isinstance(law, Law) else None, **settings,
                "save_at": save_at, "loss": loss if isinstance(loss, str) else "a function",
                "noise": noise,
            })  # fmt: skip
        self.share = parallel.share(settings["batch"])
        instance("law", law, nn.Module, "a torch.nn.Module")
        instance("save_at", save_at, SaveAt | None, "a SaveAt, such as SaveAt.at_most(10)")
        instance("noise", noise, Noise | Ramp | None, "a Noise or a Ramp")
        instance("plan", plan, plans.Plan | None, "one of atheria_lab.plans, or None")
        instance("initial", initial, Callable | None, "a function of a seed, or None")
        parameters = [p for p in law.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("law: it has no parameter that requires grad, so nothing to train.")
        self.device = find_device(device) if device is not None else parameters[0].device
        parallel.check_device(self.device)
        self.law = law.to(self.device)
        parallel.same_weights(self.law)
        if precision == "bfloat16" and self.device.type != "cuda":
            raise ValueError(
                f'precision: got "bfloat16" on {self.device}; it is for CUDA. Take "full".'
            )
        most = None if budget is None else parse_size(budget, name="budget")
        self.save_at = save_at if save_at is not None else SaveAt.at_most(10)
        self.save_at.resolve(steps)
        self.noise = noise or Noise()
        self.loss_name = loss if isinstance(loss, str) else None
        self.initial = initial
        self.episode = 0
        self.skipped = 0
        self.saved: tuple[Path, int] | None = None
        self.reports: deque[EpisodeReport] = deque(maxlen=settings["history"])
        self._episodes = Episodes(
            law=self.law, device=self.device, size=size, steps=settings["steps"],
            save_at=self.save_at, loss=find_loss(loss, norm, self.law), noise=self.noise,
            seed=settings["seed"], share=self.share, gamma=settings["gamma"], norm=norm,
            reset_every=settings["reset_every"], initial=initial, precision=precision,
            backend=backend,
        )  # fmt: skip
        self._episodes.step(0)  # refuses what makes no sense before anything is trained
        self.planned = PlannedEpisodes(self._episodes, most, plan, measure, limits)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.law.parameters() if p.requires_grad],
            lr=lr, weight_decay=weight_decay, fused=True,
        )  # fmt: skip
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, partial(rate, settings))

    @property
    def steps(self) -> int:
        """Steps of a rollout."""
        steps: int = self.settings["steps"]
        return steps

    @property
    def budget(self) -> int | None:
        """Bytes that an episode may add; less than was given once the device ran out."""
        return self.planned.budget

    @property
    def plan(self) -> plans.Plan | None:
        """The plan in use; ``None`` before the first episode."""
        return self.planned.plan

    @property
    def predicted_bytes(self) -> int:
        """What the plan in use is expected to add at its peak; 0 before the first episode."""
        return self.planned.predicted_bytes

    def plan_rollout(self) -> RolloutPlan:
        """Every plan for this trainer's rollouts, the loss included, without training.

        Raises:
            BudgetError: no exact plan meets the budget.
        """
        return self.planned.survey(self.episode)

    def job(self) -> Job:
        """The cost of a step and of the loss, measured: what predictions are made from."""
        return self._episodes.job(self.episode)

    def timeline(self) -> Timeline:
        """Train one episode, and see what it does to the memory: predicted over measured."""
        return record(self)

    def try_plan(self, plan: plans.Plan, *, keep_all: bool = False) -> int:
        """Bytes that one episode adds at its peak under another plan; the law is left as it is.

        Args:
            plan: to try, whatever the budget.
            keep_all: hold on to every state of the rollout, as an unthinned psi_history does.
        """
        outcome = self._episodes.run(self.episode, plan, measured=True, keep_all=keep_all)
        self.optimizer.zero_grad(set_to_none=True)
        assert outcome.peak_bytes is not None
        return outcome.peak_bytes

    def train(
        self,
        episodes: int,
        *,
        progress: bool = True,
        on_episode: Callable[[EpisodeReport], None] | None = None,
        watch: Watch | None = None,
        on_step: OnStep | None = None,
    ) -> list[EpisodeReport]:
        """Train some episodes more.

        Args:
            episodes: how many.
            progress: show a bar.
            on_episode: called with each report.
            watch: called with each episode's saved states, before they are released.
            on_step: called with each state as it is made, see :func:`~atheria_lab.rollout`.

        Returns:
            The reports, as many of the last ones as ``history`` keeps.
        """
        integer("episodes", episodes)
        new: deque[EpisodeReport] = deque(maxlen=self.reports.maxlen)
        with progress_bar(episodes, progress and ranks.rank() == 0) as bar:
            for _ in range(episodes):
                report = self.train_episode(watch, on_step)
                new.append(report)
                bar(report)
                if on_episode is not None:
                    on_episode(report)
        return list(new)

    def train_episode(
        self, watch: Watch | None = None, on_step: OnStep | None = None
    ) -> EpisodeReport:
        """One rollout, its loss, its gradient, and one step of the optimizer.

        Args:
            watch: called with the saved states, before they are released.
            on_step: called with each state as it is made, see :func:`~atheria_lab.rollout`; what
                it raises ends the episode, and the law is as it was before.

        Raises:
            BudgetError: no exact plan meets the budget; nothing has been trained.
            RuntimeError: five episodes in a row had no finite gradient, or it failed on another
                rank.
            RankLostError: a rank is gone. The law is as it was before the episode; the message
                says which file to resume from.
        """
        start = time.perf_counter()
        outcome, plan = self._gradient(watch, on_step)
        with work(OPTIMIZER):
            norm = nn.utils.clip_grad_norm_(self.law.parameters(), self.settings["clip"]).item()
            skipped = not (math.isfinite(outcome.loss) and math.isfinite(norm))
            if not skipped:
                self.optimizer.step()
                self.scheduler.step()
        claim(OPTIMIZER, [*self.optimizer.state.values()])
        self.optimizer.zero_grad(set_to_none=True)
        report = EpisodeReport(
            episode=self.episode,
            loss=outcome.loss,
            metrics=outcome.metrics,
            seconds=time.perf_counter() - start,
            peak_bytes=outcome.peak_bytes,
            predicted_bytes=self.predicted_bytes,
            plan=plan,
            gradient_norm=norm,
            skipped=skipped,
        )
        self.episode += 1
        self.reports.append(report)
        self._guard(report)
        return report

    def save(self, path: str | Path) -> None:
        """Save everything that the next episode depends on, atomically, in one file.

        Args:
            path: of a safetensors file; it is replaced if it exists. On several ranks, rank 0
                writes it, and the others do nothing: all of them hold the same.
        """
        if ranks.rank() == 0:
            saving.save(self, Path(path))
        self.saved = Path(path), self.episode

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        law: nn.Module | None = None,
        loss: Loss | None = None,
        initial: Callable[[int], Tensor] | None = None,
        device: torch.device | str | None = None,
    ) -> Trainer:
        """A trainer that goes on as the saved one would have.

        Args:
            path: of the file; each rank reads it.
            law: an instance to load the weights into; needed for a law that is no
                :class:`~atheria_lab.laws.Law`.
            loss: the loss function; needed if it was a function.
            initial: the function of the initial state; needed if there was one.
            device: where to train; by default the CPU, or where ``law`` is.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or newer, or something that was a function is missing.
        """
        return saving.load(cls, Path(path), law=law, loss=loss, initial=initial, device=device)

    def __repr__(self) -> str:
        budget = "no budget" if self.budget is None else f"budget {format_size(self.budget)}"
        return (
            f"Trainer({type(self.law).__name__}, size={self.settings['size']}, "
            f"steps={self.steps}, {budget}, episode={self.episode}, plan={self.plan!r})"
        )

    def _gradient(self, watch: Watch | None, on_step: OnStep | None) -> tuple[Outcome, plans.Plan]:
        """The gradient of the whole batch, left in the parameters."""
        own: list[tuple[Outcome, plans.Plan]] = []

        def work() -> tuple[float, dict[str, float]]:
            own.append(self.planned.gradient(self.episode, watch, on_step))
            return own[0][0].loss, own[0][0].metrics

        try:
            loss, metrics = parallel.averaged(work, self.law.parameters(), self.share)
        except BaseException as error:
            self.law.zero_grad(set_to_none=True)
            if isinstance(error, ranks.RankLostError):
                raise ranks.RankLostError(f"{error} {self._advice()}") from error
            raise
        outcome, plan = own[0]
        return replace(outcome, loss=loss, metrics=metrics), plan

    def _advice(self) -> str:
        """Where a training that lost a rank can go on."""
        if self.saved is None:
            return "Nothing was saved yet: start again, and save every few episodes."
        path, episode = self.saved
        return f"Resume from {path}, saved after {episode} episodes: Trainer.load, or --resume."

    def _guard(self, report: EpisodeReport) -> None:
        self.skipped = self.skipped + 1 if report.skipped else 0
        if report.skipped:
            log.warning(
                "episode %d: loss %g, gradient norm %g; the law was left as it was",
                report.episode, report.loss, report.gradient_norm,
            )  # fmt: skip
        if self.skipped >= _MOST_SKIPPED:
            self.skipped = 0
            raise RuntimeError(
                f"loss: {_MOST_SKIPPED} episodes in a row had no finite loss and gradient. Lower "
                'lr, shorten the rollout, or take norm="lattice"; the law is as it was before them.'
            )
