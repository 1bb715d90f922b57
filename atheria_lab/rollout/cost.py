"""What one step costs, measured; and what a plan costs, predicted from it.

The probe makes one step in each of the ways a plan does, with the very code that a plan runs,
under ``track_peak``. It needs no more memory than the smallest plan. A plan's peak then follows
by going through its schedule and counting what is alive.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from atheria_lab.memory import Peak, track_peak
from atheria_lab.memory.scratch import allocated_peaks
from atheria_lab.rollout import buffers
from atheria_lab.rollout.parameters import closed_over
from atheria_lab.rollout.randomness import cuda_devices, preserved
from atheria_lab.rollout.stepper import Cotangents, Leaves, Stepper

Loss = Callable[[list[Any]], Tensor]

# Bytes of a loss's value.
_VALUE = 8
_IGNORANT = (
    "loss: it does not depend on any saved state, so nothing can be learned from it. Let it read "
    "the states that it is given (without detach or .data)."
)


@dataclass(frozen=True)
class StepCost:
    """The cost of one step; bytes of tensors, seconds.

    Attributes:
        state: a new state. Leaves that the step passes on unchanged cost nothing.
        advance: at the peak of a step without a graph, the new state included.
        record: at the peak of a step with its graph, the new state included.
        graph: what the graph keeps beside its input and output states.
        keeps_input: of the input state, what the graph keeps alive.
        keeps_output: of the output state, likewise.
        keeps_either: of a state between two recorded steps, likewise.
        backprop: at the peak of the way back, over the graph and the gradient it starts from.
        backprop_held: the same where something else keeps the input state alive.
        cotangent: the gradient with respect to a state.
        parameters: the gradients with respect to the parameters.
        largest: the largest of them; plain autograd adds two of them to a third.
        invert: at the peak of the inverse step; 0 without one.
        advance_seconds: a step without a graph.
        gradient_seconds: a step with its graph, and the way back.
        invert_seconds: the inverse step.
        advance_scratch: over ``advance``: what operators take inside, by the CPU's allocator; 0
            on other devices.
        record_scratch: over ``record``, likewise.
        backprop_scratch: over ``backprop``, likewise.
    """

    state: int
    advance: int
    record: int
    graph: int
    keeps_input: int
    keeps_output: int
    keeps_either: int
    backprop: int
    backprop_held: int
    cotangent: int
    parameters: int
    largest: int
    invert: int
    advance_seconds: float
    gradient_seconds: float
    invert_seconds: float
    advance_scratch: int = 0
    record_scratch: int = 0
    backprop_scratch: int = 0

    def with_scratch(self) -> StepCost:
        """The same, with what operators take inside."""
        return replace(
            self,
            advance=self.advance + self.advance_scratch,
            record=self.record + self.record_scratch,
            backprop=self.backprop + self.backprop_scratch,
            backprop_held=self.backprop_held + self.backprop_scratch,
            invert=self.invert + (self.advance_scratch if self.invert else 0),
        )


@dataclass(frozen=True)
class LossCost:
    """The cost of a loss over the saved states, in bytes.

    Attributes:
        forward: at the peak of computing it.
        graph: what it keeps for its way back.
        backward: at the peak of the way back, over the graph.
        gradients: the gradients with respect to the saved states, and what else of the loss is
            alive until the rollout's own way back ends: its value.
    """

    forward: int
    graph: int
    backward: int
    gradients: int


def measure_step(stepper: Stepper, steps: int) -> StepCost:
    """Probe one step from the initial state; random generators go on as if it had not run."""
    initial = [leaf.detach() for leaf in stepper.leaves]
    index = min(1, steps - 1)
    with (
        preserved(cuda_devices(initial)),
        stepper.same_autocast(),
        buffers.restored(stepper.step),
    ):
        cost = probe_step(stepper, steps)
        scratch = _scratch(stepper, initial, index)
        seconds = _time_step(stepper, initial, index)
    return replace(
        cost,
        advance_seconds=seconds[0],
        gradient_seconds=seconds[1],
        invert_seconds=seconds[2],
        advance_scratch=scratch[0],
        record_scratch=scratch[1],
        backprop_scratch=scratch[2],
    )


def probe_step(stepper: Stepper, steps: int) -> StepCost:
    """The bytes of a step, counted; the times stand for one step and two more to go back."""
    initial = [leaf.detach() for leaf in stepper.leaves]
    index = min(1, steps - 1)
    # A recurrent step costs something else where its hidden tensors start anew.
    anew = getattr(stepper.step, "reset_every", None) or index
    with stepper.same_autocast():
        probes = [_probe_step(stepper, initial, at) for at in sorted({index, min(anew, steps - 1)})]
        invert = 0
        if stepper.invertible:
            with track_peak() as peak:
                stepper.inverse(initial, index)
            invert = peak.peak_bytes
    return StepCost(
        **{name: max(getattr(probe, name) for probe in probes) for name in vars(probes[0])},
        invert=invert,
        advance_seconds=1.0,
        gradient_seconds=3.0,
        invert_seconds=1.0,
    )


def measure_loss(loss: Loss | None, stepper: Stepper, cost: StepCost, saved: int) -> LossCost:
    """Probe a loss on copies by reference of the initial state, one for each saved state."""
    if loss is None:
        dense = saved * cost.cotangent + 2 * _VALUE
        return LossCost(_VALUE, _VALUE, dense - _VALUE, dense)
    leaves = [
        leaf.detach().requires_grad_(differs)
        for _ in range(saved)
        for leaf, differs in zip(stepper.leaves, stepper.differentiable, strict=True)
    ]
    width = len(stepper.leaves)
    states = [
        stepper.unflatten(leaves[place * width : (place + 1) * width]) for place in range(saved)
    ]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    with preserved(cuda_devices(leaves)), track_peak() as peak:
        with torch.enable_grad():
            value = loss(states)
        check_loss(value)
        forward, graph = peak.peak_bytes, peak.live_bytes
        peak.reset_peak()
        gradients = torch.autograd.grad(value, wanted, allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise ValueError(_IGNORANT)
        backward = peak.peak_bytes - graph
        left = peak.live_bytes + value.element_size()  # its own gradient: 1
    return LossCost(forward, graph, backward, left)


def check_loss(value: object) -> Tensor:
    """Refuse what no gradient can start from.

    Raises:
        TypeError: no tensor.
        ValueError: not one real number, or one that depends on no saved state.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"loss: it returned {type(value).__name__}; it takes a tensor.")
    if value.numel() != 1 or value.is_complex():
        raise ValueError(
            f"loss: it returned {value.dtype} of shape {tuple(value.shape)}; it takes one real "
            "number."
        )
    if not value.requires_grad:
        raise ValueError(_IGNORANT)
    return value


