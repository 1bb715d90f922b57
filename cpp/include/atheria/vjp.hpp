// One step as a function, and its vector-Jacobian product: the backward pass of training.
//
// The backward pass makes a tile's activations again from psi, in the cache, so that a step needs
// to save nothing but the state it came from and the one it went to.
#pragma once

#include <cstdint>

#include "atheria/laws.hpp"
#include "atheria/step.hpp"

namespace atheria {

// next = step(psi), not in place. scales [batch]: what the norm "lattice" multiplied each lattice
// by, 1 for any other.
template <class R>
void step_once(const PackedLaw<R>& law, const Shape& shape, const Options& options, const R* psi,
               R* next, R* scales);

// What the backward pass of a step starts from.
template <class R>
struct StepRecord {
  const R* psi;
  const R* next;
  const R* scales;    // [batch], see step_once
  const R* gradient;  // of next
};

// Gradients, in the order of what they belong to; a null pointer is left out.
template <class R>
struct NetworkGradients {
  R* psi;
  R* inner;
  R* inner_bias;
  R* outer;
  R* outer_bias;

  [[nodiscard]] bool weights() const noexcept { return inner != nullptr; }
};

// The gradients of a network's step. The sums over cells are made in parts that do not depend on
// the number of threads, and added in one order: any number gives the same bits.
template <class R>
void mlp_vjp(const NetworkWeights<R>& weights, const Shape& shape, const Options& options,
             const StepRecord<R>& record, const NetworkGradients<R>& gradients);

template <class R>
void conv_vjp(const NetworkWeights<R>& weights, const Shape& shape, const Options& options,
              const StepRecord<R>& record, const NetworkGradients<R>& gradients);

// The same of a Brickwork's step. Without the unitaries' gradient it is the inverse step: of a
// unitary map that is the adjoint.
template <class R>
struct UnitaryGradients {
  R* psi;
  R* unitaries;  // as PyTorch means them: of a matrix U in y = U x, g x^dagger
};

template <class R>
void brickwork_vjp(const R* unitaries, const Shape& shape, const Options& options, const R* psi,
                   const R* gradient, const UnitaryGradients<R>& gradients);

}  // namespace atheria
