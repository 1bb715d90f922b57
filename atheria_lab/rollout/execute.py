"""The rollout: many steps, differentiable, stored and recomputed as a plan says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from atheria_lab._checks import instance, integer
from atheria_lab.memory import format_size, parse_size
from atheria_lab.memory.owners import (
    GRADIENTS,
    GRAPH,
    LOSS,
    PSI,
    SEGMENT,
    boundary,
    followed,
    work,
)
from atheria_lab.rollout import buffers
from atheria_lab.rollout.parameters import closed_over
from atheria_lab.rollout.plans import Checkpointed, Plan, Reversible, StoreAll, Truncated
from atheria_lab.rollout.randomness import cuda_devices, preserved
from atheria_lab.rollout.saveat import SaveAt
from atheria_lab.rollout.stepper import Cotangents, Leaves, OnStep, StepFunction, Stepper
from atheria_lab.rollout.tape import Tape
from atheria_lab.rollout.tapes import CheckpointTape, ReversibleTape, TruncatedTape


@dataclass(repr=False)
class Rollout:
    """What a rollout gives.

    Attributes:
        states: the saved states, in the order of ``indices``. Where the plan recomputes, they
            are outputs side by side: a hook on one of them, or a gradient with respect to it, sees
            what the loss sends there, and not what comes back through the later steps.
        indices: how many steps each of them has behind it.
        final: the last state.
        plan: how the rollout was stored.
        predicted_bytes: what the planner expects it to add at its peak; ``None`` if no budget
            asked for a prediction.
    """

    states: list[Any]
    indices: tuple[int, ...]
    final: Any
    plan: Plan
    predicted_bytes: int | None = None
    _tape: Tape | None = field(default=None, repr=False)

    @property
    def reconstruction_error(self) -> float | None:
        """Under ``Reversible``, after the backward pass: the largest relative error."""
        return self._tape.error if isinstance(self._tape, ReversibleTape) else None

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.indices[:8])) + (", …" if len(self.indices) > 8 else "")
        predicted = (
            ""
            if self.predicted_bytes is None
            else f", predicted {format_size(self.predicted_bytes)}"
        )
        return f"Rollout({len(self.states)} states at [{shown}], {self.plan!r}{predicted})"


def rollout(
    step: StepFunction,
    state: Any,
    steps: int,
    save_at: SaveAt | None = None,
    plan: Plan | None = None,
    budget: int | str | None = None,
    *,
    parameters: Iterable[Tensor] | None = None,
    loss: Callable[[list[Any]], Tensor] | None = None,
    on_step: OnStep | None = None,
) -> Rollout:
    """Make many steps, and be able to go back through them within a memory budget.

    Gradients flow from every saved state (and the final one) to the initial state and to the
    parameters that ``step`` closes over. Except for ``Truncated`` they are those of plain
    autograd: the same kernels in the same order, so the same bits wherever kernels repeat.

    Args:
        step: ``step(state, i)`` returns the state after step i (0-based): any function of its
            arguments, over any pytree of tensors. It must return new tensors of the same
            shapes and dtypes. It may draw from torch's global random generators.
        state: the initial state, a pytree of tensors.
        steps: how many, at least 1.
        save_at: which states to return; the last one by default.
        plan: how to store it. By default plain autograd, or, with a budget, the fastest exact
            plan that fits.
        budget: bytes, or "512 MiB", that the rollout may add at its peak, forward and backward,
            over what is live when it starts. With a plan too: the plan must fit.
        parameters: leaf tensors that ``step`` reads at some index but that neither step 0 nor
            the function itself shows. Rarely needed; the backward pass says when.
        loss: a function of the list of saved states, to count what it costs in the budget.
            Without it, the budget covers a loss that needs a gradient for each saved state and
            nothing else.
        on_step: called as ``on_step(state, done)`` with each state as it is made, without its
            graph, and the number of steps to it: in the forward pass, and again wherever the
            backward pass makes it anew. (Plain autograd makes nothing anew: on its way back the
            state is ``None``.) To look on, or to stop: what it raises ends the pass.
            It must not change the state or draw from torch's global generators, and what it
            keeps counts in no budget.

    Returns:
        A :class:`Rollout`.

    Raises:
        BudgetError: no plan meets the budget (a ``ValueError``; nothing has run but the probe).
        RuntimeError: the step changes a state in place, or (in the backward pass) does not
            repeat itself.
        TypeError: a leaf is no tensor, or the step changes shapes, dtypes or structure.
        ValueError: bad numbers: steps, sizes, NaN in the initial state.
    """
    stepper = Stepper(step, state)
    steps = integer("steps", steps)
    save_at = check_save_at(save_at)
    indices = save_at.resolve(steps)
    if plan is not None:
        check_plan(plan, stepper)
    predicted: int | None = None
    size = None if budget is None else parse_size(budget, name="budget")
    stepper.check_same(steps=steps, save_at=indices, plan=plan, budget=size)
    if size is not None:
        from atheria_lab.rollout.planner import choose

        plan, predicted = choose(stepper, steps, indices, size, plan=plan, loss=loss)
    instance("on_step", on_step, Callable | None, "a function (state, done), or None")
    plan = plan or StoreAll()
    kept = kept_indices(indices, steps)
    tape: Tape | None = None
    if not torch.is_grad_enabled() or isinstance(plan, StoreAll):
        stepper.on_step = on_step
        states = _plain(stepper, steps, kept)
    else:
        states, tape = _taped(stepper, steps, kept, plan, parameters, on_step)
    return Rollout(
        [states[index] for index in indices], indices, states[steps], plan, predicted, tape
    )


def kept_indices(indices: Sequence[int], steps: int) -> list[int]:
    """The states that a rollout hands out: the saved and the final."""
    return sorted({*indices, steps})


def check_plan(plan: Plan, stepper: Stepper) -> None:
    """Refuse what is no plan, or one that this step cannot follow."""
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plan: got {plan!r}; it takes one of atheria_lab.plans, such as Binomial(8)."
        )
    if isinstance(plan, Reversible) and not stepper.invertible:
        raise ValueError(
            "plan: Reversible needs a step with inverse(state, i), such as Step with a unitary "
            "law (Brickwork). Take Binomial or Segmented."
        )


def make_tape(
    plan: Plan, stepper: Stepper, steps: int, kept: Sequence[int], parameters: Sequence[Tensor]
) -> Tape:
    """The tape of a plan that recomputes."""
    if isinstance(plan, Checkpointed):
        return CheckpointTape(plan, stepper, steps, kept, parameters)
    if isinstance(plan, Reversible):
        return ReversibleTape(plan, stepper, steps, kept, parameters)
    if isinstance(plan, Truncated):
        return TruncatedTape(plan, stepper, steps, kept, parameters)
    raise TypeError(f"plan: {type(plan).__name__} is not one that a rollout can follow.")


def _plain(stepper: Stepper, steps: int, kept: Sequence[int]) -> dict[int, Any]:
    wanted, leaves = set(kept), list(stepper.leaves)
    states = {0: stepper.unflatten(leaves)}
    parts = [LOSS]  # of the way back: the loss comes first, then step after step
    mine = GRAPH if torch.is_grad_enabled() else PSI
    for i in range(steps):
        with work(mine):
            leaves = stepper.plain(leaves, i)
        if followed():
            _announce(leaves, parts)
        _pass_back(stepper.on_step, leaves, i)
        if i + 1 in wanted:
            states[i + 1] = stepper.unflatten(leaves)
    return states


def _pass_back(on_step: OnStep | None, leaves: Leaves, i: int) -> None:
    """On the way back of plain autograd, call ``on_step`` before step i's gradient."""
    felt = next((leaf for leaf in leaves if leaf.requires_grad), None)
    if on_step is None or felt is None:
        return

    def passing(_: Tensor) -> None:
        on_step(None, i)

    felt.register_hook(passing)


