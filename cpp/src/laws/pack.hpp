// Weights in the order in which the kernels read them.
#pragma once

#include <algorithm>
#include <cstddef>

#include "atheria/aligned.hpp"
#include "atheria/kernels.hpp"

namespace atheria {

// Where a complex cell's number i (real and imaginary parts by turns) is among a law's channels
// (all real parts, then all imaginary).
[[nodiscard]] constexpr std::size_t channel_of(std::size_t i, std::size_t d_state) noexcept {
  return i / 2 + (i % 2) * d_state;
}

template <class R>
class PackedDense {
 public:
  // weight(output, input) and bias(output), with inputs counted over all segments.
  template <class Weight, class Bias>
  PackedDense(std::size_t lanes, std::size_t segments, std::size_t length, std::size_t outputs,
              Weight weight, Bias bias)
      : segments_(segments), length_(length), padded_(round_up(outputs, lanes)),
        weights_(padded_ * segments * length), bias_(padded_) {
    const std::size_t inputs = segments * length;
    const std::size_t panel = kPanelVectors * lanes;
    std::size_t next = 0;
    for (std::size_t first = 0; first < padded_; first += panel) {
      const std::size_t end = std::min(first + panel, padded_);
      for (std::size_t input = 0; input < inputs; ++input) {
        for (std::size_t output = first; output < end; ++output, ++next) {
          weights_[next] = output < outputs ? weight(output, input) : R(0);
        }
      }
    }
    for (std::size_t output = 0; output < outputs; ++output) {
      bias_[output] = bias(output);
    }
  }

  [[nodiscard]] Dense<R> view() const noexcept {
    return {segments_, length_, padded_, weights_.data(), bias_.data()};
  }
  [[nodiscard]] std::size_t padded_outputs() const noexcept { return padded_; }

 private:
  std::size_t segments_;
  std::size_t length_;
  std::size_t padded_;
  Aligned<R> weights_;
  Aligned<R> bias_;
};

// Rows in a tile, so that its numbers fit in the L1 cache beside the weights; a multiple of the
// block of rows, the same whatever the threads.
[[nodiscard]] constexpr std::size_t tile_rows(std::size_t bytes_per_row) noexcept {
  constexpr std::size_t cache = 20 * 1024;
  const std::size_t rows = cache / bytes_per_row / kRowBlock * kRowBlock;
  return rows < kRowBlock ? kRowBlock : rows > 96 ? 96 : rows;
}

}  // namespace atheria
