"""A Conv's step and its way back: the nine neighbours of a tile's cells come from the cache.

With h the gradient of what the activation takes, as in :mod:`~atheria_lab.triton_step.mlp`, the
inner gradient of a tap is the sum of h(cell) x(cell + tap)^T, and psi's is keep g(cell) and the
sum of W_tap^T h(cell - tap). A cell's h is asked for by nine cells, so the way back writes h of
one step to memory, ``[B, H, W, hidden]``, and reads it again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from atheria_lab.native import StepOptions
from atheria_lab.triton_step.launch import (
    PARTS,
    PROGRAMS,
    STEP_ARGUMENTS,
    Lattice,
    network_sizes,
    noise_kind,
    on_device,
    real,
    scale_lattices,
    shares_of,
    step_arguments,
    sums_of,
)
from atheria_lab.triton_step.parts import channels_of, number, outer_places, value_and_slope
from atheria_lab.triton_step.update import before_cell_norm, before_finish, finish

_TAPS = 9


def step(
    psi: Tensor, weights: Sequence[Tensor], activation: str, options: StepOptions
) -> tuple[Tensor, Tensor]:
    """As :func:`atheria_lab.triton_step.conv_step`."""
    lattice, sizes = Lattice.of(psi), network_sizes(psi, weights[0].shape[0])
    tiles = triton.cdiv(lattice.cells, sizes["M"])
    next_psi = psi.new_empty(psi.shape)
    densities = psi.new_empty(lattice.batch, tiles, dtype=torch.float64)
    with on_device(psi):
        _step[min(tiles * lattice.batch, PROGRAMS),](
            real(psi), *_by_tap(weights), real(next_psi), densities, lattice.height,
            lattice.width, tiles, tiles * lattice.batch, **step_arguments(options), **sizes,
            ACTIVATION=activation, NORM=options.norm, NOISE=noise_kind(options),
        )  # fmt: skip
        if options.norm == "lattice":
            return next_psi, scale_lattices(next_psi, densities)
    return next_psi, psi.new_ones(lattice.batch, dtype=lattice.dtype)


def vjp(
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
    """As :func:`atheria_lab.triton_step.conv_vjp`."""
    lattice, sizes = Lattice.of(psi), network_sizes(psi, weights[0].shape[0])
    hidden, width = sizes["HIDDEN"], sizes["WIDTH"]
    tiles = triton.cdiv(lattice.cells, sizes["M"])
    place = (lattice.height, lattice.width, tiles, tiles * lattice.batch)
    parts = min(tiles * lattice.batch, PARTS if of_weights else PROGRAMS)
    inner, inner_bias, outer, outer_bias = _by_tap(weights)
    numbers = hidden + hidden * width + width if of_weights else 0
    back = psi.new_empty(lattice.batch, lattice.cells, hidden, dtype=lattice.dtype)
    psi_gradient = psi.new_empty(psi.shape if of_psi else 0)
    sums = psi.new_empty(parts, numbers, dtype=lattice.dtype)
    with on_device(psi):
        shares = shares_of(gradient, next_psi, scales) if options.norm == "lattice" else scales
        _back[parts,](
            real(gradient), real(psi), real(next_psi), scales, shares, inner, inner_bias, outer,
            outer_bias, back, real(psi_gradient), sums, *place, **step_arguments(options),
            **sizes, ACTIVATION=activation, NORM=options.norm, NOISE=noise_kind(options),
            OF_PSI=of_psi, OF_WEIGHTS=of_weights,
        )  # fmt: skip
        if of_psi:
            _back_to_psi[min(tiles * lattice.batch, PROGRAMS),](
                back, inner, real(psi_gradient), *place, **sizes
            )
        if not of_weights:
            return [psi_gradient, *(one.new_empty(0) for one in weights)]
        taps = psi.new_empty(parts, _TAPS * hidden * width, dtype=lattice.dtype)
        _sum_taps[parts, _TAPS](back, real(psi), taps, *place, **sizes)
        (of_inner,) = sums_of(taps, [inner])
        of_rest = sums_of(sums, weights[1:])
    return [psi_gradient, of_inner.permute(2, 3, 0, 1).contiguous(), *of_rest]


def _by_tap(weights: Sequence[Tensor]) -> list[Tensor]:
    """The weights, the inner ones as ``[3, 3, hidden, 2 * d_state]``."""
    inner, *rest = (one.detach() for one in weights)
    return [inner.permute(2, 3, 0, 1).contiguous(), *(one.contiguous() for one in rest)]


@triton.jit
def _neighbour(cell, down, right, rows, columns):
    """The cell so many rows and columns (1 at most) away on the torus."""
    row = (cell // columns + down + rows) % rows
    return row * columns + (cell % columns + right + columns) % columns


@triton.jit
def _tap_places(tap, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, W: tl.constexpr,
                H: tl.constexpr):  # fmt: skip
    """Where one tap's padded matrix ``[H, W]`` lies, and what there is of it."""
    unit, place = tl.arange(0, H)[:, None], tl.arange(0, W)[None, :]
    at = (tap * HIDDEN + unit) * WIDTH + channels_of(place, WIDTH)
    return at, (unit < HIDDEN) & (place < WIDTH)


