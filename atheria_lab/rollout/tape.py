"""A tape remembers a rollout, and goes back through it: what all plans have in common.

A tape makes the steps forward without a graph, hands out the kept states, and is asked once
for the gradients. It holds tensors only while it must: after the backward pass, or an error in
it, nothing is left in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from atheria_lab.memory.owners import GRADIENTS, PSI, SEGMENT, work
from atheria_lab.rollout.randomness import RandomState, cuda_devices, preserved
from atheria_lab.rollout.samples import Samples
from atheria_lab.rollout.stepper import Cotangents, Leaves, Record, Stepper


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
        self._parameters = list(parameters)
        self._edges = [get_gradient_edge(parameter) for parameter in parameters]
        self._samples = Samples(stepper.names, self.kept)
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
                    leaves = self.advance(leaves, i)
                    if i + 1 in kept:
                        outputs += leaves
                    self._samples.take(i + 1, leaves)
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
            self.stepper.check_numbers(self._parameters)
            with (
                preserved(self.devices),
                self.stepper.same_autocast(),
                _hooks_asleep(self._parameters),
            ):
                cotangents = self.reverse(initial)
                return cotangents, self._gradients
        finally:
            self._gradients, self._arriving = [], {}
            self.clear()

    def advance(self, leaves: Leaves, i: int) -> Leaves:
        """Step i without a graph."""
        with work(PSI):
            return self.stepper.advance(leaves, i)

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
        if end - start == 1 and self.stepper.has_vjp:
            return self._pull_back(leaves, start, cotangents)
        records: list[Record] = []
        try:
            state, leaves[:] = list(leaves), []
            for i in range(start, end):
                with work(SEGMENT):
                    record, state = self.stepper.record(state, i)
                self.stepper.check_parameters(record, i)
                self.check_same(i + 1, state)
                records.append(record)
            del state, record
            for i in reversed(range(start, end)):
                taken = _storages(cotangents)
                with work(GRADIENTS):
                    cotangents, gradients = self.stepper.backprop(
                        records.pop(), cotangents, self._arriving.get(i), self._edges
                    )
                    self._add(gradients, taken | _storages(cotangents))
                del gradients
            return cotangents
        finally:
            records.clear()

    def _pull_back(self, leaves: Leaves, i: int, cotangents: Cotangents) -> Cotangents:
        """The same through step i, which needs no graph for it."""
        state, leaves[:] = list(leaves), []
        (cotangent,) = cotangents
        (arriving,) = self.arriving(i)
        if cotangent is None:
            return [arriving]
        with work(SEGMENT):
            parameters, back = self.stepper.vjp(state, i)
        del state
        places = {id(parameter): place for place, parameter in enumerate(self._parameters)}
        with work(GRADIENTS):
            found, of_each = back(cotangent)
            del back
            if arriving is not None:
                found += arriving
            gradients: Cotangents = [None] * len(self._parameters)
            for parameter, gradient in zip(parameters, of_each, strict=True):
                place = places[id(parameter)]
                before = gradients[place]  # one tensor may be two of the parameters
                gradients[place] = gradient if before is None else before + gradient
            self._add(gradients, _storages([found, cotangent]))
        return [found]

    def check_same(self, index: int, leaves: Leaves) -> None:
        """Refuse a recomputed state that differs from the first one, where that was sampled."""
        for name in self._samples.differing(index, leaves):
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


@contextmanager
def _hooks_asleep(parameters: Sequence[Tensor]) -> Generator[None]:
    """No hook on a parameter sees the parts: it is called once, with the whole gradient."""
    hooks = [leaf._backward_hooks for leaf in parameters if leaf._backward_hooks]
    kept = [dict(registered) for registered in hooks]
    for registered in hooks:
        registered.clear()
    try:
        yield
    finally:
        for registered, before in zip(hooks, kept, strict=True):
            registered.update(before)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _storages(tensors: Cotangents) -> set[int]:
    return {_storage(tensor) for tensor in tensors if tensor is not None}
