"""Train a law by rollouts that stay within a memory budget."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from atheria_lab import lattice
from atheria_lab._checks import integer, number
from atheria_lab.lattice import Norm, Size
from atheria_lab.laws.base import Law
from atheria_lab.laws.base import build as build_law
from atheria_lab.memory import format_size, parse_size
from atheria_lab.memory.device import is_out_of_memory, peak_of
from atheria_lab.noise import Noise, Ramp, derive_seed
from atheria_lab.rollout import BudgetError, RolloutPlan, SaveAt, plans, rollout
from atheria_lab.rollout.cost import check_loss
from atheria_lab.rollout.planner import measure_job, survey
from atheria_lab.rollout.predict import Job, peak_bytes
from atheria_lab.rollout.stepper import Stepper
from atheria_lab.step import LatticeState, Step
from atheria_lab.training import checkpoints
from atheria_lab.training.facts import noise_facts, noise_from, plan_facts, plan_from
from atheria_lab.training.losses import Loss, Trajectory, find_loss
from atheria_lab.training.progress import progress_bar
from atheria_lab.training.report import EpisodeReport

Measure = Literal["first", "always", "never"]
Precision = Literal["full", "bfloat16"]
Schedule = Literal["constant", "cosine"]

log = logging.getLogger(__name__)

# So many episodes in a row without a finite gradient end the training.
_MOST_SKIPPED = 5
_STREAMS = {"psi": 0, "noise": 1, "torch": 2}


class Trainer:
    """Trains a law: one rollout, one loss, one step of AdamW an episode.

    Each episode starts from a fresh state, fresh hidden tensors and random numbers of its own,
    all derived from ``seed`` and the episode's number: the same trainer repeats itself, and a
    loaded one goes on as the saved one would have.

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
        batch: lattices at once.
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
        reset_every: int | None = None,
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
    ) -> None:
        self._settings: dict[str, Any] = {
            "size": size if isinstance(size, int) else list(size),
            "steps": integer("steps", steps),
            "lr": number("lr", lr, least=0.0),
            "seed": integer("seed", seed, least=0),
            "batch": integer("batch", batch),
            "gamma": gamma,
            "norm": norm,
            "reset_every": reset_every,
            "schedule": _one_of("schedule", schedule, get_args(Schedule)),
            "schedule_episodes": integer("schedule_episodes", schedule_episodes),
            "weight_decay": number("weight_decay", weight_decay, least=0.0),
            "clip": number("clip", clip, least=0.0),
            "precision": _one_of("precision", precision, get_args(Precision)),
            "measure": _one_of("measure", measure, get_args(Measure)),
            "history": integer("history", history),
        }
        parameters = [p for p in law.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("law: it has no parameter that requires grad, so nothing to train.")
        self.device = torch.device(device) if device is not None else parameters[0].device
        self.law = law.to(self.device)
        parameters = [p for p in law.parameters() if p.requires_grad]
        if precision == "bfloat16" and self.device.type != "cuda":
            raise ValueError(
                f'precision: got "bfloat16" on {self.device}; it is for CUDA. Take "full".'
            )
        self.budget = None if budget is None else parse_size(budget, name="budget")
        self.save_at = save_at if save_at is not None else SaveAt.at_most(10)
        self.noise = noise or Noise()
        self.episode = 0
        self.reports: deque[EpisodeReport] = deque(maxlen=history)
        self._step = self._make_step(0)
        self._loss = find_loss(loss, self._step.norm, unitary=self._step.unitary)
        self._loss_name = loss if isinstance(loss, str) else None
        self._initial = initial
        self._given_plan = plan
        self._plan: plans.Plan | None = None
        self._predicted = 0
        self._measured: set[plans.Plan] = set()
        self._skipped = 0
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    @property
    def steps(self) -> int:
        """Steps of a rollout."""
        steps: int = self._settings["steps"]
        return steps

    def plan_rollout(self) -> RolloutPlan:
        """Every plan for this trainer's rollouts, the loss included, without training."""
        state = self._start()
        return survey(self._job(state), Stepper(self._step, state), self.budget)

    def train(
        self,
        episodes: int,
        *,
        progress: bool = True,
        on_episode: Callable[[EpisodeReport], None] | None = None,
        watch: Callable[[Trajectory], None] | None = None,
    ) -> list[EpisodeReport]:
        """Train some episodes more.

        Args:
            episodes: how many.
            progress: show a bar.
            on_episode: called with each report.
            watch: called with each episode's saved states, before they are released.

        Returns:
            The reports, as many of the last ones as ``history`` keeps.
        """
        integer("episodes", episodes)
        new: deque[EpisodeReport] = deque(maxlen=self.reports.maxlen)
        with progress_bar(episodes, progress) as bar:
            for _ in range(episodes):
                report = self.train_episode(watch)
                new.append(report)
                bar(report)
                if on_episode is not None:
                    on_episode(report)
        return list(new)

    def train_episode(self, watch: Callable[[Trajectory], None] | None = None) -> EpisodeReport:
        """One rollout, its loss, its gradient, and one step of the optimizer.

        Args:
            watch: called with the saved states, before they are released.

        Raises:
            BudgetError: no exact plan meets the budget; nothing has been trained.
            RuntimeError: five episodes in a row had no finite gradient.
        """
        start = time.perf_counter()
        warned = False
        while True:
            try:
                if self._plan is None:
                    self._replan()
                loss, metrics, peak = self._gradient(watch)
                break
            except BaseException as error:
                self.optimizer.zero_grad(set_to_none=True)
                # The frames of the failed episode would keep its tensors alive.
                if error.__traceback__ is not None:
                    traceback.clear_frames(error.__traceback__)
                if not is_out_of_memory(error):
                    raise
                self._shrink(error, warn=not warned)
                warned = True
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        norm = float(nn.utils.clip_grad_norm_(self.law.parameters(), self._settings["clip"]))
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        if not skipped:
            self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        assert self._plan is not None
        report = EpisodeReport(
            episode=self.episode,
            loss=loss,
            metrics=metrics,
            seconds=time.perf_counter() - start,
            peak_bytes=peak,
            predicted_bytes=self._predicted,
            plan=self._plan,
            gradient_norm=norm,
            skipped=skipped,
        )
        self.episode += 1
        self.reports.append(report)
        self._guard(report)
        return report

    def job(self) -> Job:
        """The cost of a step and of the loss, measured: what predictions are made from."""
        return self._job(self._start())

    def try_plan(self, plan: plans.Plan, *, keep_all: bool = False) -> int:
        """Bytes that one episode adds at its peak under another plan; the law is left as it is.

        Args:
            plan: to try, whatever the budget.
            keep_all: hold on to every state of the rollout, as an unthinned psi_history does.
        """
        state = self._start()
        save_at = SaveAt.all() if keep_all else self.save_at
        with self._random_numbers(), peak_of(self.device, wanted=True) as peak:
            with self._precision():
                out = rollout(self._step, state, self.steps, save_at, plan)
                places = [out.indices.index(i) for i in self.save_at.resolve(self.steps)]
                rating = self._rate_states([out.states[place] for place in places])
            rating.value.backward()
        self.optimizer.zero_grad(set_to_none=True)
        measured = peak()
        assert measured is not None
        return measured

    def save(self, path: str | Path) -> None:
        """Save everything that the next episode depends on, atomically, in one file.

        Args:
            path: of a safetensors file; it is replaced if it exists.
        """
        tensors = {f"law.{name}": tensor for name, tensor in self.law.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        for index, state in optimizer["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        law = self.law
        facts = {
            "law": [type(law).__name__, law.config()] if isinstance(law, Law) else None,
            "settings": self._settings,
            "budget": self.budget,
            "save_at": [self.save_at.rule, list(self.save_at.numbers)],
            "loss": self._loss_name,
            "noise": noise_facts(self.noise),
            "initial": self._initial is None,
            "given_plan": plan_facts(self._given_plan),
            "plan": plan_facts(self._plan),
            "predicted": self._predicted,
            "episode": self.episode,
            "skipped": self._skipped,
            "groups": optimizer["param_groups"],
            "scheduler": {
                name: value
                for name, value in self.scheduler.state_dict().items()
                if name != "lr_lambdas"
            },
        }
        checkpoints.write(Path(path), tensors, facts)

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
            path: of the file.
            law: an instance to load the weights into; needed for a law that is no
                :class:`~atheria_lab.laws.Law`.
            loss: the loss function; needed if it was a function.
            initial: the function of the initial state; needed if there was one.
            device: where to train; by default the CPU, or where ``law`` is.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or newer, or something that was a function is missing.
        """
        path = Path(path)
        tensors, facts = checkpoints.read(path)
        if law is None:
            if facts["law"] is None:
                raise ValueError(f"law: {path} holds a law of your own; pass an instance of it.")
            law = build_law(*facts["law"])
        weights = {
            name.removeprefix("law."): value
            for name, value in tensors.items()
            if name.startswith("law.")
        }
        dtype = next(value.dtype for value in weights.values() if value.is_floating_point())
        law.to(dtype).load_state_dict(weights)
        if loss is None and facts["loss"] is None:
            raise ValueError(f"loss: {path} was trained with a function; pass it.")
        if initial is None and not facts["initial"]:
            raise ValueError(f"initial: {path} was trained with a function; pass it.")
        settings = facts["settings"]
        if isinstance(settings["size"], list):
            settings["size"] = tuple(settings["size"])
        rule, numbers = facts["save_at"]
        trainer = cls(
            law,
            budget=facts["budget"],
            save_at=SaveAt(rule, tuple(numbers)),
            loss=loss if loss is not None else facts["loss"],
            noise=noise_from(facts["noise"]),
            initial=initial,
            plan=plan_from(facts["given_plan"]),
            device=device,
            **settings,
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        trainer.optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
        trainer.scheduler.load_state_dict({**facts["scheduler"], "lr_lambdas": [None]})
        trainer.episode = facts["episode"]
        trainer._skipped = facts["skipped"]
        trainer._plan = plan_from(facts["plan"])
        trainer._predicted = facts["predicted"]
        return trainer

    def __repr__(self) -> str:
        budget = "no budget" if self.budget is None else f"budget {format_size(self.budget)}"
        return (
            f"Trainer({type(self.law).__name__}, size={self._settings['size']}, "
            f"steps={self.steps}, {budget}, episode={self.episode}, plan={self._plan!r})"
        )

    def _rate(self, episode: int) -> float:
        if self._settings["schedule"] == "constant":
            return 1.0
        done = min(1.0, episode / self._settings["schedule_episodes"])
        return 0.5 * (1 + math.cos(math.pi * done))

    def _make_step(self, episode: int) -> Step:
        settings = self._settings
        return Step(
            self.law,
            gamma=settings["gamma"],
            norm=settings["norm"],
            noise=self.noise.at(episode),
            seed=self._seed("noise", episode),
            reset_every=settings["reset_every"],
        )

    def _seed(self, stream: str, episode: int) -> int:
        return derive_seed(self._settings["seed"], _STREAMS[stream], episode)

    def _start(self) -> LatticeState:
        """The episode's step and its initial state."""
        self._step = self._make_step(self.episode)
        seed = self._seed("psi", self.episode)
        if self._initial is not None:
            psi = self._initial(seed).to(self.device)
        else:
            double = any(p.dtype == torch.float64 for p in self.law.parameters())
            psi = lattice.random(
                self._settings["size"],
                self._d_state(),
                seed=seed,
                batch=self._settings["batch"],
                norm="lattice" if self._step.norm == "none" else self._step.norm,
                dtype=torch.complex128 if double else torch.complex64,
                device=self.device,
            )
        return self._step.initial(psi)

    def _d_state(self) -> int:
        d_state = getattr(self.law, "d_state", None)
        if not isinstance(d_state, int):
            raise ValueError(
                f"law: {type(self.law).__name__} has no d_state, so there is no telling what psi "
                "it takes; give it that attribute, or pass initial=."
            )
        return d_state

    def _rate_states(self, states: list[LatticeState]) -> Rating:
        rated = self._loss(self._trajectory([state.psi for state in states]))
        value, metrics = rated if isinstance(rated, tuple) else (rated, {})
        told = {name: metric.detach() for name, metric in metrics.items()}
        return Rating(check_loss(value), told)

    def _trajectory(self, states: list[Tensor]) -> Trajectory:
        return Trajectory(states, self.save_at.resolve(self.steps), self._step.norm)

    def _job(self, state: LatticeState) -> Job:
        with self._precision():
            return measure_job(
                Stepper(self._step, state),
                self.steps,
                self.save_at.resolve(self.steps),
                lambda states: self._rate_states(states).value,
            )

    def _replan(self) -> None:
        state = self._start()
        job = self._job(state)
        plan = self._given_plan
        if plan is None and self.budget is None:
            plan = plans.StoreAll()
        if plan is None:
            chosen = survey(job, Stepper(self._step, state), self.budget).chosen
            self._plan, self._predicted = chosen.plan, chosen.peak_bytes
            return
        peak = peak_bytes(plan, job)
        if self.budget is not None and peak > self.budget:
            raise BudgetError(
                f"budget: got {format_size(self.budget)}, but {plan!r} needs {format_size(peak)}. "
                "Give it that, or leave out the plan.",
                peak,
            )
        self._plan, self._predicted = plan, peak

    def _shrink(self, error: BaseException, *, warn: bool) -> None:
        """After the device ran out of memory: half of what was tried."""
        tried = self._predicted or self.budget
        if not tried or self._given_plan is not None:
            raise error
        self.budget, self._plan = tried // 2, None
        if warn:
            warnings.warn(
                f"Out of memory with a plan of {format_size(tried)}; the episode is repeated from "
                f"the same seed within {format_size(self.budget)}. Give a smaller budget to avoid "
                "the failed try.",
                RuntimeWarning,
                stacklevel=3,
            )
        log.info("replanned within %s after: %s", format_size(self.budget), error)

    def _gradient(
        self, watch: Callable[[Trajectory], None] | None
    ) -> tuple[float, dict[str, float], int | None]:
        """Rollout, loss and backward pass; the measured peak if this episode has one."""
        assert self._plan is not None
        state = self._start()
        measured = self._settings["measure"]
        wanted = measured == "always" or (measured == "first" and self._plan not in self._measured)
        with self._random_numbers(), peak_of(self.device, wanted) as peak:
            with self._precision():
                out = rollout(self._step, state, self.steps, self.save_at, self._plan)
                rating = self._rate_states(out.states)
            rating.value.backward()
            loss = rating.value.item()
            metrics = {name: value.item() for name, value in rating.metrics.items()}
        bytes_ = peak()
        if bytes_ is not None:
            self._measured.add(self._plan)
        if watch is not None:
            watch(self._trajectory([state.psi.detach() for state in out.states]))
        return loss, metrics, bytes_

    def _guard(self, report: EpisodeReport) -> None:
        self._skipped = self._skipped + 1 if report.skipped else 0
        if report.skipped:
            log.warning(
                "episode %d: loss %g, gradient norm %g; the law was left as it was",
                report.episode,
                report.loss,
                report.gradient_norm,
            )
        if self._skipped >= _MOST_SKIPPED:
            self._skipped = 0
            raise RuntimeError(
                f"loss: {_MOST_SKIPPED} episodes in a row had no finite loss and gradient. Lower "
                'lr, shorten the rollout, or take norm="lattice"; the law is as it was before them.'
            )

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._settings["precision"] == "full":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextlib.contextmanager
    def _random_numbers(self) -> Iterator[None]:
        """Torch's global generators, seeded for the episode and given back as they were."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self._seed("torch", self.episode))
            yield


class Rating:
    """A loss and what it told beside it."""

    def __init__(self, value: Tensor, metrics: dict[str, Tensor]) -> None:
        self.value = value
        self.metrics = metrics


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}; it takes one of {', '.join(map(repr, allowed))}.")
    return value
