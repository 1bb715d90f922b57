"""How each plan remembers a rollout, and goes back through it.

A tape makes the steps forward without a graph, hands out the kept states, and is asked once
for the gradients. It holds tensors only while it must: after the backward pass, or an error in
it, nothing is left in it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from atheria_lab.rollout import binomial
from atheria_lab.rollout.checkpoints import CheckpointStack, by_reference
from atheria_lab.rollout.plans import Checkpointed, Reversible, Tiered, Truncated
from atheria_lab.rollout.randomness import RandomState, cuda_devices, preserved
from atheria_lab.rollout.stepper import Cotangents, Leaves, Record, Stepper

# To see that a recomputed state is the same: this many elements of a leaf are compared, about,
# at about this many of the kept states, and of the checkpoints.
_SAMPLE = 64
_SAMPLED_STATES = 256


class Tape(ABC):
    """One rollout, forward and back.

    Attributes:
        advice: where the steps do not repeat themselves.

    Args:
        stepper: makes the steps.
        steps: how many.
        kept: the indices of the states that are handed out, rising.
        parameters: the leaf tensors whose gradients are wanted too.
    """

    advice = (
        "A step must be a function of (state, i): draw random numbers from torch's global "
        "generator or from atheria_lab.Noise, and keep no counters."
    )

    def __init__(
        self, stepper: Stepper, steps: int, kept: Sequence[int], parameters: Sequence[Tensor]
    ) -> None:
        self.stepper = stepper
        self.steps = steps
        self.kept = list(kept)
        self.devices = cuda_devices(stepper.leaves)
        self._edges = [get_gradient_edge(parameter) for parameter in parameters]
        self._sampled = _thinned(self.kept)
        self._samples: dict[int, list[list[Any]]] = {}
        self._start: RandomState | None = None
        self._gradients: Cotangents = []
        self._arriving: dict[int, Cotangents] = {}

    def forward(self, leaves: Leaves) -> Leaves:
        """Make all steps; the leaves of the kept states, one after the other."""
        if self._start is None:
            self._start = RandomState.capture(self.devices)
        else:  # a second time, for a second backward pass
            self._start.restore()
        kept = set(self.kept)
        outputs = list(leaves) if 0 in kept else []
        try:
            with self.stepper.same_autocast():
                for i in range(self.steps):
                    self.passing(i, leaves)
                    leaves = self.stepper.advance(leaves, i)
                    if i + 1 in kept:
                        outputs += leaves
                    if i + 1 in self._sampled:
                        self._samples[i + 1] = [_sample(leaf) for leaf in leaves]
                self.arrived(leaves)
        except BaseException:
            self.clear()
            raise
        return outputs

    def backward(
        self, initial: Leaves, arriving: dict[int, Cotangents]
    ) -> tuple[Cotangents, Cotangents]:
        """The gradients with respect to the initial leaves, and to the parameters.

        Args:
            initial: the leaves that the rollout started from.
            arriving: at some kept indices, the gradient with respect to each leaf.
        """
        self._gradients = [None] * len(self._edges)
        self._arriving = arriving
        try:
            with preserved(self.devices), self.stepper.same_autocast():
                cotangents = self.reverse(initial)
                return cotangents, self._gradients
        finally:
            self._gradients, self._arriving = [], {}
            self.clear()

    def passing(self, i: int, leaves: Leaves) -> None:
        """Called in the forward pass with the state before step i."""

    def arrived(self, leaves: Leaves) -> None:
        """Called at the end of the forward pass with the final state."""

    @abstractmethod
    def reverse(self, initial: Leaves) -> Cotangents:
        """Go back through the steps; the gradient with respect to the initial leaves."""

    def clear(self) -> None:
        """Forget all tensors."""

    @property
    def end(self) -> int:
        """The last index at which a gradient arrives: later steps do not matter."""
        felt = [
            index
            for index, grads in self._arriving.items()
            if any(grad is not None for grad in grads)
        ]
        return max(felt, default=0)

    def arriving(self, index: int) -> Cotangents:
        """The gradient that the loss sends to each leaf of the state at an index."""
        return self._arriving.get(index) or [None] * len(self.stepper.names)

    def reverse_block(
        self, leaves: Leaves, start: int, end: int, cotangents: Cotangents
    ) -> Cotangents:
        """Make the steps ``start ... end - 1`` with their graphs, and go back through them.

        Args:
            leaves: the state at ``start``; the list is emptied, so that it is not kept alive.
            start: first step.
            end: one past the last step.
            cotangents: the gradient with respect to the state at ``end``, all of it.

        Returns:
            The gradient with respect to the state at ``start``, all of it.
        """
        records: list[Record] = []
        try:
            state, leaves[:] = list(leaves), []
            for i in range(start, end):
                record, state = self.stepper.record(state, i)
                self.stepper.check_parameters(record, i)
                self.check_same(i + 1, state)
                records.append(record)
            del state, record
            for i in reversed(range(start, end)):
                taken = _storages(cotangents)
                cotangents, gradients = self.stepper.backprop(
                    records.pop(), cotangents, self._arriving.get(i), self._edges
                )
                self._add(gradients, taken | _storages(cotangents))
                del gradients
            return cotangents
        finally:
            records.clear()

    def check_same(self, index: int, leaves: Leaves) -> None:
        """Refuse a recomputed state that differs from the first one, where that was sampled."""
        first = self._samples.get(index)
        if first is None:
            return
        for name, before, leaf in zip(self.stepper.names, first, leaves, strict=True):
            if not _close(before, _sample(leaf), leaf.dtype):
                raise RuntimeError(
                    f"step: made again for the backward pass, the steps to index {index} gave "
                    f"another {name}, so their gradient would be wrong. {self.advice}"
                )

    def random_state(self, like: RandomState | None) -> RandomState:
        """The generators' present states."""
        return RandomState.capture(self.devices, like)

    def _add(self, gradients: Cotangents, taken: set[int]) -> None:
        """Add a step's parameter gradients, last step first, as plain autograd does.

        Args:
            gradients: of the step.
            taken: storages that belong to somebody else.
        """
        for place, gradient in enumerate(gradients):
            if gradient is None:
                continue
            total = self._gradients[place]
            if total is None:
                # The sum grows in place, so it must not share memory with anything else.
                own = gradient.is_contiguous() and _storage(gradient) not in taken
                self._gradients[place] = total = gradient if own else gradient.clone()
                taken.add(_storage(total))
            else:
                total.add_(gradient)