@dataclass(frozen=True)
class _Probe:
    state: int
    advance: int
    record: int
    graph: int
    keeps_input: int
    keeps_output: int
    keeps_either: int
    backprop: int
    backprop_held: int
    cotangent: int
    parameters: int
    largest: int


def _probe_step(stepper: Stepper, initial: Leaves, index: int) -> _Probe:
    with track_peak() as peak:
        probe = _probe(stepper, initial, index, peak, held=False)
    if not probe.keeps_input:
        return probe
    with track_peak() as peak:
        held = _probe(stepper, initial, index, peak, held=True)
    return replace(probe, backprop_held=held.backprop)


def _probe(stepper: Stepper, initial: Leaves, index: int, peak: Peak, *, held: bool) -> _Probe:
    before = stepper.advance(initial, 0)
    advance, state = peak.peak_bytes, peak.live_bytes

    peak.reset_peak()
    start = peak.live_bytes
    record, after = stepper.record(before, index)
    record_peak = peak.peak_bytes - start
    graph = peak.live_bytes - start - state
    inputs, outputs = _Watch(before, peak), _Watch(after, peak)
    # A leaf that the step passes on is the input state's, not the graph's.
    graph += outputs.shared_with(inputs)
    keeper = list(before) if held else None
    del before, after
    keeps_input = 0 if held else inputs.bytes_alive()
    keeps_output = outputs.bytes_alive()
    keeps_either = max(keeps_input, keeps_output)
    if not held:
        keeps_either = sum(
            size
            for size, a, b in zip(inputs.sizes, inputs.alive(), outputs.alive(), strict=True)
            if a or b
        )

    leaves = closed_over(stepper, record)
    parameters = [get_gradient_edge(leaf) for leaf in leaves]
    cotangents: Cotangents = [
        torch.ones_like(leaf) if differs else None
        for leaf, differs in zip(initial, stepper.differentiable, strict=True)
    ]
    start = peak.live_bytes
    peak.reset_peak()
    arriving, gradients = stepper.backprop(record, cotangents, None, parameters)
    backprop = peak.peak_bytes - start
    del keeper
    # What this step does not read, another one may.
    unread = [leaf for leaf, gradient in zip(leaves, gradients, strict=True) if gradient is None]
    every = [*gradients, *unread]
    return _Probe(
        state=state,
        advance=advance,
        record=record_peak,
        graph=graph,
        keeps_input=keeps_input,
        keeps_output=keeps_output,
        keeps_either=keeps_either,
        backprop=backprop,
        backprop_held=backprop,
        cotangent=_unique_bytes(arriving),
        parameters=_unique_bytes(every),
        largest=max((_unique_bytes([tensor]) for tensor in every), default=0),
    )


