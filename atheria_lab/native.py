"""The one door to the compiled module ``atheria_lab._native``."""

from __future__ import annotations

import numpy as np

from atheria_lab import _native


def isa() -> str:
    """The instruction set that the kernels use: "baseline", "AVX2+FMA" or "AVX-512"."""
    name: str = _native.isa()
    return name


def uniform(cells: int, d_state: int, *, seed: int, step: int, stream: int) -> np.ndarray:
    """The numbers of :func:`atheria_lab.noise.uniform`, float64 ``[cells, d_state]``."""
    numbers: np.ndarray = _native.uniform(cells, d_state, seed, step, stream)
    return numbers
