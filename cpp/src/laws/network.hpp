// What MLP and Conv share: the layer behind the activation, there and back.
#pragma once

#include "atheria/laws.hpp"
#include "atheria/vjp.hpp"
#include "pack.hpp"
#include "totals.hpp"

namespace atheria {

// Hidden units to a cell's numbers.
template <class R>
PackedDense<R> pack_outer(std::size_t lanes, const NetworkWeights<R>& weights, const Shape& shape) {
  return PackedDense<R>(
      lanes, 1, weights.hidden, shape.channels(),
      [&](std::size_t out, std::size_t in) {
        return weights.outer[channel_of(out, shape.d_state) * weights.hidden + in];
      },
      [&](std::size_t out) { return weights.outer_bias[channel_of(out, shape.d_state)]; });
}

// Its transpose, for gradients.
template <class R>
PackedDense<R> pack_outer_back(std::size_t lanes, const NetworkWeights<R>& weights,
                               const Shape& shape) {
  return PackedDense<R>(
      lanes, 1, shape.channels(), weights.hidden,
      [&](std::size_t out, std::size_t in) {
        return weights.outer[channel_of(in, shape.d_state) * weights.hidden + out];
      },
      [](std::size_t) { return R(0); });
}

// The sums of W_2's gradient, and of both biases', one after the other in a total.
template <class R>
struct OuterSums {
  std::size_t channels;
  std::size_t stride;  // of a cell in a tile, and of its hidden units
  std::size_t wide;

  [[nodiscard]] std::size_t size() const noexcept { return channels * wide + wide + stride; }

  // With g the gradient of the cells, value = f(z) and h the gradient of z.
  void add(const Kernels<R>& kernels, const R* g, const R* value, const R* h, std::size_t rows,
           R* total) const noexcept {
    kernels.outer(g, stride, channels, value, wide, rows, total);
    kernels.sum_rows(h, wide, rows, total + channels * wide);
    kernels.sum_rows(g, stride, rows, total + channels * wide + wide);
  }

  // From `at` on in the totals.
  void gather(const Totals<R>& totals, std::size_t at, std::size_t hidden,
              const NetworkGradients<R>& to) const {
    for (std::size_t i = 0; i < channels; ++i) {
      const std::size_t channel = channel_of(i, channels / 2);
      for (std::size_t j = 0; j < hidden; ++j) {
        to.outer[channel * hidden + j] = static_cast<R>(totals.at(at + i * wide + j));
      }
      to.outer_bias[channel] = static_cast<R>(totals.at(at + channels * wide + wide + i));
    }
    for (std::size_t j = 0; j < hidden; ++j) {
      to.inner_bias[j] = static_cast<R>(totals.at(at + channels * wide + j));
    }
  }
};

}  // namespace atheria
