"""The fused step as an operator of PyTorch, and a shorter way to it for plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from atheria_lab.fused import kernels
from atheria_lab.native import StepOptions


@torch.library.custom_op("atheria_lab::lattice_step", mutates_args=(), device_types=("cpu", "cuda"))
def lattice_step(
    law: str,
    psi: Tensor,
    weights: Sequence[Tensor],
    activation: str,
    gamma: float,
    norm: str,
    phase: float,
    sign: float,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """The next state, and what the norm "lattice" multiplied each lattice by, ``[B]``.

    The arguments are those of :func:`atheria_lab.native.step_once`, options one by one.
    """
    options = StepOptions(gamma, norm, phase, sign, seed, step)
    return kernels.step_once(law, psi, weights, activation, options)


@lattice_step.register_fake
def _(law: str, psi: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _like(psi), psi.new_empty(psi.shape[:1], dtype=psi.dtype.to_real())


@torch.library.custom_op(
    "atheria_lab::lattice_step_backward", mutates_args=(), device_types=("cpu", "cuda")
)
def lattice_step_backward(
    law: str,
    gradient: Tensor,
    psi: Tensor,
    next_psi: Tensor,
    scales: Tensor,
    weights: Sequence[Tensor],
    activation: str,
    gamma: float,
    norm: str,
    phase: float,
    sign: float,
    seed: int,
    step: int,
    of_psi: bool,
    of_weights: bool,
) -> list[Tensor]:
    """The gradients of psi and of the weights; empty ones where they are not asked for."""
    return kernels.vjp(
        law, gradient, psi, next_psi, scales, weights, activation,
        StepOptions(gamma, norm, phase, sign, seed, step), of_psi, of_weights,
    )  # fmt: skip


@lattice_step_backward.register_fake
def _(
    law: str,
    gradient: Tensor,
    psi: Tensor,
    next_psi: Tensor,
    scales: Tensor,
    weights: Sequence[Tensor],
    activation: str,
    gamma: float,
    norm: str,
    phase: float,
    sign: float,
    seed: int,
    step: int,
    of_psi: bool,
    of_weights: bool,
) -> list[Tensor]:
    asked = (of_psi, *(of_weights for _ in weights))
    return [
        _like(one) if wanted else one.new_empty(0)
        for one, wanted in zip((psi, *weights), asked, strict=True)
    ]


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    law, psi, weights, *options = inputs
    next_psi, scales = output
    ctx.law, ctx.options = law, options
    # Back through the norm "lattice" takes the state it made; no other norm needs it.
    is_global = options[2] == "lattice"
    ctx.save_for_backward(psi, next_psi if is_global else psi, scales, *weights)


def _back(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    psi, next_psi, scales, *weights = ctx.saved_tensors
    _, of_psi, of_each, *rest = ctx.needs_input_grad
    found = lattice_step_backward(
        ctx.law, gradient.resolve_conj().contiguous(), psi, next_psi, scales, weights,
        *ctx.options, of_psi, any(of_each),
    )  # fmt: skip
    of_weights = [one if wanted else None for one, wanted in zip(found[1:], of_each, strict=True)]
    return (None, found[0] if of_psi else None, of_weights, *(None for _ in rest))


lattice_step.register_autograd(_back, setup_context=_keep)
lattice_step_backward.register_autograd(lambda ctx, *_: _refuse_second_derivative())


def _refuse_second_derivative() -> None:
    raise RuntimeError(
        "create_graph: the fused step has no second derivative; al.Step(law), which PyTorch "
        "differentiates, has one."
    )


class _Once(torch.autograd.Function):
    """Hands gradients on; whoever differentiates them is told that it cannot be done."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *found: Tensor | None) -> tuple[Tensor | None, ...]:
        return found

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        _refuse_second_derivative()


class DirectStep(torch.autograd.Function):
    """The operator without its dispatcher's tenths of a millisecond, for tensors that are plain."""

    @staticmethod
    def forward(
        ctx: Any, law: str, activation: str, options: StepOptions, psi: Tensor, *weights: Tensor
    ) -> Tensor:
        next_psi, scales = kernels.step_once(law, psi, weights, activation, options)
        ctx.law, ctx.activation, ctx.options = law, activation, options
        is_global = options.norm == "lattice"
        ctx.save_for_backward(psi, next_psi if is_global else psi, scales, *weights)
        return next_psi

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        psi, next_psi, scales, *weights = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        gradients = kernels.vjp(
            ctx.law, gradient.resolve_conj().contiguous(), psi, next_psi, scales, weights,
            ctx.activation, ctx.options, needed[0], any(needed[1:]),
        )  # fmt: skip
        found: Any = [
            one if wanted else None for one, wanted in zip(gradients, needed, strict=True)
        ]
        if torch.is_grad_enabled():
            found = _Once.apply(gradient, *found)
        return (None, None, None, *found)
