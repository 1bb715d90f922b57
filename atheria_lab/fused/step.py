"""The step of a law that has a fused forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from atheria_lab.fused import kernels
from atheria_lab.fused.operators import DirectStep, lattice_step
from atheria_lab.laws import Brickwork
from atheria_lab.laws.unitaries import KeptUnitaries
from atheria_lab.native import StepOptions
from atheria_lab.noise import WHOLE
from atheria_lab.step import LatticeState, Step

# From the gradient of the next psi to that of psi, and those of the parameters.
Pullback = Callable[[Tensor], tuple[Tensor, list[Tensor]]]

_MOST_SIGNED = 2**63


def why_not(law: torch.nn.Module, psi: Tensor | None = None) -> str | None:
    """Why a law has no fused step for training, in words; ``None`` if it has one.

    Args:
        law: to look at.
        psi: what it would step; ``None``: any.
    """
    if psi is None:
        double = any(one.dtype == torch.float64 for one in law.parameters())
        dtype = torch.complex128 if double else torch.complex64
        device = next((one.device for one in law.parameters()), None)
        psi = torch.empty(1, 2, 2, getattr(law, "d_state", 1), dtype=dtype, device=device)
    return kernels.why_not(law, psi)


class FusedStep(Step):
    """A :class:`~atheria_lab.Step` of a law with a fused forward and backward pass.

    The same numbers within rounding (float64: 1e-10 relative), the same noise; the same bits for
    any number of threads. It saves its states only. There is no second derivative.

    Args:
        law: an MLP, a Conv or a Brickwork.
        options: as those of :class:`~atheria_lab.Step`.

    Raises:
        ValueError: the law has no fused step; the message says why, and so does a call.
    """

    def __init__(self, law: torch.nn.Module, **options: Any) -> None:
        super().__init__(law, **options)
        self._refuse(why_not(law))
        if self.noise and self.part != WHOLE:
            raise ValueError(
                f"part: got {self.part} with noise; the fused noise counts cells from its own "
                "first one. al.Step(law) takes a part of a larger lattice."
            )
        self._unitaries = KeptUnitaries(law) if isinstance(law, Brickwork) else None

    def __call__(self, state: Any, i: int) -> Any:
        """The state after step ``i``."""
        psi = state.psi if isinstance(state, LatticeState) else state
        if i == 0:
            self._check_kind(psi)
        self._refuse(why_not(self.law, psi))
        plain = _is_plain(psi)
        if plain and torch._C._functorch.peek_interpreter_stack() is not None:
            self._refuse("a fused step is opaque to torch.func's transforms (grad, vmap, jvp)")
        psi = psi.resolve_conj().contiguous()
        law, activation = type(self.law).__name__, getattr(self.law, "activation", "silu")
        weights, options = self._weights(psi.dtype, plain), self._options(i)
        next_psi: Tensor = (
            DirectStep.apply(law, activation, options, psi, *weights)
            if plain
            else lattice_step(law, psi, weights, activation, *options)[0]
        )
        return LatticeState(next_psi, state.hidden) if isinstance(state, LatticeState) else next_psi

    def vjp(self, state: Any, i: int) -> tuple[list[Tensor], Pullback]:
        """Ready to go back through step ``i`` without a graph.

        Args:
            state: psi before the step.
            i: which step.

        Returns:
            The parameters that require a gradient, and a function from the gradient of the next
            psi to that of this one and those of these parameters.
        """
        psi = state.detach().resolve_conj().contiguous()
        self._refuse(why_not(self.law, psi))
        law, activation = type(self.law).__name__, getattr(self.law, "activation", "silu")
        options = self._options(i)
        of_law: Any = self.law
        kept = None if self._unitaries is None else self._unitaries.now()
        if kept is None:
            weights = leaves = _network(of_law)
        else:
            weights, leaves = [kept(psi.dtype)], [of_law.generators]
        asked = [leaf.requires_grad for leaf in leaves]
        next_psi, scales = psi, psi.new_empty(len(psi), dtype=psi.dtype.to_real())
        if self.norm == "lattice":  # its way back takes the state that it made
            next_psi, scales = kernels.step_once(law, psi, weights, activation, options)

        def back(gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
            of_psi, *of_each = kernels.vjp(
                law, gradient.resolve_conj().contiguous(), psi, next_psi, scales, weights,
                activation, options, True, any(asked),
            )  # fmt: skip
            if kept is not None and any(asked):
                of_each = [kept.pull_back(of_each[0])]
            return of_psi, [one for one, wanted in zip(of_each, asked, strict=True) if wanted]

        return [leaf for leaf, wanted in zip(leaves, asked, strict=True) if wanted], back

    def _inverse(self, state: Any, i: int) -> Any:
        psi = state.psi if isinstance(state, LatticeState) else state
        self._refuse(why_not(self.law, psi))
        if not _is_plain(psi):
            return super()._inverse(state, i)
        assert self._unitaries is not None
        psi = psi.detach().resolve_conj().contiguous()
        # Of a unitary map the adjoint is the inverse.
        before, _ = kernels.vjp(
            "Brickwork", psi, psi, psi, psi.new_ones(len(psi), dtype=psi.dtype.to_real()),
            [self._unitaries(psi.dtype)], "silu", self._options(i), True, False,
        )  # fmt: skip
        return LatticeState(before, state.hidden) if isinstance(state, LatticeState) else before

    def _weights(self, dtype: torch.dtype, plain: bool) -> tuple[Tensor, ...]:
        law: Any = self.law
        if self._unitaries is None:
            return tuple(_network(law))
        if not plain:
            return (law.unitaries(dtype),)
        differentiated = torch.is_grad_enabled() and law.generators.requires_grad
        kept = self._unitaries
        return (kept.with_graph(dtype) if differentiated else kept(dtype),)

    @property
    def settings(self) -> tuple[Any, ...]:
        """What a step is beside its law: a plan refuses to go back through other ones."""
        return self.gamma, self.norm, self.noise, self.seed, self.part

    def _options(self, i: int) -> StepOptions:
        # The operator's integers are signed.
        seed = self.seed if self.seed < _MOST_SIGNED else self.seed - 2 * _MOST_SIGNED
        return StepOptions(self.gamma, self.norm, self.noise.phase, self.noise.sign, seed, i)

    def _refuse(self, reason: str | None) -> None:
        if reason is not None:
            raise ValueError(f"law: {reason}. al.Step(law) takes any law.")


def _network(law: Any) -> list[Tensor]:
    return [law.inner.weight, law.inner.bias, law.outer.weight, law.outer.bias]


def _is_plain(psi: Tensor) -> bool:
    """Whether no compiler and no mode follows it: a subclass is a fake tensor, say."""
    return type(psi) is Tensor and not torch.compiler.is_compiling()
