"""What the kernels are made of: numbers, activations, noise.

A tile is a block of cells, ``[M, W]``: a cell's ``2 * d_state`` real numbers as they lie in
memory (real and imaginary part side by side), padded with zeros to a power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def number(bits, dtype: tl.constexpr):
    """A number from the 64 bits of a double: Triton's own float arguments have 32 only."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def channels_of(place, WIDTH: tl.constexpr):
    """The law's channel (real parts first) of each place in a cell."""
    return place % 2 * (WIDTH // 2) + place // 2


@triton.jit
def outer_places(WIDTH: tl.constexpr, HIDDEN: tl.constexpr, W: tl.constexpr, H: tl.constexpr):
    """Where the numbers of the padded outer matrix ``[W, H]`` lie, and which there are."""
    place, unit = tl.arange(0, W)[:, None], tl.arange(0, H)[None, :]
    return channels_of(place, WIDTH) * HIDDEN + unit, (place < WIDTH) & (unit < HIDDEN)


@triton.jit
def value_and_slope(x, activation: tl.constexpr):
    """An activation and its derivative."""
    if activation == "silu":
        part = 1.0 / (1.0 + tl.exp(-x))
        value = x * part
        slope = part + value * (1.0 - part)
    elif activation == "relu":
        # A NaN stays one; where the input is 0, so is the slope, as in PyTorch.
        value = tl.where(x < 0.0, 0.0, x)
        slope = tl.where(x > 0.0, 1.0, tl.where(x <= 0.0, 0.0, x))
    elif activation == "gelu":
        share = 0.5 * (1.0 + tl.erf(x * 0.70710678118654752440))
        value = x * share
        slope = share + x * tl.exp(x * x * -0.5) * 0.39894228040143267794
    else:
        tl.static_assert(activation == "tanh")
        value = tanh(x)
        slope = 1.0 - value * value
    return value, slope


@triton.jit
def tanh(x):
    """The hyperbolic tangent: Padé's [7/8] near zero, where the other form cancels."""
    s = x * x
    above = x * (2027025.0 + s * (270270.0 + s * (6930.0 + s * 36.0)))
    below = 2027025.0 + s * (945945.0 + s * (51975.0 + s * (630.0 + s)))
    decay = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - decay) / (1.0 + decay)
    return tl.where(s < 0.25, above / below, tl.where(x < 0.0, -far, far))


@triton.jit
def philox(c0, c1, key0, key1, step0, step1, stream: tl.constexpr):
    """Four words of 32 bits of Philox4x32-10, as :func:`atheria_lab.noise.uniform` counts."""
    c2 = tl.zeros(c0.shape, tl.uint32) + step0.to(tl.uint32)
    c3 = tl.zeros(c0.shape, tl.uint32) + ((step1.to(tl.uint32) << 8) | stream)
    k0 = tl.zeros(c0.shape, tl.uint32) + key0.to(tl.uint32)
    k1 = tl.zeros(c0.shape, tl.uint32) + key1.to(tl.uint32)
    m0 = tl.full(c0.shape, 0xD2511F53, tl.uint32)
    m1 = tl.full(c0.shape, 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        high0, high1 = tl.umulhi(c0, m0), tl.umulhi(c2, m1)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, c2 * m1, high0 ^ c3 ^ k1, c0 * m0
        k0 += tl.full(c0.shape, 0x9E3779B9, tl.uint32)
        k1 += tl.full(c0.shape, 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def fraction(word, dtype: tl.constexpr):
    """A number in ``[0, 1)`` from a word's upper 24 bits."""
    return (word >> 8).to(tl.int32).to(dtype) * 5.9604644775390625e-08  # 2**-24


@triton.jit
def uniform_of_cells(cells, key0, key1, step0, step1, stream: tl.constexpr, M: tl.constexpr,
                     D: tl.constexpr, dtype: tl.constexpr):  # fmt: skip
    """A number for each channel of some cells, ``[M, D]``; a block of four shares its words."""
    c0 = tl.broadcast_to(cells.to(tl.uint32)[:, None], (M, D // 4))
    c1 = tl.broadcast_to(tl.arange(0, D // 4).to(tl.uint32)[None, :], (M, D // 4))
    w0, w1, w2, w3 = philox(c0, c1, key0, key1, step0, step1, stream)
    words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (M, D))
    return fraction(words, dtype)


@triton.jit
def uniform_at(cell, channel, key0, key1, step0, step1, stream: tl.constexpr,
               dtype: tl.constexpr):  # fmt: skip
    """A number for each pair of a cell and a channel (of one shape)."""
    w0, w1, w2, w3 = philox(
        cell.to(tl.uint32), (channel // 4).to(tl.uint32), key0, key1, step0, step1, stream
    )
    lane = channel % 4
    word = tl.where(lane == 0, w0, tl.where(lane == 1, w1, tl.where(lane == 2, w2, w3)))
    return fraction(word, dtype)


@triton.jit
def rotated(real, imag, drawn, phase, back: tl.constexpr):
    """Turned by angles uniform in ``[-phase, phase)``, or (back) the other way."""
    width = number(phase, real.dtype)
    angle = drawn * (2.0 * width) - width
    cos = tl.cos(angle)
    sin = -tl.sin(angle) if back else tl.sin(angle)
    return real * cos - imag * sin, real * sin + imag * cos


@triton.jit
def flipped(real, imag, drawn, sign):
    """With changed signs where a number lies under ``sign``; undone by itself."""
    flips = drawn < number(sign, real.dtype)
    return tl.where(flips, -real, real), tl.where(flips, -imag, imag)


@triton.jit
def turned(tile, cells, phase, sign, key0, key1, step0, step1, NOISE: tl.constexpr,
           back: tl.constexpr, M: tl.constexpr, W: tl.constexpr):  # fmt: skip
    """The tile with the noise of its step, or (back) its gradient before the noise.

    ``NOISE`` counts 1 for phase noise and 2 for sign noise; ``cells`` count over the batch.
    """
    if NOISE > 0:
        dtype: tl.constexpr = tile.dtype
        real, imag = tl.split(tl.reshape(tile, (M, W // 2, 2)))
        if NOISE % 2 == 1:
            drawn = uniform_of_cells(cells, key0, key1, step0, step1, 0, M, W // 2, dtype)
            real, imag = rotated(real, imag, drawn, phase, back)
        if NOISE >= 2:
            drawn = uniform_of_cells(cells, key0, key1, step0, step1, 1, M, W // 2, dtype)
            real, imag = flipped(real, imag, drawn, sign)
        tile = tl.reshape(tl.join(real, imag), (M, W))
    return tile
