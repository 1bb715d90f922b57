// The vectorised loops that every fused step is made of, one table for each instruction set.
//
// A tile is a block of rows (cells, or blocks of cells) that fits in the L1 cache. Its rows are
// padded to whole vectors, with zeros behind the last channel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "atheria/cpu.hpp"

namespace atheria {

enum class Activation { silu, relu, gelu, tanh };

// Rows of a tile are counted in multiples of this: every kernel's block of rows divides it.
inline constexpr std::size_t kRowBlock = 12;
// Vectors of outputs that a block of rows makes at once.
inline constexpr std::size_t kPanelVectors = 2;

// A matrix and a bias as Kernels::dense reads them; pack() makes them. The inputs of a row are
// `segments` runs of `length` numbers.
template <class R>
struct Dense {
  std::size_t segments;
  std::size_t length;
  std::size_t padded_outputs;  // a multiple of the lanes
  const R* weights;            // [panel][input][panel vectors * lanes], the last panel narrower
  const R* bias;               // [padded_outputs]
};

// The noise after a step, and where its random numbers are counted from.
struct NoiseAt {
  double phase;
  double sign;
  std::uint64_t seed;
  std::uint64_t step;
  bool back = false;  // turns the other way
};

template <class R>
struct Kernels {
  std::size_t lanes;

  // out[row] = bias + weights * a[row], for rows 0 ... rows, rounded up to whole blocks of rows:
  // both tiles must have room for round_up(rows, kRowBlock) of them.
  void (*dense)(const Dense<R>& layer, const R* a, std::size_t a_stride,
                const std::size_t* offsets, R* out, std::size_t rows);

  // data[i] = f(data[i]); count is a multiple of the lanes.
  void (*activate)(Activation f, R* data, std::size_t count);

  // value[i] = f(data[i]) and data[i] = f'(data[i]); count is a multiple of the lanes.
  void (*differentiate)(Activation f, R* data, R* value, std::size_t count);

  // data[i] *= factor[i]; count is a multiple of the lanes.
  void (*multiply)(R* data, const R* factor, std::size_t count);

  // sum[i][j] += a[row][i] * b[row][j] over the rows, for i < a_count and j < b_stride: a sum of
  // outer products. a_count is even; b_stride, which is also sum's, a multiple of the lanes.
  void (*outer)(const R* a, std::size_t a_stride, std::size_t a_count, const R* b,
                std::size_t b_stride, std::size_t rows, R* sum);

  // sum[i] += data[row][i] over the rows; stride is a multiple of the lanes.
  void (*sum_rows)(const R* data, std::size_t stride, std::size_t rows, R* sum);

  // The sum of a[i] * b[i].
  double (*dot)(const R* a, const R* b, std::size_t count);

  // to[row][i] = factor * (a[row * width + i] - share * b[row * width + i]) for i < width, and
  // zeros behind; b may be null, as zeros.
  void (*less)(const R* a, const R* b, std::size_t rows, std::size_t width, R factor, R share,
               R* to, std::size_t stride);

  // Back through a norm by cell: of y and the gradient of y / |y|, row by row, the gradient of y.
  void (*unscale_cells)(const R* y, R* gradient, std::size_t rows, std::size_t stride);

  // to[row][i] = scale * from[row * width + i] for i < width.
  void (*load)(const R* from, std::size_t rows, std::size_t width, R scale, R* to,
               std::size_t stride);

  // to[i] = scale * from[i]; from and to may be the same.
  void (*scale)(const R* from, R* to, std::size_t count, R scale);

  // to = keep * x + change, row by row; returns the sum of its squares. With cell_norm every row
  // is scaled to length 1 (rows of zeros stay zero). `to` may be `change`.
  double (*blend)(const R* x, const R* change, R* to, std::size_t rows, std::size_t stride,
                  R keep, bool cell_norm);

  // Turns the d_state amplitudes of each row by the noise's unit factors.
  void (*noise)(const NoiseAt& noise, std::uint64_t first_cell, R* psi, std::size_t rows,
                std::size_t d_state, std::size_t stride);

  // to[row * to_stride + i] = from[row * from_stride + i] for i < width.
  void (*copy)(const R* from, std::size_t from_stride, std::size_t rows, std::size_t width, R* to,
               std::size_t to_stride);

  // to[row * width + i] += from[row * stride + i] for i < width.
  void (*add_rows)(const R* from, std::size_t stride, std::size_t rows, std::size_t width, R* to);

  // Rows of `count` complex numbers to real parts, imaginary parts, and the sums of both, each
  // `plane` numbers apart, in the order of split_number(); and back from the products a, b and c
  // (see brickwork.cpp): numbers (a - b, c - a - b), `plane` numbers from each product to the next.
  void (*split)(const R* from, std::size_t from_stride, std::size_t rows, std::size_t count, R* to,
                std::size_t to_stride, std::size_t plane);
  void (*join)(const R* from, std::size_t from_stride, std::size_t plane, std::size_t rows,
               std::size_t count, R* to, std::size_t to_stride);

  // Winograd's transforms of a 3x3 convolution, for blocks of 2x2 outputs side by side.
  // inputs: of the 4x4 cells at x + (2 * block) * stride, rows `row` apart, number (r, c) goes to
  // to[(4 * r + c) * position + block * stride]. outputs: from there to 2x2 cells, rows `row`
  // apart, plus the bias.
  void (*winograd_inputs)(const R* x, std::size_t row, std::size_t stride, std::size_t blocks,
                          R* to, std::size_t position);
  void (*winograd_outputs)(const R* m, std::size_t position, std::size_t stride,
                           std::size_t blocks, const R* bias, R* to, std::size_t row);

  // Their adjoints: gradients of the 2x2 outputs, rows `row` apart, to the sixteen positions; and
  // from there added to the 4x4 inputs, where blocks overlap.
  void (*winograd_outputs_back)(const R* y, std::size_t row, std::size_t stride,
                                std::size_t blocks, R* to, std::size_t position);
  void (*winograd_inputs_back)(const R* m, std::size_t position, std::size_t stride,
                               std::size_t blocks, R* x, std::size_t row);

  // Multiplies and adds in registers only, `rounds` times; returns how many floating-point
  // operations that was. It measures the processor, for the benchmarks.
  double (*peak)(std::size_t rounds, R* result);
};

// The kernels for an instruction set that this processor has (see supported()).
template <class R>
[[nodiscard]] const Kernels<R>& kernels(Isa isa);

// Which of a row's `count` complex numbers Kernels::split puts at `place`. Of as many as there are
// lanes, every 16 bytes take half from the first vector and half from the second.
template <class R>
[[nodiscard]] constexpr std::size_t split_number(std::size_t place, std::size_t count,
                                                 std::size_t lanes) noexcept {
  const std::size_t half = 8 / sizeof(R);
  const std::size_t first = place / lanes * lanes;
  const std::size_t i = place % lanes;
  if (first + lanes > count) return place;
  return first + i / half % 2 * (lanes / 2) + i / half / 2 * half + i % half;
}

[[nodiscard]] constexpr std::size_t round_up(std::size_t n, std::size_t multiple) noexcept {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace atheria
