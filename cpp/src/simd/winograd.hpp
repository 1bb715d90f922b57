// Winograd's minimal filtering F(2x2, 3x3) (Lavin & Gray, CVPR 2016): four outputs of a 3x3
// convolution take 16 products instead of 36. Inputs B^T d B, outputs A^T m A, with
//
//         1  0 -1  0            1  1  1  0
//   B^T = 0  1  1  0      A^T = 0  1 -1 -1
//         0 -1  1  0
//         0  1  0 -1
//
// An output takes only the products that its own nine inputs are in: no rounding, and no NaN,
// comes from farther than the kernel reaches.
#pragma once

#include "vector.hpp"

namespace atheria {
namespace {

template <class R>
void winograd_inputs(const R* x, std::size_t row, std::size_t stride, std::size_t blocks, R* to,
                     std::size_t position) {
  for (std::size_t block = 0; block < blocks; ++block) {
    for (std::size_t i = 0; i < stride; i += Simd<R>::lanes) {
      Vec<R> column[4][4];
#pragma GCC unroll 4
      for (std::size_t c = 0; c < 4; ++c) {
        const R* const at = x + (2 * block + c) * stride + i;
        const Vec<R> d0 = load_vector(at);
        const Vec<R> d1 = load_vector(at + row);
        const Vec<R> d2 = load_vector(at + 2 * row);
        const Vec<R> d3 = load_vector(at + 3 * row);
        column[c][0] = d0 - d2;
        column[c][1] = d1 + d2;
        column[c][2] = d2 - d1;
        column[c][3] = d1 - d3;
      }
      R* const out = to + block * stride + i;
#pragma GCC unroll 4
      for (std::size_t r = 0; r < 4; ++r) {
        store_vector(out + (4 * r + 0) * position, column[0][r] - column[2][r]);
        store_vector(out + (4 * r + 1) * position, column[1][r] + column[2][r]);
        store_vector(out + (4 * r + 2) * position, column[2][r] - column[1][r]);
        store_vector(out + (4 * r + 3) * position, column[1][r] - column[3][r]);
      }
    }
  }
}

template <class R>
void winograd_outputs(const R* m, std::size_t position, std::size_t stride, std::size_t blocks,
                      const R* bias, R* to, std::size_t row) {
  for (std::size_t block = 0; block < blocks; ++block) {
    for (std::size_t i = 0; i < stride; i += Simd<R>::lanes) {
      const R* const in = m + block * stride + i;
      const Vec<R> shift = load_vector(bias + i);
      Vec<R> upper[4];
      Vec<R> lower[4];
#pragma GCC unroll 4
      for (std::size_t c = 0; c < 4; ++c) {
        const Vec<R> m0 = load_vector(in + c * position);
        const Vec<R> m1 = load_vector(in + (4 + c) * position);
        const Vec<R> m2 = load_vector(in + (8 + c) * position);
        const Vec<R> m3 = load_vector(in + (12 + c) * position);
        upper[c] = m0 + m1 + m2;
        lower[c] = m1 - m2 - m3;
      }
      R* const out = to + 2 * block * stride + i;
      store_vector(out, upper[0] + upper[1] + upper[2] + shift);
      store_vector(out + stride, upper[1] - upper[2] - upper[3] + shift);
      store_vector(out + row, lower[0] + lower[1] + lower[2] + shift);
      store_vector(out + row + stride, lower[1] - lower[2] - lower[3] + shift);
    }
  }
}

template <class R>
void winograd_outputs_back(const R* y, std::size_t row, std::size_t stride, std::size_t blocks,
                           R* to, std::size_t position) {
  for (std::size_t block = 0; block < blocks; ++block) {
    for (std::size_t i = 0; i < stride; i += Simd<R>::lanes) {
      const R* const in = y + 2 * block * stride + i;
      Vec<R> column[2][4];
#pragma GCC unroll 2
      for (std::size_t c = 0; c < 2; ++c) {
        const Vec<R> upper = load_vector(in + c * stride);
        const Vec<R> lower = load_vector(in + row + c * stride);
        column[c][0] = upper;
        column[c][1] = upper + lower;
        column[c][2] = upper - lower;
        column[c][3] = -lower;
      }
      R* const out = to + block * stride + i;
#pragma GCC unroll 4
      for (std::size_t r = 0; r < 4; ++r) {
        store_vector(out + (4 * r + 0) * position, column[0][r]);
        store_vector(out + (4 * r + 1) * position, column[0][r] + column[1][r]);
        store_vector(out + (4 * r + 2) * position, column[0][r] - column[1][r]);
        store_vector(out + (4 * r + 3) * position, -column[1][r]);
      }
    }
  }
}

template <class R>
void winograd_inputs_back(const R* m, std::size_t position, std::size_t stride, std::size_t blocks,
                          R* x, std::size_t row) {
  for (std::size_t block = 0; block < blocks; ++block) {
    for (std::size_t i = 0; i < stride; i += Simd<R>::lanes) {
      const R* const in = m + block * stride + i;
      Vec<R> column[4][4];
#pragma GCC unroll 4
      for (std::size_t c = 0; c < 4; ++c) {
        const Vec<R> m0 = load_vector(in + c * position);
        const Vec<R> m1 = load_vector(in + (4 + c) * position);
        const Vec<R> m2 = load_vector(in + (8 + c) * position);
        const Vec<R> m3 = load_vector(in + (12 + c) * position);
        column[c][0] = m0;
        column[c][1] = m1 - m2 + m3;
        column[c][2] = m1 + m2 - m0;
        column[c][3] = -m3;
      }
      R* const out = x + 2 * block * stride + i;
#pragma GCC unroll 4
      for (std::size_t r = 0; r < 4; ++r) {
        const Vec<R> cell[4] = {column[0][r], column[1][r] - column[2][r] + column[3][r],
                                column[1][r] + column[2][r] - column[0][r], -column[3][r]};
#pragma GCC unroll 4
        for (std::size_t c = 0; c < 4; ++c) {
          R* const to = out + r * row + c * stride;
          store_vector(to, load_vector(to) + cell[c]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace atheria
