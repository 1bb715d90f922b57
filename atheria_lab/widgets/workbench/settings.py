"""What a workbench is set to: plain values, one for each control."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from atheria_lab import lattice, laws
from atheria_lab.lattice import Norm
from atheria_lab.noise import Noise
from atheria_lab.rollout import SaveAt
from atheria_lab.training import Trainer

MakeLaw = Callable[[int, int], nn.Module]

# What has to be made anew when one of these changes; each takes in those before.
LAW = ("law", "hidden", "d_state", "seed")
LATTICE = (*LAW, "size", "start")
MOTION = (*LATTICE, "gamma", "norm", "noise")
TRAINING = (*MOTION, "steps", "keep", "budget", "lr")

LAWS: dict[str, MakeLaw] = {
    "Conv": lambda d_state, hidden: laws.Conv(d_state, hidden, activation="tanh"),
    "MLP": lambda d_state, hidden: laws.MLP(d_state, hidden),
    "UNet": lambda d_state, hidden: laws.UNet(d_state, hidden, levels=1),
    "ConvLSTMUNet": lambda d_state, hidden: laws.ConvLSTMUNet(d_state, hidden, levels=1),
    "Brickwork": lambda d_state, hidden: laws.Brickwork(d_state),
}
STARTS: dict[str, Callable[[int, int, int], Tensor]] = {
    "gaussian": lambda size, d_state, seed: lattice.gaussian(
        size, d_state, width=0.08, wave=(2, 3)
    ),
    "random": lambda size, d_state, seed: lattice.random(size, d_state, seed=seed),
    "plane wave": lambda size, d_state, seed: lattice.plane_wave(size, d_state, wave=(1, 2)),
}


@dataclass(frozen=True)
class Settings:
    """A workbench's settings.

    Attributes:
        law: its name.
        hidden: channels of the law.
        d_state: complex amplitudes in a cell.
        size: cells along each side.
        start: "gaussian", "random" or "plane wave": where a run starts from.
        seed: of the law's weights, the start and the episodes.
        gamma: see :class:`~atheria_lab.Step`.
        norm: likewise; a unitary law keeps the norm by itself.
        noise: the strength of the phase noise.
        steps: of a training rollout.
        keep: states that the loss sees.
        budget: bytes that an episode may add.
        lr: learning rate.
        every: steps of a run between two snapshots.
        limit: snapshots that are kept.
        host_budget: bytes of them in memory.
        entries: of the log.
    """

    law: str = "Conv"
    hidden: int = 16
    d_state: int = 4
    size: int = 64
    start: str = "gaussian"
    seed: int = 0
    gamma: float = 0.02
    norm: str = "lattice"
    noise: float = 0.0
    steps: int = 100
    keep: int = 10
    budget: int = 16 * 2**20
    lr: float = 1e-3
    every: int = 10
    limit: int = 100
    host_budget: int = 4 * 2**20
    entries: int = 500

    def differs(self, other: Settings | None, names: Iterable[str]) -> bool:
        """Whether one of these is another in ``other``."""
        return other is None or any(getattr(self, name) != getattr(other, name) for name in names)

    def key(self, names: Iterable[str]) -> tuple[object, ...]:
        """The values of these."""
        return tuple(getattr(self, name) for name in names)

    def make_law(self, makers: Mapping[str, MakeLaw]) -> nn.Module:
        """A fresh law, its weights drawn from the seed."""
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            return makers[self.law](self.d_state, self.hidden)

    def make_psi(self) -> Tensor:
        """Where a run starts, complex64 ``[1, size, size, d_state]``."""
        return STARTS[self.start](self.size, self.d_state, self.seed)

    def motion(self, law: nn.Module) -> dict[str, object]:
        """The options of a step of this law."""
        unitary = bool(getattr(law, "unitary", False))
        return {
            "gamma": self.gamma,
            "norm": None if unitary else cast(Norm, self.norm),
            "noise": Noise(phase=self.noise) if self.noise else None,
            "seed": self.seed,
        }

    def make_trainer(self, law: nn.Module, budget: int | None) -> Trainer:
        """A trainer of this law; where the law does not say its d_state, these settings do."""

        def initial(seed: int) -> Tensor:
            return lattice.random(self.size, self.d_state, seed=seed)

        return Trainer(
            law, self.size, self.steps, budget, SaveAt.at_most(self.keep), lr=self.lr,
            initial=None if isinstance(getattr(law, "d_state", None), int) else initial,
            **self.motion(law),  # type: ignore[arg-type]
        )  # fmt: skip
