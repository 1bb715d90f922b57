"""How each plan remembers a rollout: checkpoints, cuts, or the step's inverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from atheria_lab.memory.owners import PSI, work
from atheria_lab.rollout import binomial
from atheria_lab.rollout.checkpoints import CheckpointStack, by_reference
from atheria_lab.rollout.plans import Checkpointed, Reversible, Tiered, Truncated
from atheria_lab.rollout.randomness import RandomState
from atheria_lab.rollout.stepper import Cotangents, Leaves
from atheria_lab.rollout.tape import Tape


class CheckpointTape(Tape):
    """Stored states, and recomputation between them."""

    def __init__(self, plan: Checkpointed, *args: Any) -> None:
        super().__init__(*args)
        self.block = plan.block(self.steps)
        self.capacity = plan.capacity(self.steps)
        self.starts = plan.checkpoints(self.steps, self.kept)
        self.anchors = plan.anchors(self.steps, self.kept)
        self._wanted = {position * self.block for position in self.starts}
        # Every step lies before one of these, and is made again on the way to it.
        self._samples.look_at(sorted(self._wanted))
        self._stack = CheckpointStack(plan.tier) if isinstance(plan, Tiered) else CheckpointStack()
        self._random: RandomState | None = None

    def passing(self, i: int, leaves: Leaves) -> None:
        if i in self._wanted:
            self._push(leaves)

    def reverse(self, initial: Leaves) -> Cotangents:
        if not len(self._stack):  # a second backward pass: the first one used them up
            self.forward(initial)
        end = self.end
        cotangents = self.arriving(end)
        blocks = -(-end // self.block)
        here, leaves = 0, initial
        schedule = binomial.reverse(list(self.starts), blocks, self.capacity, self.anchors)
        for action, position in schedule:
            match action:
                case "load":
                    here = position
                    leaves, random = self._stack.top()
                    random.restore()
                case "advance":
                    for i in range(here * self.block, position * self.block):
                        leaves = self.advance(leaves, i)
                    here = position
                case "store":
                    self._push(leaves)
                case "drop":
                    self._stack.drop()
                case "reverse":
                    start = position * self.block
                    stop = min(start + self.block, end)
                    cotangents = self.reverse_block(leaves, start, stop, cotangents)
        return cotangents

    def clear(self) -> None:
        self._stack.clear()

    def _push(self, leaves: Leaves) -> None:
        self._random = self.random_state(self._random)
        self._stack.push(leaves, self._random)


class TruncatedTape(Tape):
    """The start of each segment in which a state is kept; no gradient crosses the cuts."""

    def __init__(self, plan: Truncated, *args: Any) -> None:
        super().__init__(*args)
        self.starts = {plan.start(index, self.steps): index for index in self.kept if index}
        self._stack = CheckpointStack()
        self._random: RandomState | None = None

    def passing(self, i: int, leaves: Leaves) -> None:
        if i in self.starts:
            self._random = self.random_state(self._random)
            self._stack.push(leaves, self._random)

    def reverse(self, initial: Leaves) -> Cotangents:
        if not len(self._stack):
            self.forward(initial)
        cotangents = self.arriving(0)
        for start in sorted(self.starts, reverse=True):
            leaves, random = self._stack.top()
            random.restore()
            stop = min(self.starts[start], self.end)
            if stop > start:
                cotangents = self.reverse_block(leaves, start, stop, self.arriving(stop))
            self._stack.drop()
        return cotangents if 0 in self.starts else self.arriving(0)

    def clear(self) -> None:
        self._stack.clear()


class ReversibleTape(Tape):
    """The kept states only; those between come from the step's inverse.

    Attributes:
        error: the largest relative error of a state that came back, once the backward pass is
            done.
    """

    advice = (
        "Either the step's inverse is not its inverse, or the step is no function of (state, i)."
    )

    def __init__(self, plan: Reversible, *args: Any) -> None:
        super().__init__(*args)
        self._tolerance = plan.tolerance
        self._anchors: dict[int, Callable[[], Leaves]] = {}
        self._anchored = frozenset(self.kept)
        self.error: float | None = None

    def passing(self, i: int, leaves: Leaves) -> None:
        if i in self._anchored:
            self._anchors[i] = by_reference(leaves)

    def arrived(self, leaves: Leaves) -> None:
        self._anchors[self.steps] = by_reference(leaves)
        if self.random_state(self._start) is not self._start:
            raise RuntimeError(
                "plan: Reversible cannot replay a step that draws from torch's global generator "
                "(dropout?). Use atheria_lab.Noise, or another plan."
            )

    def reverse(self, initial: Leaves) -> Cotangents:
        if not self._anchors:
            self.forward(initial)
        end = self.end
        cotangents = self.arriving(end)
        for later in [index for index in self._anchors if index > end]:
            del self._anchors[later]
        self.error = 0.0
        leaves = self._anchors.pop(end)() if end else initial
        for i in reversed(range(end)):
            with work(PSI):
                leaves = self.stepper.inverse(leaves, i)
            if i == 0 or i in self._anchors:
                anchor = self._anchors.pop(i)() if i else initial
                self._compare(leaves, anchor, i)
                leaves = anchor
            cotangents = self.reverse_block(list(leaves), i, i + 1, cotangents)
        return cotangents

    def clear(self) -> None:
        self._anchors.clear()

    def _compare(self, back: Leaves, anchor: Leaves, i: int) -> None:
        for name, leaf, first in zip(self.stepper.names, back, anchor, strict=True):
            if not (leaf.is_floating_point() or leaf.is_complex()):
                continue
            size = torch.linalg.vector_norm(first).item()
            error = torch.linalg.vector_norm(leaf - first).item() / max(size, 1e-30)
            self.error = max(self.error or 0.0, error)
            allowed = self._tolerance
            if allowed is None:
                allowed = 1e-3 if leaf.real.dtype.itemsize <= 4 else 1e-9
            if not error <= allowed:
                raise RuntimeError(
                    f"plan: Reversible made {name} at index {i} again with a relative error of "
                    f"{error:.1e}, beyond its tolerance of {allowed:.1e}. Save more states, use "
                    "64-bit numbers, or another plan; or the step's inverse is not its inverse."
                )