class _Watch:
    """Whether the storages of some leaves are still alive."""

    def __init__(self, leaves: Leaves, peak: Peak) -> None:
        self._storages = [weakref.ref(leaf.untyped_storage()) for leaf in leaves]
        self._keys = [leaf.untyped_storage()._cdata for leaf in leaves]
        self.sizes = [
            leaf.untyped_storage().nbytes() if peak.counts(leaf) else 0 for leaf in leaves
        ]

    def alive(self) -> list[bool]:
        return [storage() is not None for storage in self._storages]

    def bytes_alive(self) -> int:
        return sum(size for size, alive in zip(self.sizes, self.alive(), strict=True) if alive)

    def shared_with(self, other: _Watch) -> int:
        theirs = set(other._keys)
        return sum(size for size, key in zip(self.sizes, self._keys, strict=True) if key in theirs)


def _scratch(stepper: Stepper, initial: Leaves, index: int) -> tuple[int, ...]:
    """By how much the allocator's peak exceeds that of the tensors, in each of the three ways."""
    if any(leaf.device.type != "cpu" for leaf in initial):
        return 0, 0, 0
    held: dict[str, Any] = {}

    def record() -> None:
        held["record"], held["after"] = stepper.record(initial, index)

    def backprop() -> None:
        edges = [get_gradient_edge(leaf) for leaf in closed_over(stepper, held["record"])]
        cotangents = [
            torch.ones_like(leaf) if differs else None
            for leaf, differs in zip(held.pop("after"), stepper.differentiable, strict=True)
        ]
        stepper.backprop(held.pop("record"), cotangents, None, edges)

    peaks = allocated_peaks(lambda: stepper.advance(initial, index), record, backprop)
    return (0, 0, 0) if peaks is None else tuple(max(0, a - b) for a, b in peaks)


def _time_step(stepper: Stepper, initial: Leaves, index: int) -> tuple[float, float, float]:
    """Seconds of the three ways, the best of three runs each."""

    def gradient() -> None:
        record, after = stepper.record(initial, index)
        parameters = [get_gradient_edge(leaf) for leaf in closed_over(stepper, record)]
        cotangents: Cotangents = [
            torch.ones_like(leaf) if differs else None
            for leaf, differs in zip(after, stepper.differentiable, strict=True)
        ]
        del after
        stepper.backprop(record, cotangents, None, parameters)

    def fastest(run: Callable[[], object]) -> float:
        seconds = []
        for _ in range(3):
            _synchronise(initial)
            start = time.perf_counter()
            run()
            _synchronise(initial)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    invert = fastest(lambda: stepper.inverse(initial, index)) if stepper.invertible else 0.0
    return fastest(lambda: stepper.advance(initial, index)), fastest(gradient), invert


def _synchronise(leaves: Sequence[Tensor]) -> None:
    for index in cuda_devices(leaves):
        torch.cuda.synchronize(index)


def _unique_bytes(tensors: Sequence[Tensor | None]) -> int:
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for tensor in tensors
        if tensor is not None
    }
    return sum(storages.values())
