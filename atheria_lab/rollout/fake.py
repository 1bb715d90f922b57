"""What a step would cost on a device that is not here: one step without data.

The step runs on tensors that have shapes and no numbers (``FakeTensorMode``), so neither the
device nor the memory is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._pytree import tree_map

from atheria_lab.memory.owners import PROBE, work
from atheria_lab.rollout.cost import measure_loss, probe_step
from atheria_lab.rollout.execute import kept_indices
from atheria_lab.rollout.predict import Job
from atheria_lab.rollout.stepper import StepFunction, Stepper


def assumptions(device: torch.device) -> tuple[str, ...]:
    """What has to be true for the prediction to hold."""
    common = ("nothing was run: the bytes follow from the shapes, times are unknown",)
    if device.type == "cpu":
        return (*common, "scratch inside operators is not counted")
    return (
        *common,
        f"operators on {device} keep for the way back what they keep on the CPU",
        "each tensor takes its bytes; the allocator rounds up to 512 B and may fragment",
        "not counted: scratch inside operators, the libraries' workspaces and the context of the "
        "device (some hundred MiB), the law, its optimizer and the initial state",
    )


def fake_job(
    step: StepFunction,
    state: Any,
    steps: int,
    indices: Sequence[int],
    loss: Callable[[list[Any]], Tensor] | None,
    device: torch.device,
) -> tuple[Job, Stepper]:
    """The cost of a step and of the loss, from the state's shapes alone; and what makes the steps.

    Raises:
        ValueError: the step or the loss looks at the numbers of a tensor.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), work(PROBE):
            stepper = Stepper(step, tree_map(_shape_of, state))
            cost = probe_step(stepper, steps)
            loss_cost = measure_loss(loss, stepper, cost, len(indices))
    except DataDependentOutputException as error:
        raise ValueError(
            f"device: the step or the loss looks at the numbers of a tensor ({error}), so it "
            f"cannot be planned for {device} without data. Plan it without device=, or let it "
            "not depend on them."
        ) from error
    kept = tuple(kept_indices(indices, steps))
    felt = None if loss is None else indices[-1]
    return Job(cost, loss_cost, steps, kept, felt, device.type == "cpu"), stepper


def _shape_of(leaf: object) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype)
