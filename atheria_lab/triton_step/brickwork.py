"""A Brickwork's step and its way back: a layer is one pass over its 2x2 blocks.

With U a layer's matrix, x a block before it and g the gradient after it: the gradients are
U^dagger g of x and the sum of g x^dagger of U. The state between the two layers is made again.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from atheria_lab.native import StepOptions
from atheria_lab.triton_step.launch import (
    PARTS,
    PROGRAMS,
    STEP_ARGUMENTS,
    Lattice,
    noise_kind,
    on_device,
    padded,
    real,
    step_arguments,
    sums_of,
    tile_of,
)
from atheria_lab.triton_step.parts import flipped, rotated, uniform_at


def step(psi: Tensor, unitaries: Tensor, options: StepOptions) -> Tensor:
    """As :func:`atheria_lab.triton_step.brickwork_step`."""
    matrices = real(unitaries)
    with on_device(psi):
        between = _layer_of(psi, matrices[0], 0, options, noise=0)
        return _layer_of(between, matrices[1], 1, options, noise=noise_kind(options))


def vjp(
    gradient: Tensor,
    psi: Tensor,
    unitaries: Tensor,
    options: StepOptions,
    of_psi: bool,
    of_weights: bool,
) -> list[Tensor]:
    """As :func:`atheria_lab.triton_step.brickwork_vjp`."""
    matrices, noise = real(unitaries), noise_kind(options)
    of_unitaries = unitaries.new_empty(unitaries.shape if of_weights else 0)
    with on_device(psi):
        between = _layer_of(psi, matrices[0], 0, options, noise=0) if of_weights else psi
        of_between, of_second = _layer_back(
            gradient, between, matrices[1], 1, options, noise, True, of_weights
        )
        of_start, of_first = _layer_back(
            of_between, psi, matrices[0], 0, options, 0, of_psi, of_weights
        )
        if of_weights:
            real(of_unitaries)[0].copy_(of_first)
            real(of_unitaries)[1].copy_(of_second)
    return [of_start, of_unitaries]


def _layer_of(x: Tensor, matrix: Tensor, shift: int, options: StepOptions, noise: int) -> Tensor:
    sizes, place = _sizes(x), _place(x)
    to = x.new_empty(x.shape)
    _layer[min(_tiles(x, sizes), PROGRAMS),](
        real(x), matrix, real(to), *place, _tiles(x, sizes), **step_arguments(options), **sizes,
        SHIFT=shift, NOISE=noise,
    )  # fmt: skip
    return to


def _layer_back(
    gradient: Tensor,
    x: Tensor,
    matrix: Tensor,
    shift: int,
    options: StepOptions,
    noise: int,
    of_x: bool,
    of_matrix: bool,
) -> tuple[Tensor, Tensor]:
    sizes = _sizes(x)
    tiles = _tiles(x, sizes)
    programs = min(tiles, PARTS if of_matrix else PROGRAMS)
    to = x.new_empty(x.shape if of_x else 0)
    parts = x.new_empty(programs, matrix.numel() if of_matrix else 0, dtype=Lattice.of(x).dtype)
    if of_x or of_matrix:
        _back[programs,](
            real(gradient), real(x), matrix, real(to), parts, *_place(x), tiles,
            **step_arguments(options), **sizes, SHIFT=shift, NOISE=noise, OF_PSI=of_x,
            OF_WEIGHTS=of_matrix,
        )  # fmt: skip
    return to, sums_of(parts, [matrix])[0] if of_matrix else parts


def _place(x: Tensor) -> tuple[int, int, int]:
    lattice = Lattice.of(x)
    return lattice.height, lattice.width, lattice.batch * lattice.cells // 4


def _tiles(x: Tensor, sizes: dict[str, Any]) -> int:
    return int(triton.cdiv(_place(x)[2], sizes["M"]))


def _sizes(psi: Tensor) -> dict[str, Any]:
    d_state = psi.shape[-1]
    n = padded(4 * d_state)
    return {"D": d_state, "N": n, **tile_of(psi, 2 * n * n, 8 * n, f"blocks of d_state {d_state}")}


@triton.jit
def _block_places(tile, rows, columns, blocks, D: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
                  SHIFT: tl.constexpr):  # fmt: skip
    """The cells (over the batch) and channels of a tile of blocks ``[M, N]``; which there are."""
    block = (tile * M + tl.arange(0, M)).to(tl.int64)[:, None]
    place = tl.arange(0, N)[None, :]
    row = block // (columns // 2) * 2
    # A lattice's rows are even: the batch's lie below one another, and wrap in their own.
    first = row // rows * rows
    row = first + (row - first + place // (2 * D) + SHIFT) % rows
    column = (block % (columns // 2) * 2 + place // D % 2 + SHIFT) % columns
    there = (block < blocks) & (place < 4 * D)
    cell = row * columns + column
    return cell, tl.broadcast_to(place % D, cell.shape), there


@triton.jit
def _matrix(matrix, D: tl.constexpr, N: tl.constexpr):
    """The real and imaginary part of a layer's matrix, padded, ``[N, N]``."""
    row, column = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    at = 2 * (row * (4 * D) + column)
    there = (row < 4 * D) & (column < 4 * D)
    u_real = tl.load(matrix + at, mask=there, other=0.0)
    return u_real, tl.load(matrix + at + 1, mask=there, other=0.0)


