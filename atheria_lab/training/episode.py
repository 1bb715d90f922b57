"""One episode: a rollout from a fresh state, its loss, and the gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from atheria_lab import fused, lattice
from atheria_lab._checks import instance
from atheria_lab.lattice import Norm, Size
from atheria_lab.memory.device import peak_of
from atheria_lab.memory.owners import GRADIENTS, LOSS, PARAMETERS, PSI, claim, work
from atheria_lab.noise import Noise, Part, Ramp, derive_seed
from atheria_lab.rollout import SaveAt, plans, rollout
from atheria_lab.rollout.cost import check_loss
from atheria_lab.rollout.fake import fake_job
from atheria_lab.rollout.planner import measure_job
from atheria_lab.rollout.predict import Job
from atheria_lab.rollout.stepper import OnStep, Stepper
from atheria_lab.scale.parallel import Share
from atheria_lab.step import LatticeState, Step
from atheria_lab.training.losses import Loss, Trajectory

Precision = Literal["full", "bfloat16"]
Backend = Literal["auto", "torch", "native"]
Watch = Callable[[Trajectory], None]

_STREAMS = {"psi": 0, "noise": 1, "torch": 2}


@dataclass(frozen=True)
class Outcome:
    """What one episode gave; the gradients are in the parameters.

    Attributes:
        loss: its value.
        metrics: what the loss told beside it.
        peak_bytes: that rollout, loss and backward pass added; ``None`` if not measured.
    """

    loss: float
    metrics: dict[str, float]
    peak_bytes: int | None


@dataclass(frozen=True)
class Episodes:
    """Episodes by number: everything random in one follows from the seed and its number.

    The attributes are those of :class:`~atheria_lab.training.trainer.Trainer`; ``share`` is what
    this rank has of the batch.
    """

    law: nn.Module
    device: torch.device
    size: Size
    steps: int
    save_at: SaveAt
    loss: Loss
    noise: Noise | Ramp
    seed: int
    share: Share
    gamma: float
    norm: Norm | None
    reset_every: int | None
    initial: Callable[[int], Tensor] | None
    precision: Precision
    backend: Backend = "torch"

    def __post_init__(self) -> None:
        claim(PARAMETERS, [*self.law.parameters(), *self.law.buffers()])

    def step(self, episode: int) -> Step:
        """The step of an episode, with its noise."""
        noise = self.noise.at(episode)
        fits = self.share.alone or not noise
        if self.backend == "native" and not fits:
            raise ValueError(
                'backend: got "native" with noise on several ranks; the compiled noise counts '
                'cells from its own first lattice. Take "torch", or "auto", which does.'
            )
        native = self.backend == "native" or (
            self.backend == "auto" and fits and fused.why_not(self.law) is None
        )
        return (fused.FusedStep if native else Step)(
            self.law,
            gamma=self.gamma,
            norm=self.norm,
            noise=noise,
            seed=self._seed("noise", episode),
            reset_every=self.reset_every,
            part=Part(lattice=self.share.first),
        )

    def start(self, episode: int) -> tuple[Step, LatticeState]:
        """The step of an episode, and the state that it starts from."""
        step = self.step(episode)
        seed = self._seed("psi", episode)
        with work(PSI):
            state = step.initial(self._initial_psi(step, seed))
            claim(PSI, state)
        return step, state

    def _plain_loss(self, step: Step) -> Callable[[list[LatticeState]], Tensor]:
        """The loss of some saved states, for a probe."""
        told = []  # metrics live as long as their loss

        def loss(states: list[LatticeState]) -> Tensor:
            told.append(self._rate(step, [state.psi for state in states]))
            return told[-1][0]

        return loss

    def _shape(self) -> tuple[int, int, int, int]:
        """Of psi, unless ``initial`` makes it."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return self.share.lattices, height, width, self._d_state()

    def _dtype(self) -> torch.dtype:
        double = any(p.dtype == torch.float64 for p in self.law.parameters())
        return torch.complex128 if double else torch.complex64

    def _initial_psi(self, step: Step, seed: int) -> Tensor:
        if self.initial is not None:
            psi = self.initial(seed)
            instance("initial", psi, Tensor, "a function that returns psi, a complex tensor")
            return self.share.of(psi).to(self.device)
        psi = lattice.random(
            self.size,
            self._d_state(),
            seed=seed,
            batch=self.share.batch,
            norm="lattice" if step.norm == "none" else step.norm,
            dtype=self._dtype(),
            device=self.device,
        )
        return self.share.of(psi)

    def job(self, episode: int) -> Job:
        """The cost of a step and of the loss, measured."""
        step, state = self.start(episode)
        with self._autocast():
            return measure_job(
                Stepper(step, state),
                self.steps,
                self.save_at.resolve(self.steps),
                self._plain_loss(step),
            )

    def job_without_data(self) -> tuple[Job, Stepper]:
        """The same from shapes alone: no psi is made and nothing runs, whatever its size.

        The initial state must be the usual one, and scratch inside operators is not in it.
        """
        step = self.step(0)
        psi = torch.empty(*self._shape(), dtype=self._dtype(), device="meta")
        state = LatticeState(psi, step.fresh_hidden(psi))
        indices = self.save_at.resolve(self.steps)
        with self._autocast():
            return fake_job(
                step, state, self.steps, indices, self._plain_loss(step), torch.device("cpu")
            )

    def run(
        self,
        episode: int,
        plan: plans.Plan,
        *,
        measured: bool,
        keep_all: bool = False,
        watch: Watch | None = None,
        on_step: OnStep | None = None,
    ) -> Outcome:
        """Rollout, loss and backward pass of an episode.

        Args:
            episode: its number.
            plan: how to store the rollout.
            measured: on the CPU, follow the storages for the peak.
            keep_all: hold on to every state, as an unthinned psi_history does.
            watch: called with the saved states, before they are released.
            on_step: see :func:`~atheria_lab.rollout`.
        """
        step, state = self.start(episode)
        save_at = SaveAt.all() if keep_all else self.save_at
        wanted = self.save_at.resolve(self.steps)
        with self._random_numbers(episode), peak_of(self.device, measured) as peak:
            with self._autocast():
                out = rollout(step, state, self.steps, save_at, plan, on_step=on_step)
                saved = dict(zip(out.indices, out.states, strict=True))
                with work(LOSS):
                    value, metrics = self._rate(step, [saved[index].psi for index in wanted])
            with work(GRADIENTS):
                value.backward()
            claim(GRADIENTS, (p.grad for p in self.law.parameters()))
            outcome = Outcome(
                value.item(), {name: told.item() for name, told in metrics.items()}, None
            )
        if watch is not None:
            states = [saved[index].psi.detach() for index in wanted]
            watch(Trajectory(states, wanted, step.norm))
        return Outcome(outcome.loss, outcome.metrics, peak())

    def _rate(self, step: Step, states: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        rated = self.loss(Trajectory(states, self.save_at.resolve(self.steps), step.norm))
        value, metrics = _value_and_metrics(rated)
        return check_loss(value), metrics

    def _seed(self, stream: str, episode: int) -> int:
        return derive_seed(self.seed, _STREAMS[stream], episode)

    def _d_state(self) -> int:
        d_state = getattr(self.law, "d_state", None)
        if not isinstance(d_state, int):
            raise ValueError(
                f"law: {type(self.law).__name__} has no d_state, so there is no telling what psi "
                "it takes; give it that attribute, or pass initial=."
            )
        return d_state

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "full":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextlib.contextmanager
    def _random_numbers(self, episode: int) -> Iterator[None]:
        """Torch's global generators, seeded for the episode and given back as they were."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            # No two ranks drop the same cells; the first draws what one process would.
            place = (self.share.first,) if self.share.first else ()
            torch.manual_seed(derive_seed(self.seed, _STREAMS["torch"], episode, *place))
            yield


def _value_and_metrics(rated: Any) -> tuple[Any, dict[str, Tensor]]:
    """What a loss returned, a value alone or with metrics; its metrics without their graphs."""
    if not isinstance(rated, tuple):
        return rated, {}
    if len(rated) != 2 or not isinstance(rated[1], dict):
        raise TypeError(
            f"loss: it returned a tuple of {len(rated)}; it takes a real number, or that and a "
            "dict of metrics."
        )
    value, metrics = rated
    for name, metric in metrics.items():
        if not isinstance(metric, Tensor | int | float) or torch.as_tensor(metric).numel() != 1:
            raise TypeError(f"loss: its metric {name!r} is no single number, but {metric!r}.")
    return value, {name: torch.as_tensor(metric).detach() for name, metric in metrics.items()}
