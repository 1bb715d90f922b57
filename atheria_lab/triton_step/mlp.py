"""An MLP's step and its way back: a program keeps the weights and goes through tiles of cells.

With x a cell of psi, z = W_1 x + b_1 and y = keep x + W_2 f(z) + b_2, and g the gradient of y:
the gradients are g of b_2, g f(z)^T of W_2, h = f'(z) * W_2^T g of z and so of b_1, h x^T of W_1,
and keep g + W_1^T h of x.
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


def step(
    psi: Tensor, weights: Sequence[Tensor], activation: str, options: StepOptions
) -> tuple[Tensor, Tensor]:
    """As :func:`atheria_lab.triton_step.mlp_step`."""
    lattice, sizes = Lattice.of(psi), network_sizes(psi, weights[0].shape[0])
    tiles = triton.cdiv(lattice.cells, sizes["M"])
    next_psi = psi.new_empty(psi.shape)
    densities = psi.new_empty(lattice.batch, tiles, dtype=torch.float64)
    with on_device(psi):
        _step[min(tiles * lattice.batch, PROGRAMS),](
            real(psi), *(one.detach().contiguous() for one in weights), real(next_psi), densities,
            lattice.cells, tiles, tiles * lattice.batch, **step_arguments(options), **sizes,
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
    """As :func:`atheria_lab.triton_step.mlp_vjp`."""
    lattice, sizes = Lattice.of(psi), network_sizes(psi, weights[0].shape[0])
    tiles = triton.cdiv(lattice.cells, sizes["M"])
    programs = min(tiles * lattice.batch, PARTS if of_weights else PROGRAMS)
    numbers = sum(one.numel() for one in weights) if of_weights else 0
    psi_gradient = psi.new_empty(psi.shape if of_psi else 0)
    parts = psi.new_empty(programs, numbers, dtype=lattice.dtype)
    with on_device(psi):
        shares = shares_of(gradient, next_psi, scales) if options.norm == "lattice" else scales
        _back[programs,](
            real(gradient), real(psi), real(next_psi), scales, shares,
            *(one.detach().contiguous() for one in weights), real(psi_gradient), parts,
            lattice.cells, tiles, tiles * lattice.batch, **step_arguments(options), **sizes,
            ACTIVATION=activation, NORM=options.norm, NOISE=noise_kind(options),
            OF_PSI=of_psi, OF_WEIGHTS=of_weights,
        )  # fmt: skip
        if of_weights:
            return [psi_gradient, *sums_of(parts, weights)]
    return [psi_gradient, *(one.new_empty(0) for one in weights)]


@triton.jit
def _inner_places(WIDTH: tl.constexpr, HIDDEN: tl.constexpr, W: tl.constexpr, H: tl.constexpr):
    """Where the numbers of the padded inner matrix ``[H, W]`` lie, and which there are."""
    unit, place = tl.arange(0, H)[:, None], tl.arange(0, W)[None, :]
    return unit * WIDTH + channels_of(place, WIDTH), (unit < HIDDEN) & (place < WIDTH)


@triton.jit(do_not_specialize=STEP_ARGUMENTS)
def _step(psi, inner, inner_bias, outer, outer_bias, next_psi, densities, cells, tiles, count,
          keep, phase, sign, key0, key1, step0, step1,
          WIDTH: tl.constexpr, HIDDEN: tl.constexpr, W: tl.constexpr, H: tl.constexpr,
          M: tl.constexpr, ACTIVATION: tl.constexpr, NORM: tl.constexpr,
          NOISE: tl.constexpr):  # fmt: skip
    dtype: tl.constexpr = psi.dtype.element_ty
    place, unit = tl.arange(0, W), tl.arange(0, H)
    inner_at, inner_there = _inner_places(WIDTH, HIDDEN, W, H)
    outer_at, outer_there = outer_places(WIDTH, HIDDEN, W, H)
    w1 = tl.load(inner + inner_at, mask=inner_there, other=0.0)
    w2 = tl.load(outer + outer_at, mask=outer_there, other=0.0)
    b1 = tl.load(inner_bias + unit, mask=unit < HIDDEN, other=0.0)
    b2 = tl.load(outer_bias + channels_of(place, WIDTH), mask=place < WIDTH, other=0.0)
    for tile in range(tl.program_id(0), count, tl.num_programs(0)):
        cell = tile % tiles * M + tl.arange(0, M)
        there = (cell < cells)[:, None] & (place < WIDTH)[None, :]
        cell = (tile // tiles).to(tl.int64) * cells + cell
        at = cell[:, None] * WIDTH + place[None, :]
        x = tl.load(psi + at, mask=there, other=0.0)
        z = tl.dot(x, tl.trans(w1), input_precision="ieee", out_dtype=dtype) + b1[None, :]
        value, _slope = value_and_slope(z, ACTIVATION)
        y = tl.dot(value, tl.trans(w2), input_precision="ieee", out_dtype=dtype) + b2[None, :]
        finish(y + x * number(keep, dtype), next_psi, densities + tile, at, there, cell,
               phase, sign, key0, key1, step0, step1, NORM, NOISE, M, W)  # fmt: skip


@triton.jit(do_not_specialize=STEP_ARGUMENTS)
def _back(gradient, psi, next_psi, scales, shares, inner, inner_bias, outer, outer_bias,
          psi_gradient, parts, cells, tiles, count,
          keep, phase, sign, key0, key1, step0, step1,
          WIDTH: tl.constexpr, HIDDEN: tl.constexpr, W: tl.constexpr, H: tl.constexpr,
          M: tl.constexpr, ACTIVATION: tl.constexpr, NORM: tl.constexpr, NOISE: tl.constexpr,
          OF_PSI: tl.constexpr, OF_WEIGHTS: tl.constexpr):  # fmt: skip
    dtype: tl.constexpr = psi.dtype.element_ty
    place, unit = tl.arange(0, W), tl.arange(0, H)
    inner_at, inner_there = _inner_places(WIDTH, HIDDEN, W, H)
    outer_at, outer_there = outer_places(WIDTH, HIDDEN, W, H)
    w1 = tl.load(inner + inner_at, mask=inner_there, other=0.0)
    w2 = tl.load(outer + outer_at, mask=outer_there, other=0.0)
    b1 = tl.load(inner_bias + unit, mask=unit < HIDDEN, other=0.0)
    b2 = tl.load(outer_bias + channels_of(place, WIDTH), mask=place < WIDTH, other=0.0)
    of_w1, of_b1 = tl.zeros((H, W), dtype), tl.zeros((H,), dtype)
    of_w2, of_b2 = tl.zeros((W, H), dtype), tl.zeros((W,), dtype)
    for tile in range(tl.program_id(0), count, tl.num_programs(0)):
        lattice = (tile // tiles).to(tl.int64)
        cell = tile % tiles * M + tl.arange(0, M)
        there = (cell < cells)[:, None] & (place < WIDTH)[None, :]
        cell = lattice * cells + cell
        at = cell[:, None] * WIDTH + place[None, :]
        x = tl.load(psi + at, mask=there, other=0.0)
        g = before_finish(gradient, next_psi, scales + lattice, shares + lattice, at, there, cell,
                          phase, sign, key0, key1, step0, step1, NORM, NOISE, M, W)  # fmt: skip
        z = tl.dot(x, tl.trans(w1), input_precision="ieee", out_dtype=dtype) + b1[None, :]
        value, slope = value_and_slope(z, ACTIVATION)
        if NORM == "cell":
            y = tl.dot(value, tl.trans(w2), input_precision="ieee", out_dtype=dtype) + b2[None, :]
            g = before_cell_norm(g, tl.where(there, y + x * number(keep, dtype), 0.0))
        h = tl.dot(g, w2, input_precision="ieee", out_dtype=dtype) * slope
        if OF_WEIGHTS:
            of_w1 += tl.dot(tl.trans(h), x, input_precision="ieee", out_dtype=dtype)
            of_w2 += tl.dot(tl.trans(g), value, input_precision="ieee", out_dtype=dtype)
            of_b1 += tl.sum(h, axis=0)
            of_b2 += tl.sum(g, axis=0)
        if OF_PSI:
            of_x = tl.dot(h, w1, input_precision="ieee", out_dtype=dtype)
            tl.store(psi_gradient + at, of_x + g * number(keep, dtype), mask=there)
    if OF_WEIGHTS:
        # In the order of the weights: inner, its bias, outer, its bias.
        to = parts + tl.program_id(0).to(tl.int64) * (2 * WIDTH * HIDDEN + HIDDEN + WIDTH)
        tl.store(to + inner_at, of_w1, mask=inner_there)
        to += WIDTH * HIDDEN
        tl.store(to + unit, of_b1, mask=unit < HIDDEN)
        to += HIDDEN
        tl.store(to + outer_at, of_w2, mask=outer_there)
        to += WIDTH * HIDDEN
        tl.store(to + channels_of(place, WIDTH), of_b2, mask=place < WIDTH)
