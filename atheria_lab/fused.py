"""A step whose backward pass makes its activations again: it saves no more than the states.

Autograd keeps what every layer of a law computed, six states' worth a step for an MLP. The fused
step keeps the state that it came from (which is the one that the step before went to, so a chain
of steps keeps one state a step), and its vector-Jacobian product makes a tile's activations again
in the cache, on its way back through that tile. So it is faster than autograd, too: neither
activations nor their gradients ever travel to memory. (FlashAttention does the same for attention:
Dao et al., NeurIPS 2022.)

For PyTorch it is an ordinary operator, ``torch.ops.atheria_lab.mlp_step``: autograd, hooks,
``torch.compile`` and fake tensors see one node.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atheria_lab import native
from atheria_lab.laws import MLP
from atheria_lab.step import LatticeState, Step

_MOST_SIGNED = 2**63


@torch.library.custom_op("atheria_lab::mlp_step", mutates_args=(), device_types="cpu")
def _mlp_step(
    psi: Tensor,
    inner: Tensor,
    inner_bias: Tensor,
    outer: Tensor,
    outer_bias: Tensor,
    activation: str,
    gamma: float,
    norm: str,
    phase: float,
    sign: float,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """The next state, and what the norm "lattice" multiplied each lattice by, ``[B]``."""
    return native.mlp_step(
        psi, (inner, inner_bias, outer, outer_bias), activation,
        native.StepOptions(gamma, norm, phase, sign, seed, step),
    )  # fmt: skip


@_mlp_step.register_fake
def _(psi: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    next_psi = torch.empty_like(psi, memory_format=torch.contiguous_format)
    return next_psi, psi.new_empty(psi.shape[:1], dtype=psi.dtype.to_real())


@torch.library.custom_op("atheria_lab::mlp_step_backward", mutates_args=(), device_types="cpu")
def _mlp_step_backward(
    gradient: Tensor,
    psi: Tensor,
    next_psi: Tensor,
    scales: Tensor,
    inner: Tensor,
    inner_bias: Tensor,
    outer: Tensor,
    outer_bias: Tensor,
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
    """The gradients of psi and of the four weights; empty ones where they are not asked for."""
    return native.mlp_vjp(
        gradient, psi, next_psi, scales, (inner, inner_bias, outer, outer_bias), activation,
        native.StepOptions(gamma, norm, phase, sign, seed, step), of_psi, of_weights,
    )  # fmt: skip


@_mlp_step_backward.register_fake
def _(
    gradient: Tensor,
    psi: Tensor,
    next_psi: Tensor,
    scales: Tensor,
    inner: Tensor,
    inner_bias: Tensor,
    outer: Tensor,
    outer_bias: Tensor,
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
    asked = (of_psi, of_weights, of_weights, of_weights, of_weights)
    return [
        torch.empty_like(one, memory_format=torch.contiguous_format) if wanted else one.new_empty(0)
        for one, wanted in zip((psi, inner, inner_bias, outer, outer_bias), asked, strict=True)
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    psi, *weights = inputs[:5]
    next_psi, scales = output
    ctx.options = inputs[5:]
    # Back through the norm "lattice" takes the state it made; no other norm needs it.
    ctx.norm_is_global = inputs[7] == "lattice"
    ctx.save_for_backward(psi, next_psi if ctx.norm_is_global else psi, scales, *weights)


def _back(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    of_psi, of_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:5])
    gradients = _mlp_step_backward(
        gradient.resolve_conj().contiguous(), *ctx.saved_tensors, *ctx.options, of_psi, of_weights
    )
    asked = [
        one if needed else None
        for one, needed in zip(gradients, ctx.needs_input_grad[:5], strict=True)
    ]
    return (*asked, *(None for _ in ctx.options))


_mlp_step.register_autograd(_back, setup_context=_keep)
_mlp_step_backward.register_autograd(lambda ctx, *_: _refuse_second_derivative())


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


class _Direct(torch.autograd.Function):
    """The operator without its dispatcher's tenths of a millisecond, for tensors that are plain."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        psi, *weights = inputs[:5]
        options = native.StepOptions(*inputs[6:])
        output = native.mlp_step(psi, weights, inputs[5], options)
        _keep(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        psi, next_psi, scales, *weights = ctx.saved_tensors
        activation, *options = ctx.options
        needed = ctx.needs_input_grad
        gradients = native.mlp_vjp(
            gradient.resolve_conj().contiguous(), psi, next_psi, scales, weights, activation,
            native.StepOptions(*options), needed[0], any(needed[1:5]),
        )  # fmt: skip
        found: Any = [
            one if wanted else None for one, wanted in zip(gradients, needed[:5], strict=True)
        ]
        if torch.is_grad_enabled():
            found = _Once.apply(gradient, *found)
        return (*found, *(None for _ in ctx.options))


def why_not(law: torch.nn.Module, psi: Tensor | None = None) -> str | None:
    """Why a law has no fused step for training, in words; ``None`` if it has one.

    Args:
        law: to look at.
        psi: what it would step; ``None``: any.
    """
    if type(law) is not MLP:
        return f"{type(law).__name__} has no fused backward pass; MLP has one"
    if psi is None:
        dtype = law.inner.weight.dtype
        complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
        psi = torch.empty(1, 1, 1, law.d_state, dtype=complex_dtype)
    return native.why_not(law, psi)


class FusedStep(Step):
    """A :class:`~atheria_lab.Step` of an MLP with a fused forward and backward pass.

    The same numbers within rounding (float64: 1e-10 relative), the same noise; the same bits for
    any number of threads. It saves its states only. There is no second derivative.

    Args:
        law: an :class:`~atheria_lab.laws.MLP`.
        options: as those of :class:`~atheria_lab.Step`.

    Raises:
        ValueError: the law has no fused step; the message says why, and so does a call.
    """

    def __init__(self, law: torch.nn.Module, **options: Any) -> None:
        super().__init__(law, **options)
        self._refuse(why_not(law))

    def __call__(self, state: Any, i: int) -> Any:
        """The state after step ``i``."""
        psi = state.psi if isinstance(state, LatticeState) else state
        if i == 0:
            self._check_kind(psi)
        self._refuse(why_not(self.law, psi))
        law: Any = self.law
        noise = self.noise
        # The operator's integers are signed.
        seed = self.seed if self.seed < _MOST_SIGNED else self.seed - 2 * _MOST_SIGNED
        inputs = (
            psi.resolve_conj().contiguous(), law.inner.weight, law.inner.bias, law.outer.weight,
            law.outer.bias, law.activation, self.gamma, self.norm, noise.phase, noise.sign, seed, i,
        )  # fmt: skip
        plain = type(psi) is Tensor and not torch.compiler.is_compiling()
        next_psi: Tensor = _Direct.apply(*inputs) if plain else _mlp_step(*inputs)[0]
        return LatticeState(next_psi, state.hidden) if isinstance(state, LatticeState) else next_psi

    def _refuse(self, reason: str | None) -> None:
        if reason is not None:
            raise ValueError(f"law: {reason}. al.Step(law) takes any law.")
