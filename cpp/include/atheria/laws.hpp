// The laws that have a fused step, packed from PyTorch's own weights.
#pragma once

#include <memory>

#include "atheria/step.hpp"

namespace atheria {

// Weights as PyTorch keeps them, row by row: inner is [hidden, 2 * d_state] for an MLP and
// [hidden, 2 * d_state, 3, 3] for a Conv; outer is [2 * d_state, hidden]. The channels are all
// real parts, then all imaginary.
template <class R>
struct NetworkWeights {
  const R* inner;
  const R* inner_bias;
  const R* outer;
  const R* outer_bias;
  std::size_t hidden;
  Activation activation;
};

template <class R>
[[nodiscard]] std::unique_ptr<PackedLaw<R>> make_mlp(const NetworkWeights<R>& weights,
                                                     const Shape& shape, const Options& options);

template <class R>
[[nodiscard]] std::unique_ptr<PackedLaw<R>> make_conv(const NetworkWeights<R>& weights,
                                                      const Shape& shape, const Options& options);

// unitaries: complex [2, 4 * d_state, 4 * d_state]; the lattice's sides are even.
template <class R>
[[nodiscard]] std::unique_ptr<PackedLaw<R>> make_brickwork(const R* unitaries, const Shape& shape,
                                                           const Options& options);

}  // namespace atheria
