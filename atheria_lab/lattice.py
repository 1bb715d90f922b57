"""psi, the state of a lattice: how it is made, normalised and looked at.

A state is a complex tensor ``[batch, height, width, d_state]``: every cell holds a
vector of ``d_state`` complex amplitudes. The boundaries are periodic.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from atheria_lab._checks import integer, number

Norm = Literal["lattice", "cell", "none"]
Size = int | tuple[int, int]

NORMS: tuple[str, ...] = get_args(Norm)
_COMPLEX = (torch.complex64, torch.complex128)
# The least density that a norm divides by: an empty lattice (or cell) stays empty, without NaN.
_TINY_DENSITY = 1e-30


def random(
    size: Size,
    d_state: int,
    *,
    seed: int = 0,
    batch: int = 1,
    norm: Norm = "lattice",
    dtype: torch.dtype = torch.complex64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Complex Gaussian amplitudes, independent in every cell and channel, then normalised.

    The same ``seed`` gives the same state on every device: the numbers are drawn on the CPU.

    Args:
        size: cells along each side, or ``(height, width)``.
        d_state: complex amplitudes in a cell.
        seed: of the random numbers, 64 bits.
        batch: number of lattices.
        norm: see :func:`normalise`.
        dtype: ``torch.complex64`` or ``torch.complex128``.
        device: where the state lives; ``None`` means the CPU.

    Returns:
        psi ``[batch, height, width, d_state]``.
    """
    shape = _shape(size, d_state, batch)
    _check_dtype(dtype)
    generator = torch.Generator().manual_seed(integer("seed", seed, least=0, most=2**64 - 1))
    psi = torch.randn(shape, dtype=dtype, generator=generator)
    return normalise(psi, norm).to(device or "cpu")


def gaussian(
    size: Size,
    d_state: int,
    *,
    width: float = 0.1,
    center: tuple[float, float] = (0.5, 0.5),
    wave: tuple[int, int] = (0, 0),
    batch: int = 1,
    norm: Norm = "lattice",
    dtype: torch.dtype = torch.complex64,
    device: torch.device | str | None = None,
) -> Tensor:
    """A Gaussian wave packet, the same in every channel.

    ``psi(y, x) = exp(-r^2 / (4 width^2)) exp(2 pi i (k_y y + k_x x))`` with ``r`` the periodic
    distance to ``center``; the density then has the standard deviation ``width``.

    Args:
        size: cells along each side, or ``(height, width)``.
        d_state: complex amplitudes in a cell.
        width: standard deviation of the density, as a fraction of the lattice's side.
        center: ``(y, x)`` of the packet, as fractions of the sides.
        wave: ``(k_y, k_x)``, whole waves across the lattice.
        batch: number of lattices (all equal).
        norm: see :func:`normalise`.
        dtype: ``torch.complex64`` or ``torch.complex128``.
        device: where the state lives; ``None`` means the CPU.

    Returns:
        psi ``[batch, height, width, d_state]``.
    """
    if number("width", width, least=0.0) == 0:
        raise ValueError("width: got 0; it takes a positive fraction of the side.")
    center_y, center_x = (number("center", part) for part in _pair("center", center))
    shape = _shape(size, d_state, batch)
    _check_dtype(dtype)
    y, x = _fractions(shape, device)
    # The shortest way round the torus.
    dy = (y - center_y + 0.5).remainder(1.0) - 0.5
    dx = (x - center_x + 0.5).remainder(1.0) - 0.5
    envelope = torch.exp(-(dy**2 + dx**2) / (4 * width**2))
    cell = torch.polar(envelope, _angle(wave, y, x))
    return normalise(_fill(cell, shape, dtype), norm)


def plane_wave(
    size: Size,
    d_state: int,
    *,
    wave: tuple[int, int] = (0, 1),
    batch: int = 1,
    norm: Norm = "lattice",
    dtype: torch.dtype = torch.complex64,
    device: torch.device | str | None = None,
) -> Tensor:
    """``psi(y, x) = exp(2 pi i (k_y y / height + k_x x / width))``, the same in every channel.

    Args:
        size: cells along each side, or ``(height, width)``.
        d_state: complex amplitudes in a cell.
        wave: ``(k_y, k_x)``, whole waves across the lattice.
        batch: number of lattices (all equal).
        norm: see :func:`normalise`.
        dtype: ``torch.complex64`` or ``torch.complex128``.
        device: where the state lives; ``None`` means the CPU.

    Returns:
        psi ``[batch, height, width, d_state]``.
    """
    shape = _shape(size, d_state, batch)
    _check_dtype(dtype)
    y, x = _fractions(shape, device)
    angle = _angle(wave, y, x)
    return normalise(_fill(torch.polar(torch.ones_like(angle), angle), shape, dtype), norm)


