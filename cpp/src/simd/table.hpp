// The kernels of one instruction set, gathered into its table. To include once in a source file
// that defines ATHERIA_VECTOR_BYTES and is compiled for that instruction set.
#pragma once

#include "dense.hpp"
#include "gradients.hpp"
#include "tiles.hpp"
#include "winograd.hpp"

namespace atheria {
namespace {

template <class R>
double peak(std::size_t rounds, R* result) {
  constexpr std::size_t chains = 12;  // more than the latency of one hides
  Vec<R> sum[chains];
  for (std::size_t i = 0; i < chains; ++i) {
    sum[i] = fill(static_cast<R>(i));
  }
  const Vec<R> factor = fill(*result);
  for (std::size_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (std::size_t i = 0; i < chains; ++i) {
      sum[i] = sum[i] * factor + factor;
    }
  }
  Vec<R> total{};
  for (std::size_t i = 0; i < chains; ++i) {
    total += sum[i];
  }
  *result = sum_lanes<R>(total);
  return 2.0 * static_cast<double>(rounds * chains * Simd<R>::lanes);
}

template <class R>
constexpr Kernels<R> table() {
  return {Simd<R>::lanes,  dense<R>,    activate<R>, differentiate<R>,   multiply<R>,
          outer<R>,        sum_rows<R>, dot<R>,      less<R>,            unscale_cells<R>,
          load<R>,         scale<R>,    blend<R>,    noise<R>,           copy<R>,
          add_rows<R>,               split<R>,        join<R>,     winograd_inputs<R>,
          winograd_outputs<R>, winograd_outputs_back<R>, winograd_inputs_back<R>, peak<R>};
}

}  // namespace
}  // namespace atheria