@triton.jit
def _before_activation(psi, inner, inner_bias, cell, first, rows, columns, WIDTH: tl.constexpr,
                       HIDDEN: tl.constexpr, W: tl.constexpr, H: tl.constexpr,
                       M: tl.constexpr):  # fmt: skip
    """The 3x3 convolution of a tile, ``[M, H]``; ``first`` is the lattice's first cell."""
    dtype: tl.constexpr = psi.dtype.element_ty
    place, unit = tl.arange(0, W), tl.arange(0, H)
    there = (cell < rows * columns)[:, None] & (place < WIDTH)[None, :]
    z = tl.zeros((M, H), dtype) + tl.load(inner_bias + unit, mask=unit < HIDDEN, other=0.0)[None, :]
    for tap in range(9):
        near = first + _neighbour(cell, tap // 3 - 1, tap % 3 - 1, rows, columns)
        x = tl.load(psi + near[:, None] * WIDTH + place[None, :], mask=there, other=0.0)
        w_at, w_there = _tap_places(tap, WIDTH, HIDDEN, W, H)
        w = tl.load(inner + w_at, mask=w_there, other=0.0)
        z += tl.dot(x, tl.trans(w), input_precision="ieee", out_dtype=dtype)
    return z


@triton.jit(do_not_specialize=STEP_ARGUMENTS)
def _step(psi, inner, inner_bias, outer, outer_bias, next_psi, densities, rows, columns, tiles,
          count, keep, phase, sign, key0, key1, step0, step1,
          WIDTH: tl.constexpr, HIDDEN: tl.constexpr, W: tl.constexpr, H: tl.constexpr,
          M: tl.constexpr, ACTIVATION: tl.constexpr, NORM: tl.constexpr,
          NOISE: tl.constexpr):  # fmt: skip
    dtype: tl.constexpr = psi.dtype.element_ty
    place = tl.arange(0, W)
    outer_at, outer_there = outer_places(WIDTH, HIDDEN, W, H)
    w2 = tl.load(outer + outer_at, mask=outer_there, other=0.0)
    b2 = tl.load(outer_bias + channels_of(place, WIDTH), mask=place < WIDTH, other=0.0)
    for tile in range(tl.program_id(0), count, tl.num_programs(0)):
        first = (tile // tiles).to(tl.int64) * rows * columns
        cell = tile % tiles * M + tl.arange(0, M)
        there = (cell < rows * columns)[:, None] & (place < WIDTH)[None, :]
        at = (first + cell)[:, None] * WIDTH + place[None, :]
        z = _before_activation(
            psi, inner, inner_bias, cell, first, rows, columns, WIDTH, HIDDEN, W, H, M
        )
        value, _slope = value_and_slope(z, ACTIVATION)
        x = tl.load(psi + at, mask=there, other=0.0)
        y = tl.dot(value, tl.trans(w2), input_precision="ieee", out_dtype=dtype) + b2[None, :]
        finish(y + x * number(keep, dtype), next_psi, densities + tile, at, there, first + cell,
               phase, sign, key0, key1, step0, step1, NORM, NOISE, M, W)  # fmt: skip


@triton.jit(do_not_specialize=STEP_ARGUMENTS)
def _back(gradient, psi, next_psi, scales, shares, inner, inner_bias, outer, outer_bias,
          back, psi_gradient, parts, rows, columns, tiles, count,
          keep, phase, sign, key0, key1, step0, step1,
          WIDTH: tl.constexpr, HIDDEN: tl.constexpr, W: tl.constexpr, H: tl.constexpr,
          M: tl.constexpr, ACTIVATION: tl.constexpr, NORM: tl.constexpr, NOISE: tl.constexpr,
          OF_PSI: tl.constexpr, OF_WEIGHTS: tl.constexpr):  # fmt: skip
    """Writes h, keep g (of psi) and the sums of all weights but the inner ones."""
    dtype: tl.constexpr = psi.dtype.element_ty
    place, unit = tl.arange(0, W), tl.arange(0, H)
    outer_at, outer_there = outer_places(WIDTH, HIDDEN, W, H)
    w2 = tl.load(outer + outer_at, mask=outer_there, other=0.0)
    b2 = tl.load(outer_bias + channels_of(place, WIDTH), mask=place < WIDTH, other=0.0)
    of_b1, of_b2 = tl.zeros((H,), dtype), tl.zeros((W,), dtype)
    of_w2 = tl.zeros((W, H), dtype)
    for tile in range(tl.program_id(0), count, tl.num_programs(0)):
        lattice = (tile // tiles).to(tl.int64)
        first = lattice * rows * columns
        cell = tile % tiles * M + tl.arange(0, M)
        here = cell < rows * columns
        there = here[:, None] & (place < WIDTH)[None, :]
        at = (first + cell)[:, None] * WIDTH + place[None, :]
        g = before_finish(gradient, next_psi, scales + lattice, shares + lattice, at, there,
                          first + cell, phase, sign, key0, key1, step0, step1, NORM, NOISE,
                          M, W)  # fmt: skip
        z = _before_activation(
            psi, inner, inner_bias, cell, first, rows, columns, WIDTH, HIDDEN, W, H, M
        )
        value, slope = value_and_slope(z, ACTIVATION)
        if NORM == "cell":
            x = tl.load(psi + at, mask=there, other=0.0)
            y = tl.dot(value, tl.trans(w2), input_precision="ieee", out_dtype=dtype) + b2[None, :]
            g = before_cell_norm(g, tl.where(there, y + x * number(keep, dtype), 0.0))
        h = tl.dot(g, w2, input_precision="ieee", out_dtype=dtype) * slope
        back_at = (first + cell)[:, None] * HIDDEN + unit[None, :]
        tl.store(back + back_at, h, mask=here[:, None] & (unit < HIDDEN)[None, :])
        if OF_PSI:
            tl.store(psi_gradient + at, g * number(keep, dtype), mask=there)
        if OF_WEIGHTS:
            of_b1 += tl.sum(h, axis=0)
            of_w2 += tl.dot(tl.trans(g), value, input_precision="ieee", out_dtype=dtype)
            of_b2 += tl.sum(g, axis=0)
    if OF_WEIGHTS:
        # In the order of the weights: the inner bias, outer, its bias.
        to = parts + tl.program_id(0).to(tl.int64) * (HIDDEN + WIDTH * HIDDEN + WIDTH)
        tl.store(to + unit, of_b1, mask=unit < HIDDEN)
        to += HIDDEN
        tl.store(to + outer_at, of_w2, mask=outer_there)
        to += WIDTH * HIDDEN
        tl.store(to + channels_of(place, WIDTH), of_b2, mask=place < WIDTH)


@triton.jit
def _back_to_psi(back, inner, psi_gradient, rows, columns, tiles, count,
                 WIDTH: tl.constexpr, HIDDEN: tl.constexpr, W: tl.constexpr, H: tl.constexpr,
                 M: tl.constexpr):  # fmt: skip
    """Adds the inner weights' share of psi's gradient."""
    dtype: tl.constexpr = back.dtype.element_ty
    place, unit = tl.arange(0, W), tl.arange(0, H)
    for tile in range(tl.program_id(0), count, tl.num_programs(0)):
        first = (tile // tiles).to(tl.int64) * rows * columns
        cell = tile % tiles * M + tl.arange(0, M)
        here = (cell < rows * columns)[:, None]
        at = (first + cell)[:, None] * WIDTH + place[None, :]
        of_x = tl.load(psi_gradient + at, mask=here & (place < WIDTH)[None, :], other=0.0)
        for tap in range(9):
            near = first + _neighbour(cell, 1 - tap // 3, 1 - tap % 3, rows, columns)
            h_at = near[:, None] * HIDDEN + unit[None, :]
            h = tl.load(back + h_at, mask=here & (unit < HIDDEN)[None, :], other=0.0)
            w_at, w_there = _tap_places(tap, WIDTH, HIDDEN, W, H)
            w = tl.load(inner + w_at, mask=w_there, other=0.0)
            of_x += tl.dot(h, w, input_precision="ieee", out_dtype=dtype)
        tl.store(psi_gradient + at, of_x, mask=here & (place < WIDTH)[None, :])


@triton.jit
def _sum_taps(back, psi, parts, rows, columns, tiles, count,
              WIDTH: tl.constexpr, HIDDEN: tl.constexpr, W: tl.constexpr, H: tl.constexpr,
              M: tl.constexpr):  # fmt: skip
    """One tap's part of the inner weights' sums over cells."""
    dtype: tl.constexpr = back.dtype.element_ty
    tap = tl.program_id(1)
    place, unit = tl.arange(0, W), tl.arange(0, H)
    of_w = tl.zeros((H, W), dtype)
    for tile in range(tl.program_id(0), count, tl.num_programs(0)):
        first = (tile // tiles).to(tl.int64) * rows * columns
        cell = tile % tiles * M + tl.arange(0, M)
        here = (cell < rows * columns)[:, None]
        near = first + _neighbour(cell, tap // 3 - 1, tap % 3 - 1, rows, columns)
        x_at = near[:, None] * WIDTH + place[None, :]
        x = tl.load(psi + x_at, mask=here & (place < WIDTH)[None, :], other=0.0)
        h_at = (first + cell)[:, None] * HIDDEN + unit[None, :]
        h = tl.load(back + h_at, mask=here & (unit < HIDDEN)[None, :], other=0.0)
        of_w += tl.dot(tl.trans(h), x, input_precision="ieee", out_dtype=dtype)
    w_at, w_there = _tap_places(tap, WIDTH, HIDDEN, W, H)
    to = parts + tl.program_id(0).to(tl.int64) * (9 * HIDDEN * WIDTH)
    tl.store(to + w_at, of_w, mask=w_there)
