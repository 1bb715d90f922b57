"""Whose kernels make a fused step: the compiled module's on the CPU, Triton's on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from atheria_lab import native, triton_step
from atheria_lab.laws import MLP, Brickwork, Conv
from atheria_lab.native import StepOptions


def why_not(law: nn.Module, psi: Tensor) -> str | None:
    """Why there is no fused step for training of this law on this psi; ``None`` if there is."""
    if type(law) not in (MLP, Conv, Brickwork):
        name = type(law).__name__
        return f"{name} has no fused backward pass; MLP, Conv and Brickwork have one"
    for path, module in law.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            return f"{path or type(law).__name__} has backward hooks, which it would not call"
    if psi.device.type == "cpu":
        return native.why_not(law, psi)
    return triton_step.why_not(psi) or native.unusual(law, psi)


def step_once(
    law: str, psi: Tensor, weights: Sequence[Tensor], activation: str, options: StepOptions
) -> tuple[Tensor, Tensor]:
    """As :func:`atheria_lab.native.step_once`, where psi is."""
    if psi.device.type == "cpu":
        return native.step_once(law, psi, weights, activation, options)
    match law:
        case "Brickwork":
            next_psi = triton_step.brickwork_step(psi, weights[0], options)
            return next_psi, psi.new_ones(psi.shape[:1], dtype=psi.dtype.to_real())
        case "Conv":
            return triton_step.conv_step(psi, weights, activation, options)
        case _:
            return triton_step.mlp_step(psi, weights, activation, options)


def vjp(
    law: str,
    gradient: Tensor,
    psi: Tensor,
    next_psi: Tensor,
    scales: Tensor,
    weights: Sequence[Tensor],
    activation: str,
    options: StepOptions,
    of_psi: bool,
    of_weights: bool,
) -> list[Tensor]:
    """As :func:`atheria_lab.native.vjp`, where psi is."""
    asked = of_psi, of_weights
    record = gradient, psi, next_psi, scales, weights, activation, options
    if psi.device.type == "cpu":
        return native.vjp(law, *record, *asked)
    match law:
        case "Brickwork":
            return triton_step.brickwork_vjp(gradient, psi, weights[0], options, *asked)
        case "Conv":
            return triton_step.conv_vjp(*record, *asked)
        case _:
            return triton_step.mlp_vjp(*record, *asked)