def _announce(leaves: Leaves, parts: list[str]) -> None:
    """On the way back, say when this state's gradient is there; somebody draws a timeline."""
    felt = next((leaf for leaf in leaves if leaf.requires_grad), None)
    if felt is not None:
        felt.register_hook(lambda _: boundary(parts.pop() if parts else GRADIENTS))


def _taped(
    stepper: Stepper,
    steps: int,
    kept: Sequence[int],
    plan: Plan,
    given: Iterable[Tensor] | None,
    on_step: OnStep | None,
) -> tuple[dict[int, Any], Tape]:
    initial = [leaf.detach() for leaf in stepper.leaves]
    with (
        preserved(cuda_devices(initial)),
        stepper.same_autocast(),
        buffers.restored(stepper.step) as changed,
    ):
        with work(SEGMENT):
            record, _ = stepper.record(initial, 0)
        buffers.refuse_changed(changed(), 0)
        parameters = closed_over(stepper, record, given)
        del record, _
    stepper.remember(parameters)
    stepper.on_step = on_step
    tape = make_tape(plan, stepper, steps, kept, parameters)
    outputs = _Replay.apply(tape, len(initial), *stepper.leaves, *parameters)
    # The tape has no need of the caller's own tensors: torch keeps them until the backward pass.
    width = len(initial)
    stepper.leaves = []
    states = {
        index: stepper.unflatten(outputs[place * width : (place + 1) * width])
        for place, index in enumerate(kept)
    }
    return states, tape


class _Replay(torch.autograd.Function):
    """The whole rollout as one operator: initial leaves and parameters to kept leaves."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, width: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.tape = tape
        # Saved through torch, so that changes in place are noticed.
        ctx.save_for_backward(*inputs[:width])
        ctx.set_materialize_grads(False)
        outputs = tape.forward([leaf.detach() for leaf in inputs[:width]])
        outputs = [leaf.detach() for leaf in outputs]
        rigid = [leaf for leaf in outputs if not (leaf.is_floating_point() or leaf.is_complex())]
        ctx.mark_non_differentiable(*rigid)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tape: Tape = ctx.tape
        boundary(LOSS)  # the way back through it is done
        initial: Leaves = [leaf.detach() for leaf in ctx.saved_tensors]
        width = len(initial)
        arriving: dict[int, Cotangents] = {
            index: list(grads[place * width : (place + 1) * width])
            for place, index in enumerate(tape.kept)
        }
        cotangents, gradients = tape.backward(initial, arriving)
        return (None, None, *cotangents, *gradients)


def check_save_at(save_at: SaveAt | None) -> SaveAt:
    """The rule itself, the last state by default; anything else is refused."""
    if save_at is None:
        return SaveAt.last()
    if not isinstance(save_at, SaveAt):
        raise TypeError(f"save_at: got {save_at!r}; it takes a SaveAt, such as SaveAt.at_most(10).")
    return save_at