def zeros(
    size: Size,
    d_state: int,
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.complex64,
    device: torch.device | str | None = None,
) -> Tensor:
    """The empty lattice, psi ``[batch, height, width, d_state]``; every norm leaves it empty."""
    _check_dtype(dtype)
    return torch.zeros(_shape(size, d_state, batch), dtype=dtype, device=device)


def from_array(
    array: np.ndarray | Tensor,
    *,
    norm: Norm = "none",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Psi from numbers of your own; they are copied.

    Args:
        array: real or complex, ``[height, width, d_state]`` or ``[batch, height, width, d_state]``.
        norm: see :func:`normalise`; by default the numbers stay as they are.
        dtype: ``torch.complex64`` or ``torch.complex128``; ``None`` keeps the precision
            (float64 and complex128 become complex128, everything else complex64).
        device: where the state lives; ``None`` means the CPU (of a tensor: where it is).

    Returns:
        psi ``[batch, height, width, d_state]``.

    Raises:
        TypeError: ``array`` is neither a numpy array nor a tensor, or holds no numbers.
        ValueError: it has another number of dimensions, no cells, NaN or infinity.
    """
    if isinstance(array, np.ndarray):
        try:
            tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
        except TypeError:
            raise TypeError(
                f"array: got dtype {array.dtype}; it takes real or complex numbers, of 64 bits a "
                "part at most."
            ) from None
    elif isinstance(array, Tensor):
        tensor = array.detach().clone()
    else:
        raise TypeError(
            f"array: got {type(array).__name__}; it takes a numpy array or a torch tensor."
        )
    if tensor.dim() == 3:
        tensor = tensor.unsqueeze(0)
    if tensor.dim() != 4 or tensor.numel() == 0:
        raise ValueError(
            f"array: got shape {tuple(array.shape)}; it takes [height, width, d_state] or "
            "[batch, height, width, d_state], each at least 1."
        )
    if dtype is None:
        double = tensor.dtype in (torch.float64, torch.complex128)
        dtype = torch.complex128 if double else torch.complex64
    _check_dtype(dtype)
    psi = tensor.to(device=device, dtype=dtype).contiguous()
    if not bool(torch.isfinite(psi).all()):
        raise ValueError(
            f"array: it holds NaN, infinity or numbers too large for {dtype}; replace them before "
            "making psi."
        )
    _check_density(psi, "array")
    return normalise(psi, norm)


def normalise(psi: Tensor, norm: Norm = "lattice") -> Tensor:
    """Scale psi so that its density keeps the norm; differentiable.

    Args:
        psi: ``[batch, height, width, d_state]``, complex.
        norm: ``"lattice"``: the mean density over each lattice is 1. ``"cell"``: the density of
            every cell is 1, so the density map is flat by construction. ``"none"``: unchanged.
            A lattice (or cell) of zeros stays zero. Densities must be finite numbers of psi's
            precision: in complex64 that is amplitudes below about 1e19.

    Returns:
        psi of the same shape.
    """
    check_norm(norm)
    if norm == "none":
        return psi
    if norm == "cell":
        return rescale(psi, density(psi))
    cells = psi.shape[1] * psi.shape[2]
    return rescale(psi, (row_sums(psi).sum(dim=1) / cells)[:, None, None])


def rescale(psi: Tensor, rho: Tensor) -> Tensor:
    """``psi / sqrt(rho)``, with rho real ``[B, H, W]``, or of what spreads to it; no NaN at 0."""
    # Not rsqrt: its derivative takes a third power, which overflows in float32 for small densities.
    scale = rho.clamp_min(_TINY_DENSITY).sqrt().reciprocal()[..., None, None]
    # As a product of real numbers: half the work of a complex one, and nothing to save twice.
    return torch.view_as_complex(torch.view_as_real(psi.resolve_conj()) * scale)


def row_sums(psi: Tensor) -> Tensor:
    """The density's sum over each row, real ``[batch, height]``.

    What belongs to a lattice as a whole is summed over rows first and over the rows then: so the
    sum has the same bits where the rows lie on several ranks.
    """
    return density(psi).sum(dim=-1)


def density(psi: Tensor) -> Tensor:
    """``rho(y, x) = sum_d |psi_d(y, x)|^2``, real ``[batch, height, width]``."""
    return torch.view_as_real(psi.resolve_conj()).square().sum(dim=(-2, -1))


def phase(psi: Tensor, channel: int = 0) -> Tensor:
    """The angle of one channel in radians, in ``[-pi, pi]``, real ``[batch, height, width]``."""
    if not -psi.shape[-1] <= channel < psi.shape[-1]:
        raise ValueError(f"channel: got {channel}; psi has channels 0 to {psi.shape[-1] - 1}.")
    return psi[..., channel].angle()


def to_channels(psi: Tensor) -> Tensor:
    """Psi ``[B, H, W, d]`` as a law reads it: float ``[B, 2d, H, W]``, real parts first.

    The result is a copy in torch's channels-last layout: a cell's numbers stay together.
    """
    return torch.cat([psi.real, psi.imag], dim=-1).permute(0, 3, 1, 2)


def from_channels(x: Tensor) -> Tensor:
    """The inverse of :func:`to_channels`: float ``[B, 2d, H, W]`` to complex ``[B, H, W, d]``."""
    # Stacked, since torch.complex would keep both parts for its backward pass.
    return torch.view_as_complex(torch.stack(x.permute(0, 2, 3, 1).chunk(2, dim=-1), dim=-1))


def check_psi(
    psi: object, *, name: str = "psi", d_state: int | None = None, finite: bool = True
) -> Tensor:
    """Refuse what is not a state of finite numbers; returns psi.

    ``finite=False`` lets NaN, infinity and squares that overflow pass: to look for them takes
    passes over psi, and on a GPU a wait for it.

    Raises:
        TypeError: not a complex64 or complex128 tensor.
        ValueError: not ``[batch, height, width, d_state]``, another ``d_state``, NaN or infinity.
    """
    if not isinstance(psi, Tensor) or psi.dtype not in _COMPLEX:
        got = psi.dtype if isinstance(psi, Tensor) else type(psi).__name__
        raise TypeError(
            f"{name}: got {got}; it takes a complex64 or complex128 tensor "
            "[batch, height, width, d_state]. lattice.from_array makes one of any numbers."
        )
    if psi.dim() != 4 or psi.numel() == 0:
        raise ValueError(
            f"{name}: got shape {tuple(psi.shape)}; it takes [batch, height, width, d_state], "
            "each at least 1."
        )
    if d_state is not None and psi.shape[-1] != d_state:
        raise ValueError(f"{name}: got d_state {psi.shape[-1]}; the law takes {d_state}.")
    if finite:
        if not bool(torch.isfinite(psi.detach()).all()):
            raise ValueError(f"{name}: it holds NaN or infinity.")
        _check_density(psi, name)
    return psi


def check_norm(norm: str) -> None:
    """Refuse an unknown norm with a ``ValueError``."""
    if norm not in NORMS:
        raise ValueError(f"norm: got {norm!r}; it takes one of {', '.join(map(repr, NORMS))}.")


def _check_density(psi: Tensor, name: str) -> None:
    """Refuse amplitudes whose squares overflow: a norm would turn them into zeros."""
    if not bool(torch.isfinite(density(psi.detach())).all()):
        raise ValueError(
            f"{name}: its amplitudes are too large, their squares overflow {psi.real.dtype}; it "
            "takes smaller ones, or dtype=torch.complex128."
        )


def _shape(size: Size, d_state: int, batch: int) -> tuple[int, int, int, int]:
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size: got {size!r}; it takes a side, or (height, width).")
    return (
        integer("batch", batch),
        integer("size", sides[0]),
        integer("size", sides[1]),
        integer("d_state", d_state),
    )


def _pair(name: str, value: object) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name}: got {value!r}; it takes a pair (y, x).")
    return value[0], value[1]


def _angle(wave: tuple[int, int], y: Tensor, x: Tensor) -> Tensor:
    """The phase of a plane wave; only whole waves close on the torus."""
    k_y, k_x = (integer("wave", part, least=-math.inf) for part in _pair("wave", wave))
    return 2 * math.pi * (k_y * y + k_x * x)


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in _COMPLEX:
        raise ValueError(f"dtype: got {dtype}; it takes torch.complex64 or torch.complex128.")


def _fractions(
    shape: tuple[int, int, int, int], device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    _, height, width, _ = shape
    y = torch.arange(height, dtype=torch.float64, device=device) / height
    x = torch.arange(width, dtype=torch.float64, device=device) / width
    return y[:, None], x[None, :]


def _fill(cell: Tensor, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    return cell.to(dtype)[None, :, :, None].expand(shape).contiguous()
