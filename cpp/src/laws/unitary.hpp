// A layer of Brickwork: one complex matrix on blocks of 2x2 cells, as three real ones.
#pragma once

#include <array>

#include "atheria/step.hpp"
#include "pack.hpp"

namespace atheria {

// Which of a block's complex numbers stands at `place` of a tile: Kernels::split takes a block row
// by row.
template <class R>
[[nodiscard]] std::size_t block_number(std::size_t place, std::size_t d_state, std::size_t lanes) {
  const std::size_t row = 2 * d_state;
  return place / row * row + split_number<R>(place % row, row, lanes);
}

// V, W and V + W of a unitary V + iW [4 * d_state, 4 * d_state], or of its adjoint.
template <class R>
std::array<PackedDense<R>, 3> pack_unitary(std::size_t lanes, const R* unitary,
                                           std::size_t d_state, bool adjoint) {
  const std::size_t size = 4 * d_state;
  const auto matrix = [&](R real, R imag) {
    return PackedDense<R>(
        lanes, 1, size, size,
        [&](std::size_t out, std::size_t in) {
          const std::size_t row = block_number<R>(adjoint ? in : out, d_state, lanes);
          const std::size_t column = block_number<R>(adjoint ? out : in, d_state, lanes);
          const R* const u = unitary + 2 * (row * size + column);
          return real * u[0] + (adjoint ? -imag : imag) * u[1];
        },
        [](std::size_t) { return R(0); });
  };
  return {matrix(1, 0), matrix(0, 1), matrix(1, 1)};
}

}  // namespace atheria