class CheckpointTape(Tape):
    """Stored states, and recomputation between them."""

    def __init__(self, plan: Checkpointed, *args: Any) -> None:
        super().__init__(*args)
        self.block = plan.block(self.steps)
        self.capacity = plan.capacity(self.steps)
        self.starts = plan.checkpoints(self.steps)
        self._wanted = {position * self.block for position in self.starts}
        # Every step lies before one of these, and is made again on the way to it.
        self._sampled |= _thinned(sorted(self._wanted))
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
        for action, position in binomial.reverse(list(self.starts), blocks, self.capacity):
            match action:
                case "load":
                    here = position
                    leaves, random = self._stack.top()
                    random.restore()
                case "advance":
                    for i in range(here * self.block, position * self.block):
                        leaves = self.stepper.advance(leaves, i)
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


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _storages(tensors: Cotangents) -> set[int]:
    return {_storage(tensor) for tensor in tensors if tensor is not None}


def _thinned(indices: Sequence[int]) -> set[int]:
    """About 256 of some rising indices at the most, the last one among them."""
    stride = -(-len(indices) // _SAMPLED_STATES)
    return {*indices[::stride], indices[-1]}


def _sample(leaf: Tensor) -> list[Any]:
    """About 64 elements, spread over the leaf, as numbers."""
    view, budget = leaf.detach(), _SAMPLE
    for dim, size in enumerate(view.shape):
        take = min(size, max(1, round(budget ** (1 / (view.dim() - dim)))))
        view = view[(slice(None),) * dim + (slice(None, None, max(1, size // take)),)]
        view = view.narrow(dim, 0, take)
        budget = max(1, budget // max(1, take))
    numbers: list[Any] = [view.tolist()]
    while numbers and isinstance(numbers[0], list):
        numbers = [number for part in numbers for number in part]
    return numbers


def _close(before: list[Any], after: list[Any], dtype: torch.dtype) -> bool:
    """Equal up to what other kernels for the same operation may round differently."""
    if before == after:
        return True
    itemsize = dtype.itemsize // (2 if dtype.is_complex else 1)
    allowed = {8: 1e-9, 4: 1e-4}.get(itemsize, 5e-2)
    scale = max((abs(number) for number in before if math.isfinite(abs(number))), default=0.0)
    return all(
        a == b or (a != a and b != b) or abs(a - b) <= allowed * scale
        for a, b in zip(before, after, strict=True)
    )
