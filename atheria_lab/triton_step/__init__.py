"""The fused steps as Triton kernels, forward and backward, for tensors on a CUDA device.

The same functions as the compiled module's (:mod:`atheria_lab.native`), with the same arguments:
a step, and its vector-Jacobian product, which makes a tile's activations again in registers. The
same noise, too: the counters are those of :mod:`atheria_lab.noise`. Every result is made in one
fixed order, without atomics, so that a run repeats to the last bit on one device.

The kernels were checked by Triton's interpreter on a CPU (``TRITON_INTERPRET=1``), and compiled
for compute capability 8.0 (float32) and 9.0 (float64); never were they run or timed on a device.

Triton is imported by the first call, not by importing this. It comes with PyTorch's CUDA builds
for Linux; else ``pip install 'atheria-lab[gpu]'``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from atheria_lab.native import StepOptions

# Of a GPU; Triton's own least.
_LEAST_CAPABILITY = (8, 0)
# Triton's version that first multiplies matrices in float64.
_DOUBLE_SINCE = (3, 5)


def interpreting() -> bool:
    """Whether Triton's interpreter stands in for a device: ``TRITON_INTERPRET=1`` is set."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def why_not(psi: Tensor) -> str | None:
    """Why there is no Triton step for this psi, in words; ``None`` if there is one."""
    if psi.dtype not in (torch.complex64, torch.complex128):
        return f"psi is {psi.dtype}; the Triton kernels take complex64 and complex128"
    if psi.device.type != "cuda" and not (interpreting() and psi.device.type == "cpu"):
        return f"psi is on {psi.device}; the Triton kernels run on a CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install 'atheria-lab[gpu]' brings it"
    if psi.dtype == torch.complex128:
        import triton

        version = tuple(map(int, triton.__version__.split(".")[:2]))
        if version < _DOUBLE_SINCE:
            return f"psi is {psi.dtype}, which Triton {triton.__version__} has no product for"
    if interpreting():
        return None
    capability = torch.cuda.get_device_capability(psi.device)
    if capability < _LEAST_CAPABILITY:
        found, least = (".".join(map(str, one)) for one in (capability, _LEAST_CAPABILITY))
        return f"{psi.device} has compute capability {found}; the Triton kernels take {least}"
    return None


def mlp_step(
    psi: Tensor, weights: Sequence[Tensor], activation: str, options: StepOptions
) -> tuple[Tensor, Tensor]:
    """The state after an MLP's step, and what the norm "lattice" multiplied each lattice by.

    Args:
        psi: contiguous, complex ``[B, H, W, d_state]``.
        weights: inner ``[hidden, 2 * d_state]``, its bias, outer ``[2 * d_state, hidden]``, its
            bias, of psi's precision.
        activation: "silu", "relu", "gelu" or "tanh".
        options: of the step.

    Returns:
        psi's shape; and ``[B]``, ones for any other norm.

    Raises:
        ValueError: :func:`why_not` has something against it, or the weights are too large for
            the registers of a program.
    """
    from atheria_lab.triton_step import mlp

    return mlp.step(_checked(psi), weights, activation, options)


def mlp_vjp(
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
    """The gradients of an MLP's step: of psi, inner, its bias, outer, its bias.

    Args:
        gradient: of the next state, contiguous, of psi's shape.
        psi: what :func:`mlp_step` took.
        next_psi: what it returned; not read unless the norm is "lattice".
        scales: what it returned, too.
        weights: what it took.
        activation: likewise.
        options: likewise.
        of_psi: whether psi's gradient is asked for; an empty tensor if not.
        of_weights: whether those of the weights are.

    Raises:
        ValueError: as :func:`mlp_step`.
    """
    from atheria_lab.triton_step import mlp

    return mlp.vjp(
        gradient, _checked(psi), next_psi, scales, weights, activation, options, of_psi, of_weights
    )


def conv_step(
    psi: Tensor, weights: Sequence[Tensor], activation: str, options: StepOptions
) -> tuple[Tensor, Tensor]:
    """As :func:`mlp_step`, of a Conv, whose inner weights are ``[hidden, 2 * d_state, 3, 3]``."""
    from atheria_lab.triton_step import conv

    return conv.step(_checked(psi), weights, activation, options)


def conv_vjp(
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
    """As :func:`mlp_vjp`, of a Conv's step; while it runs, it holds ``[B, H, W, hidden]`` more."""
    from atheria_lab.triton_step import conv

    return conv.vjp(
        gradient, _checked(psi), next_psi, scales, weights, activation, options, of_psi, of_weights
    )


def brickwork_step(psi: Tensor, unitaries: Tensor, options: StepOptions) -> Tensor:
    """The state after a Brickwork's step.

    Args:
        psi: contiguous, complex ``[B, H, W, d_state]``, H and W even.
        unitaries: of the two layers, ``[2, 4 * d_state, 4 * d_state]``, of psi's dtype.
        options: of the step; its gamma and norm are not used.

    Raises:
        ValueError: as :func:`mlp_step`; or H or W is odd.
    """
    from atheria_lab.triton_step import brickwork

    return brickwork.step(_even(_checked(psi)), unitaries, options)


def brickwork_vjp(
    gradient: Tensor,
    psi: Tensor,
    unitaries: Tensor,
    options: StepOptions,
    of_psi: bool,
    of_weights: bool,
) -> list[Tensor]:
    """The gradients of a Brickwork's step: of psi, and of the unitaries, in PyTorch's convention.

    Args:
        gradient: of the next state, contiguous, of psi's shape.
        psi: what :func:`brickwork_step` took.
        unitaries: what it took.
        options: likewise.
        of_psi: whether psi's gradient is asked for; an empty tensor if not.
        of_weights: whether that of the unitaries is.

    Raises:
        ValueError: as :func:`brickwork_step`.
    """
    from atheria_lab.triton_step import brickwork

    psi = _even(_checked(psi))
    return brickwork.vjp(gradient, psi, unitaries, options, of_psi, of_weights)


def _even(psi: Tensor) -> Tensor:
    if psi.shape[1] % 2 or psi.shape[2] % 2:
        raise ValueError(
            f"psi: got a lattice of {psi.shape[1]}x{psi.shape[2]} cells; Brickwork takes even "
            "sides, so that its blocks close on the torus."
        )
    return psi


def _checked(psi: Tensor) -> Tensor:
    reason = why_not(psi)
    if reason is not None:
        raise ValueError(f"psi: {reason}. atheria_lab.native steps a psi on the CPU.")
    return psi
