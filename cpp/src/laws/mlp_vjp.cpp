// Back through an MLP's step, tile by tile. With x a cell of psi, z = W_1 x + b_1 and
// y = keep x + W_2 f(z) + b_2, and g the gradient of y:
//   b_2: g      W_2: g f(z)^T      z: h = f'(z) * W_2^T g
//   b_1: h      W_1: h x^T         x: keep g + W_1^T h
#include <algorithm>
#include <vector>

#include "../share.hpp"
#include "atheria/vjp.hpp"
#include "finish.hpp"
#include "incoming.hpp"
#include "network.hpp"

namespace atheria {
namespace {

template <class R>
class MlpVjp {
 public:
  MlpVjp(const NetworkWeights<R>& weights, const Shape& shape, const Options& options,
         const StepRecord<R>& record, const NetworkGradients<R>& gradients)
      : shape_(shape), options_(options), record_(record), gradients_(gradients),
        incoming_(shape, options, record), kernels_(kernels<R>(options.isa)), hidden_(weights.hidden),
        activation_(weights.activation),
        inner_(kernels_.lanes, 1, shape.channels(), hidden_,
               [&](std::size_t out, std::size_t in) {
                 return weights.inner[out * shape.channels() + channel_of(in, shape.d_state)];
               },
               [&](std::size_t out) { return weights.inner_bias[out]; }),
        outer_(pack_outer(kernels_.lanes, weights, shape)),
        inner_back_(kernels_.lanes, 1, hidden_, shape.channels(),
                    [&](std::size_t out, std::size_t in) {
                      return weights.inner[in * shape.channels() + channel_of(out, shape.d_state)];
                    },
                    [](std::size_t) { return R(0); }),
        outer_back_(pack_outer_back(kernels_.lanes, weights, shape)),
        stride_(outer_.padded_outputs()), wide_(inner_.padded_outputs()),
        outer_sums_{shape.channels(), stride_, wide_},
        rows_(tile_rows((3 * stride_ + 3 * wide_) * sizeof(R))),
        tiles_((shape.cells() + rows_ - 1) / rows_) {}

  void run() {
    const std::size_t inner = shape_.channels() * wide_;
    Totals<R> totals(tiles_ * shape_.batch, gradients_.weights() ? inner + outer_sums_.size() : 0);
    std::vector<Aligned<R>> scratch;
    for (std::size_t i = 0; i < options_.threads; ++i) {
      scratch.emplace_back(rows_ * (3 * stride_ + 3 * wide_));
    }
    share(options_.threads, totals.parts(), [&](std::size_t part, std::size_t member) {
      for (std::size_t i = totals.begin(part); i < totals.begin(part + 1); ++i) {
        tile(i, scratch[member].data(), totals.part(part));
      }
    });
    if (gradients_.weights()) {
      for (std::size_t i = 0; i < shape_.channels(); ++i) {
        const std::size_t channel = channel_of(i, shape_.d_state);
        for (std::size_t j = 0; j < hidden_; ++j) {
          gradients_.inner[j * shape_.channels() + channel] =
              static_cast<R>(totals.at(i * wide_ + j));
        }
      }
      outer_sums_.gather(totals, inner, hidden_, gradients_);
    }
  }

 private:
  void tile(std::size_t index, R* scratch, R* total) const noexcept {
    const std::size_t batch = index / tiles_;
    const std::size_t first = index % tiles_ * rows_;
    const std::size_t rows = std::min(rows_, shape_.cells() - first);
    const std::size_t cell = batch * shape_.cells() + first;
    const std::size_t width = shape_.channels();
    const std::size_t offset = 0;
    R* const x = scratch;
    R* const g = x + rows_ * stride_;
    R* const change = g + rows_ * stride_;
    R* const slope = change + rows_ * stride_;
    R* const value = slope + rows_ * wide_;
    R* const h = value + rows_ * wide_;

    kernels_.load(record_.psi + cell * width, rows, width, R(1), x, stride_);
    incoming_.load(batch, cell, rows, g, stride_);
    // What the next tile reads comes from memory meanwhile, an array at a time, and where this one
    // goes.
    const std::size_t end = (batch + 1) * shape_.cells();
    const std::size_t next = std::min(rows_, end - cell - rows) * width;
    const std::size_t behind = (cell + rows) * width;
    prefetch(record_.psi + behind, next);
    kernels_.dense(inner_.view(), x, stride_, &offset, slope, rows);
    prefetch(record_.gradient + behind, next);
    kernels_.differentiate(activation_, slope, value, rows * wide_);
    if (options_.norm == Norm::cell) {
      kernels_.dense(outer_.view(), value, wide_, &offset, change, rows);
      kernels_.blend(x, change, change, rows, stride_, static_cast<R>(options_.keep), false);
      kernels_.unscale_cells(change, g, rows, stride_);
    }
    if (options_.norm == Norm::lattice) {
      prefetch(record_.next + behind, next);
    }
    kernels_.dense(outer_back_.view(), g, stride_, &offset, h, rows);
    kernels_.multiply(h, slope, rows * wide_);
    if (gradients_.psi != nullptr) {
      prefetch(gradients_.psi + cell * width, rows * width);
    }
    if (total != nullptr) {
      kernels_.outer(x, stride_, width, h, wide_, rows, total);
      outer_sums_.add(kernels_, g, value, h, rows, total + width * wide_);
    }
    if (gradients_.psi != nullptr) {
      kernels_.dense(inner_back_.view(), h, wide_, &offset, change, rows);
      kernels_.blend(g, change, change, rows, stride_, static_cast<R>(options_.keep), false);
      kernels_.copy(change, stride_, rows, width, gradients_.psi + cell * width, width);
    }
  }

  Shape shape_;
  const Options& options_;
  const StepRecord<R>& record_;
  const NetworkGradients<R>& gradients_;
  Incoming<R> incoming_;
  const Kernels<R>& kernels_;
  std::size_t hidden_;
  Activation activation_;
  PackedDense<R> inner_;
  PackedDense<R> outer_;
  PackedDense<R> inner_back_;
  PackedDense<R> outer_back_;
  std::size_t stride_;  // of a tile's rows of channels, and of hidden units
  std::size_t wide_;
  OuterSums<R> outer_sums_;
  std::size_t rows_;
  std::size_t tiles_;  // of one lattice
};

}  // namespace

template <class R>
void mlp_vjp(const NetworkWeights<R>& weights, const Shape& shape, const Options& options,
             const StepRecord<R>& record, const NetworkGradients<R>& gradients) {
  MlpVjp<R>(weights, shape, options, record, gradients).run();
}

template void mlp_vjp(const NetworkWeights<float>&, const Shape&, const Options&,
                      const StepRecord<float>&, const NetworkGradients<float>&);
template void mlp_vjp(const NetworkWeights<double>&, const Shape&, const Options&,
                      const StepRecord<double>&, const NetworkGradients<double>&);

}  // namespace atheria
