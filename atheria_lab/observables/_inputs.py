"""What all observables share: what they take, and when a lattice counts as empty."""

from __future__ import annotations

import torch
from torch import Tensor

from atheria_lab.lattice import check_psi

# Of the mean density; float32 still has room below it, so that no division overflows.
EMPTY = 1e-30


def state(psi: object, name: str = "psi") -> Tensor:
    """Refuse what is not psi; NaN passes."""
    return check_psi(psi, name=name, finite=False)


def pair(a: object, b: object) -> tuple[Tensor, Tensor]:
    """Refuse what are not two states of one shape and precision."""
    first, second = state(a, "a"), state(b, "b")
    if first.shape != second.shape or first.dtype != second.dtype:
        raise ValueError(
            f"b: got {tuple(second.shape)} {second.dtype}, but a is {tuple(first.shape)} "
            f"{first.dtype}; two states are compared in one shape and dtype."
        )
    return first, second


def relative(rho: Tensor) -> Tensor:
    """A density ``[B, H, W]`` over its mean, so that the mean is 1; 0 if it is empty."""
    mean = rho.mean(dim=(1, 2), keepdim=True)
    return torch.where(mean < EMPTY, torch.zeros_like(rho), rho / mean.clamp_min(EMPTY))


def entropy(shares: Tensor, dims: tuple[int, ...]) -> Tensor:
    """``-sum p ln p`` in nats, with a gradient that is finite at ``p = 0``."""
    return -(shares * shares.clamp_min(EMPTY).log()).sum(dim=dims)
