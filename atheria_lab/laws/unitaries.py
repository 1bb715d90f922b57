"""A Brickwork's matrices and their way back, kept while its generators are the same numbers.

The exponential costs more than a small step, and so does PyTorch's way back through it. Its
derivative has a closed form: with the generator ``A = V diag(i l) V^dagger``, the gradient of
``exp(A)`` goes back to ``V ((V^dagger G V) * conj(Phi)) V^dagger``, where ``Phi_jk`` is the divided
difference of ``exp`` between ``i l_j`` and ``i l_k`` (Daleckii & Krein, 1965; Higham, Functions of
Matrices, theorem 3.11).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from atheria_lab.laws.brickwork import Brickwork, exponentials


class Unitaries:
    """The matrices of some generators, and the way back through them.

    Args:
        generators: float ``[2, 2, 4 * d_state, 4 * d_state]``; a copy is kept.
    """

    def __init__(self, generators: Tensor) -> None:
        self.generators = generators.detach().clone()
        self._matrices: dict[torch.dtype, Tensor] = {}
        self._spectrum: tuple[Tensor, Tensor] | None = None

    def __call__(self, dtype: torch.dtype) -> Tensor:
        """Complex ``[2, 4 * d_state, 4 * d_state]``, without a graph."""
        found = self._matrices.get(dtype)
        if found is None:
            found = self._matrices[dtype] = exponentials(self.generators, dtype).contiguous()
        return found

    def belong_to(self, generators: Tensor) -> bool:
        """Whether they are those of these generators."""
        own = self.generators
        same = own.dtype == generators.dtype and own.device == generators.device
        return same and torch.equal(own, generators)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """The gradient of the generators, from that of the matrices."""
        vectors, phi = self._basis()
        inside = vectors.mH @ gradient.to(torch.complex128) @ vectors
        skew = vectors @ (inside * phi.conj()) @ vectors.mH
        real, imag = skew.real, skew.imag
        both = torch.stack([real - real.mT, imag + imag.mT], dim=1)
        return both.to(self.generators.dtype)

    def _basis(self) -> tuple[Tensor, Tensor]:
        found = self._spectrum
        if found is None:
            real, imag = self.generators.double().unbind(1)
            hermitian = torch.complex(imag + imag.mT, real.mT - real)  # -i A
            angles, vectors = torch.linalg.eigh(hermitian)
            half = (angles[..., :, None] - angles[..., None, :]) / 2
            middle = (angles[..., :, None] + angles[..., None, :]) / 2
            # (e^{ia} - e^{ib}) / (ia - ib), also where a = b.
            phi = torch.polar(torch.ones_like(middle), middle) * torch.sinc(half / torch.pi)
            found = self._spectrum = vectors, phi
        return found


class KeptUnitaries:
    """The matrices of a Brickwork's layers, made again only when its generators have changed.

    Args:
        law: whose matrices.
    """

    def __init__(self, law: Brickwork) -> None:
        self.law = law
        self._now: Unitaries | None = None  # replaced as a whole: threads may share this

    def now(self) -> Unitaries:
        """Those of the law's generators as they are."""
        generators = self.law.generators.detach()
        found = self._now
        # By their numbers: a fused optimizer, or a change through .data, leaves no other trace.
        if found is None or not found.belong_to(generators):
            found = self._now = Unitaries(generators)
        return found

    def __call__(self, dtype: torch.dtype) -> Tensor:
        """Complex ``[2, 4 * d_state, 4 * d_state]``, without a graph."""
        with torch.no_grad():
            return self.now()(dtype)

    def with_graph(self, dtype: torch.dtype) -> Tensor:
        """The same, differentiable by the generators, once."""
        matrices: Tensor = _Exponential.apply(self.now(), self.law.generators, dtype)
        return matrices


class _Exponential(torch.autograd.Function):
    """The kept matrices as a function of the generators."""

    @staticmethod
    def forward(ctx: Any, kept: Unitaries, generators: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.kept = kept
        ctx.save_for_backward(generators)  # so that a change in between is noticed
        return kept(dtype).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (_,) = ctx.saved_tensors
        kept: Unitaries = ctx.kept
        return None, kept.pull_back(gradient), None
