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

from atheria_lab.laws.brickwork import Brickwork


class KeptUnitaries:
    """The matrices of a Brickwork's layers, made again only when its generators have changed.

    Args:
        law: whose matrices.
    """

    def __init__(self, law: Brickwork) -> None:
        self.law = law
        self._of: Tensor | None = None  # a copy of the generators that the rest belongs to
        self._matrices: dict[torch.dtype, Tensor] = {}
        self._spectrum: tuple[Tensor, Tensor] | None = None

    def __call__(self, dtype: torch.dtype) -> Tensor:
        """Complex ``[2, 4 * d_state, 4 * d_state]``, without a graph."""
        generators = self.law.generators.detach()
        # By their numbers: a fused optimizer, or a change through .data, leaves no other trace.
        if self._of is None or not _same(generators, self._of):
            self._of = generators.clone()
            self._matrices, self._spectrum = {}, None
        if dtype not in self._matrices:
            with torch.no_grad():
                self._matrices[dtype] = self.law.unitaries(dtype).contiguous()
        return self._matrices[dtype]

    def with_graph(self, dtype: torch.dtype) -> Tensor:
        """The same, differentiable by the generators, once."""
        matrices: Tensor = _Exponential.apply(self, self.law.generators, self(dtype))
        return matrices

    def pull_back(self, gradient: Tensor) -> Tensor:
        """The gradient of the generators, from that of the matrices of this moment."""
        vectors, phi = self._basis()
        inside = vectors.mH @ gradient.to(torch.complex128) @ vectors
        skew = vectors @ (inside * phi.conj()) @ vectors.mH
        real, imag = skew.real, skew.imag
        both = torch.stack([real - real.mT, imag + imag.mT], dim=1)
        return both.to(self.law.generators.dtype)

    def _basis(self) -> tuple[Tensor, Tensor]:
        if self._spectrum is None:
            assert self._of is not None
            real, imag = self._of.double().unbind(1)
            hermitian = torch.complex(imag + imag.mT, real.mT - real)  # -i A
            angles, vectors = torch.linalg.eigh(hermitian)
            half = (angles[..., :, None] - angles[..., None, :]) / 2
            middle = (angles[..., :, None] + angles[..., None, :]) / 2
            # (e^{ia} - e^{ib}) / (ia - ib), also where a = b.
            phi = torch.polar(torch.ones_like(middle), middle) * torch.sinc(half / torch.pi)
            self._spectrum = vectors, phi
        return self._spectrum


class _Exponential(torch.autograd.Function):
    """The kept matrices as a function of the generators."""

    @staticmethod
    def forward(ctx: Any, kept: KeptUnitaries, generators: Tensor, matrices: Tensor) -> Tensor:
        ctx.kept = kept
        ctx.save_for_backward(generators)  # so that a change in between is noticed
        return matrices.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (_,) = ctx.saved_tensors
        kept: KeptUnitaries = ctx.kept
        kept(gradient.dtype)  # they are those of these generators
        return None, kept.pull_back(gradient), None


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