@triton.jit
def _product(a, b):
    return tl.dot(a, b, input_precision="ieee", out_dtype=a.dtype)


@triton.jit
def _noisy(x_real, x_imag, cell, channel, phase, sign, key0, key1, step0, step1,
           NOISE: tl.constexpr, back: tl.constexpr):  # fmt: skip
    dtype: tl.constexpr = x_real.dtype
    if NOISE % 2 == 1:
        drawn = uniform_at(cell, channel, key0, key1, step0, step1, 0, dtype)
        x_real, x_imag = rotated(x_real, x_imag, drawn, phase, back)
    if NOISE >= 2:
        drawn = uniform_at(cell, channel, key0, key1, step0, step1, 1, dtype)
        x_real, x_imag = flipped(x_real, x_imag, drawn, sign)
    return x_real, x_imag


@triton.jit(do_not_specialize=STEP_ARGUMENTS)
def _layer(psi, matrix, to, rows, columns, blocks, count,
           keep, phase, sign, key0, key1, step0, step1,
           D: tl.constexpr, N: tl.constexpr, M: tl.constexpr, SHIFT: tl.constexpr,
           NOISE: tl.constexpr):  # fmt: skip
    u_real, u_imag = _matrix(matrix, D, N)
    u_real, u_imag = tl.trans(u_real), tl.trans(u_imag)
    for tile in range(tl.program_id(0), count, tl.num_programs(0)):
        cell, channel, there = _block_places(tile, rows, columns, blocks, D, N, M, SHIFT)
        at = 2 * (cell * D + channel)
        x_real = tl.load(psi + at, mask=there, other=0.0)
        x_imag = tl.load(psi + at + 1, mask=there, other=0.0)
        y_real = _product(x_real, u_real) - _product(x_imag, u_imag)
        y_imag = _product(x_real, u_imag) + _product(x_imag, u_real)
        y_real, y_imag = _noisy(y_real, y_imag, cell, channel, phase, sign, key0, key1, step0,
                                step1, NOISE, False)  # fmt: skip
        tl.store(to + at, y_real, mask=there)
        tl.store(to + at + 1, y_imag, mask=there)


@triton.jit(do_not_specialize=STEP_ARGUMENTS)
def _back(gradient, psi, matrix, to, parts, rows, columns, blocks, count,
          keep, phase, sign, key0, key1, step0, step1,
          D: tl.constexpr, N: tl.constexpr, M: tl.constexpr, SHIFT: tl.constexpr,
          NOISE: tl.constexpr, OF_PSI: tl.constexpr, OF_WEIGHTS: tl.constexpr):  # fmt: skip
    dtype: tl.constexpr = psi.dtype.element_ty
    u_real, u_imag = _matrix(matrix, D, N)
    of_real, of_imag = tl.zeros((N, N), dtype), tl.zeros((N, N), dtype)
    for tile in range(tl.program_id(0), count, tl.num_programs(0)):
        cell, channel, there = _block_places(tile, rows, columns, blocks, D, N, M, SHIFT)
        at = 2 * (cell * D + channel)
        g_real = tl.load(gradient + at, mask=there, other=0.0)
        g_imag = tl.load(gradient + at + 1, mask=there, other=0.0)
        g_real, g_imag = _noisy(g_real, g_imag, cell, channel, phase, sign, key0, key1, step0,
                                step1, NOISE, True)  # fmt: skip
        if OF_PSI:
            of_x = _product(g_real, u_real) + _product(g_imag, u_imag)
            tl.store(to + at, of_x, mask=there)
            of_x = _product(g_imag, u_real) - _product(g_real, u_imag)
            tl.store(to + at + 1, of_x, mask=there)
        if OF_WEIGHTS:
            x_real = tl.load(psi + at, mask=there, other=0.0)
            x_imag = tl.load(psi + at + 1, mask=there, other=0.0)
            g_real, g_imag = tl.trans(g_real), tl.trans(g_imag)
            of_real += _product(g_real, x_real) + _product(g_imag, x_imag)
            of_imag += _product(g_imag, x_real) - _product(g_real, x_imag)
    if OF_WEIGHTS:
        row, column = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
        to_part = parts + tl.program_id(0).to(tl.int64) * (32 * D * D)
        to_part += 2 * (row * (4 * D) + column)
        inside = (row < 4 * D) & (column < 4 * D)
        tl.store(to_part, of_real, mask=inside)
        tl.store(to_part + 1, of_imag, mask=inside)
