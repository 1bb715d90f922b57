"""Small laws and what several rooms' tests do with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import atheria_lab as al

LAWS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: al.laws.MLP(2, hidden=3),
    "Conv": lambda: al.laws.Conv(2, hidden=3),
    "UNet": lambda: al.laws.UNet(2, hidden=2, levels=1),
    "ConvLSTMUNet": lambda: al.laws.ConvLSTMUNet(2, hidden=2, levels=1),
    "Brickwork": lambda: al.laws.Brickwork(2),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def small_law(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A law of every kind, all its parameters away from zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        law = LAWS[name]()
        for parameter in law.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return law.to(dtype)


def small_start(step: al.Step, size: tuple[int, int] = (4, 4), batch: int = 1) -> al.LatticeState:
    """A state for a step with a small law, in the law's precision; hidden tensors not zero."""
    dtype = COMPLEX[next(step.law.parameters()).dtype]
    state = step.initial(al.lattice.random(size, 2, seed=1, batch=batch, dtype=dtype))
    return tree_map(lambda leaf: leaf if leaf.is_complex() else leaf + 0.3, state)


def rate(states: Sequence[Any]) -> Tensor:
    """A loss that feels each number of each state in its own way."""
    total = torch.zeros(())
    for leaf in tree_leaves(list(states)):
        numbers = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
        if numbers.is_floating_point():
            weights = torch.linspace(-1, 2, numbers.numel(), dtype=numbers.dtype)
            total = total + ((weights + numbers.flatten()) * numbers.flatten()).mean()
    return total


def gradients(
    step: Any,
    start: Any,
    steps: int,
    plan: al.plans.Plan | None = None,
    save_at: al.SaveAt | None = None,
    *,
    wanted: Sequence[Tensor] = (),
    loss: Callable[[Sequence[Any]], Tensor] = rate,
    **options: Any,
) -> tuple[list[Tensor], list[Tensor | None], al.Rollout]:
    """The saved leaves, and the loss's gradients: of ``wanted``, then of the initial leaves."""
    start = tree_map(_leaf_of_its_own, start)
    out = al.rollout(step, start, steps, save_at, plan, **options)
    initial = [leaf for leaf in tree_leaves(start) if leaf.requires_grad]
    grads = torch.autograd.grad(loss(out.states), [*wanted, *initial], allow_unused=True)
    return [leaf.detach() for leaf in tree_leaves(out.states)], list(grads), out


def same_bits(these: Sequence[Tensor | None], those: Sequence[Tensor | None]) -> bool:
    """Whether two lists of tensors are the same, to the last bit."""
    return len(these) == len(those) and all(
        (a is None and b is None)
        or (a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b))
        for a, b in zip(these, those, strict=True)
    )


def distance(these: Sequence[Tensor | None], those: Sequence[Tensor | None]) -> float:
    """The largest relative error of one list of tensors against another, tensor by tensor."""
    return max(
        torch.linalg.vector_norm(a - b).item() / max(torch.linalg.vector_norm(b).item(), 1e-30)
        for a, b in zip(these, those, strict=True)
        if a is not None and b is not None
    )


def _leaf_of_its_own(leaf: Tensor) -> Tensor:
    leaf = leaf.detach().clone()
    return leaf.requires_grad_(leaf.is_floating_point() or leaf.is_complex())
