// A small matrix product: rows of a tile times packed weights, with the sums kept in registers.
#pragma once

#include "atheria/kernels.hpp"
#include "vector.hpp"

namespace atheria {
namespace {

// `Rows` rows by `Panel` vectors of outputs: Rows * Panel sums in registers.
template <class R, std::size_t Rows, std::size_t Panel>
ATHERIA_INLINE void dense_block(const Dense<R>& layer, const R* weights, const R* bias, const R* a,
                                std::size_t stride, const std::size_t* offsets, R* out) {
  constexpr std::size_t lanes = Simd<R>::lanes;
  Vec<R> sum[Rows][Panel];
#pragma GCC unroll 16
  for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t p = 0; p < Panel; ++p) {
      sum[r][p] = load_vector(bias + p * lanes);
    }
  }
  for (std::size_t segment = 0; segment < layer.segments; ++segment) {
    const R* row[Rows];
#pragma GCC unroll 16
    for (std::size_t r = 0; r < Rows; ++r) {
      row[r] = a + offsets[segment] + r * stride;
    }
    for (std::size_t k = 0; k < layer.length; ++k) {
      Vec<R> w[Panel];
#pragma GCC unroll 4
      for (std::size_t p = 0; p < Panel; ++p) {
        w[p] = load_vector(weights + p * lanes);
      }
      weights += Panel * lanes;
#pragma GCC unroll 16
      for (std::size_t r = 0; r < Rows; ++r) {
        const Vec<R> x = fill(row[r][k]);
#pragma GCC unroll 4
        for (std::size_t p = 0; p < Panel; ++p) {
          sum[r][p] += x * w[p];
        }
      }
    }
  }
#pragma GCC unroll 16
  for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t p = 0; p < Panel; ++p) {
      store_vector(out + r * layer.padded_outputs + p * lanes, sum[r][p]);
    }
  }
}

template <class R, std::size_t Rows, std::size_t Panel>
void dense_panel(const Dense<R>& layer, const R* weights, const R* bias, const R* a,
                 std::size_t stride, const std::size_t* offsets, R* out, std::size_t rows) {
  static_assert(kRowBlock % Rows == 0);
  for (std::size_t row = 0; row < rows; row += Rows) {
    dense_block<R, Rows, Panel>(layer, weights, bias, a + row * stride, stride, offsets,
                                out + row * layer.padded_outputs);
  }
}

template <class R>
void dense(const Dense<R>& layer, const R* a, std::size_t stride, const std::size_t* offsets,
           R* out, std::size_t rows) {
  constexpr std::size_t panel = kPanelVectors * Simd<R>::lanes;
  // With 32 registers a block can be twice as high; a narrow panel needs as many sums in flight.
  constexpr std::size_t high = ATHERIA_VECTOR_BYTES == 64 ? 12 : 6;
  const std::size_t inputs = layer.segments * layer.length;
  std::size_t first = 0;
  for (; first + panel <= layer.padded_outputs; first += panel) {
    dense_panel<R, high, kPanelVectors>(layer, layer.weights + first * inputs, layer.bias + first,
                                        a, stride, offsets, out + first, rows);
  }
  if (first < layer.padded_outputs) {
    dense_panel<R, kRowBlock, 1>(layer, layer.weights + first * inputs, layer.bias + first, a,
                                 stride, offsets, out + first, rows);
  }
}

}  // namespace
}  // namespace atheria
