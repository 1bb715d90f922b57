"""Brickwork: a unitary, local and invertible law."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atheria_lab._checks import integer, number
from atheria_lab.laws.base import UnitaryLaw

_CELLS = 4  # of a 2x2 block


class Brickwork(UnitaryLaw):
    """Two layers of 2x2 blocks, each block turned by one learned unitary matrix.

    The first layer's blocks start at even rows and columns, the second's at odd ones: a
    partitioned quantum cellular automaton (Schumacher & Werner, quant-ph/0405174; Margolus'
    neighbourhood). Each layer's matrix is ``U = exp(A - A^dagger)`` on the ``4 * d_state``
    amplitudes of a block, so it is unitary for any parameters. The exponential is taken in
    double precision: rounding then costs no more norm than the state's own precision must.

    Light cone: a layer spreads a cell over its block. From an even cell ``x`` the two layers
    reach ``x - 1 ... x + 2``, from an odd one ``x - 2 ... x + 1``: ``radius`` is 2, and n steps
    reach ``2 n`` to one side and ``2 n - 1`` to the other.

    Args:
        d_state: complex amplitudes in a cell.
        spread: standard deviation of the generators' entries at the start; 0 is the identity.
        seed: of the generators.
    """

    def __init__(self, d_state: int, spread: float = 0.2, seed: int = 0) -> None:
        spread = number("spread", spread, least=0.0)
        seed = integer("seed", seed, least=0)
        super().__init__(d_state, spread=spread, seed=seed)
        size = _CELLS * self.d_state
        generator = torch.Generator().manual_seed(seed)
        # [layer, real and imaginary part, row, column]
        self.generators = nn.Parameter(
            spread * torch.randn(2, 2, size, size, generator=generator) / size**0.5
        )

    @property
    def radius(self) -> int:
        """2: one cell for each layer of blocks."""
        return 2

    @property
    def unit(self) -> int:
        """2: the sides of a block."""
        return 2

    def unitaries(self, dtype: torch.dtype = torch.complex128) -> Tensor:
        """The matrices of the two layers, complex ``[2, 4 * d_state, 4 * d_state]``.

        The rows of a block's vector are (row in the block, column in the block, channel).
        """
        return exponentials(self.generators, dtype)

    def evolve(self, psi: Tensor) -> Tensor:
        """``U psi``, complex ``[B, H, W, d_state]``, H and W even."""
        self._check(psi)
        first, second = self.unitaries(psi.dtype)
        return _layer(_layer(psi, first, 0), second, 1)

    def inverse(self, psi: Tensor) -> Tensor:
        """``U^dagger psi``: the adjoint layers in the other order."""
        self._check(psi)
        first, second = self.unitaries(psi.dtype)
        return _layer(_layer(psi, second.mH, 1), first.mH, 0)

    def _check(self, psi: Tensor) -> None:
        if psi.dim() != 4 or psi.shape[-1] != self.d_state:
            raise ValueError(
                f"psi: got shape {tuple(psi.shape)}; this law takes [B, H, W, {self.d_state}]."
            )
        if psi.shape[1] % 2 or psi.shape[2] % 2:
            raise ValueError(
                f"psi: got a lattice of {psi.shape[1]}x{psi.shape[2]} cells; Brickwork takes even "
                "sides, so that its blocks close on the torus."
            )


def exponentials(generators: Tensor, dtype: torch.dtype) -> Tensor:
    """``exp(A - A^dagger)`` of generators ``[2, 2, n, n]`` (layer, real and imaginary part)."""
    real, imag = generators.double().unbind(1)
    skew = torch.complex(real - real.mT, imag + imag.mT)
    matrices: Tensor = torch.linalg.matrix_exp(skew)
    return matrices.to(dtype)


def _layer(psi: Tensor, unitary: Tensor, shift: int) -> Tensor:
    """One matrix on every 2x2 block whose first row and column is ``shift`` (modulo 2)."""
    batch, height, width, d_state = psi.shape
    if shift:
        psi = psi.roll((-shift, -shift), dims=(1, 2))
    blocks = psi.reshape(batch, height // 2, 2, width // 2, 2, d_state).transpose(2, 3)
    blocks = blocks.reshape(-1, _CELLS * d_state) @ unitary.mT
    blocks = blocks.reshape(batch, height // 2, width // 2, 2, 2, d_state).transpose(2, 3)
    psi = blocks.reshape(batch, height, width, d_state)
    return psi.roll((shift, shift), dims=(1, 2)) if shift else psi
