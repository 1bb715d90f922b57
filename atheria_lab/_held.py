"""What an engine holds, and how it moves on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from atheria_lab import native
from atheria_lab.memory.owners import PARAMETERS, PSI, claim, work
from atheria_lab.step import LatticeState, Step

_SECONDS_BETWEEN_REPORTS = 0.05


class EngineState(NamedTuple):
    """What it takes to go on from here, on the CPU and apart from the engine.

    Attributes:
        psi: complex ``[B, H, W, d_state]``, a copy.
        hidden: copies of a recurrent law's hidden tensors; empty for any other.
        steps_done: steps since the start; with the seed, it is all the noise needs.
        seed: of the noise.
        law: the law's fingerprint.
    """

    psi: Tensor
    hidden: tuple[Tensor, ...]
    steps_done: int
    seed: int
    law: str


def to_cpu(tensor: Tensor) -> Tensor:
    """A copy on the CPU."""
    return tensor.to("cpu", copy=True)


class Held:
    """All that an engine holds, the law too, to be let go at once whoever holds the engine.

    No local variable here outlives an error with a tensor of the state in it: a traceback
    would keep that after ``free()``.

    Attributes:
        step: the step that it makes.
        state: psi and hidden; ``None`` once freed.
        spare: the second buffer of the compiled module.
        stepper: the compiled module's step of the law; ``None`` on PyTorch.
        steps_done: steps since the start.
    """

    def __init__(self, step: Step, state: LatticeState, fused: bool) -> None:
        self.step: Step | None = step
        self.state: LatticeState | None = state
        self.spare = torch.empty_like(state.psi) if fused else None
        self.stepper = native.Stepper(step.law) if fused else None
        self.steps_done = 0
        claim(PARAMETERS, step.law.parameters())
        claim(PSI, [state, self.spare])

    def free(self) -> None:
        """Let go."""
        self.step = self.state = self.spare = self.stepper = None

    def advance(
        self,
        n: int,
        save_every: int,
        saves: Tensor | None,
        report: Callable[[int], None] | None,
    ) -> None:
        """Make n steps, and write each ``save_every``-th state to ``saves``."""
        if self.stepper is None:
            self._on_torch(n, save_every, saves, report)
            return
        step = self.step
        assert step is not None and self.state is not None and self.spare is not None
        done, error = self.stepper.run(
            self.state.psi,
            self.spare,
            steps=n,
            first_step=self.steps_done,
            gamma=step.gamma,
            norm=step.norm,
            noise=step.noise,
            seed=step.seed,
            save_every=save_every,
            saves=saves,
            progress=report,
        )
        del step
        self.steps_done += done
        if error is not None:
            raise error

    def _on_torch(
        self,
        n: int,
        save_every: int,
        saves: Tensor | None,
        report: Callable[[int], None] | None,
    ) -> None:
        last_report = time.monotonic()
        for i in range(1, n + 1):
            if self.step is None or self.state is None:
                raise RuntimeError("This engine was closed while it stepped.")
            with work(PSI):
                self.state = self.step(self.state, self.steps_done)
            self.steps_done += 1
            if saves is not None and i % save_every == 0:
                saves[i // save_every - 1].copy_(self.state.psi)
            if report is not None and time.monotonic() - last_report > _SECONDS_BETWEEN_REPORTS:
                report(i)
                last_report = time.monotonic()
        claim(PSI, self.state)
