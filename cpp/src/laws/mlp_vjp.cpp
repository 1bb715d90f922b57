// Back through an MLP's step, tile by tile. With x a cell of psi, z = W_1 x + b_1 and
// y = keep x + W_2 f(z) + b_2, and g the gradient of y:
//   b_2: g      W_2: g f(z)^T      z: h = f'(z) * W_2^T g
//   b_1: h      W_1: h x^T         x: keep g + W_1^T h
#include <algorithm>
#include <cmath>
#include <vector>

#include "../share.hpp"
#include "atheria/vjp.hpp"
#include "pack.hpp"

namespace atheria {
namespace {

// The sums over cells are made in as many parts, whatever the threads.
constexpr std::size_t kParts = 64;

template <class R>
class MlpVjp {
 public:
  MlpVjp(const NetworkWeights<R>& weights, const Shape& shape, const Options& options,
         const StepRecord<R>& record, const NetworkGradients<R>& gradients)
      : shape_(shape), options_(options), record_(record), gradients_(gradients),
        kernels_(kernels<R>(options.isa)), hidden_(weights.hidden),
        activation_(weights.activation),
        inner_(kernels_.lanes, 1, shape.channels(), hidden_,
               [&](std::size_t out, std::size_t in) {
                 return weights.inner[out * shape.channels() + channel_of(in, shape.d_state)];
               },
               [&](std::size_t out) { return weights.inner_bias[out]; }),
        outer_(kernels_.lanes, 1, hidden_, shape.channels(),
               [&](std::size_t out, std::size_t in) {
                 return weights.outer[channel_of(out, shape.d_state) * hidden_ + in];
               },
               [&](std::size_t out) { return weights.outer_bias[channel_of(out, shape.d_state)]; }),
        inner_back_(kernels_.lanes, 1, hidden_, shape.channels(),
                    [&](std::size_t out, std::size_t in) {
                      return weights.inner[in * shape.channels() + channel_of(out, shape.d_state)];
                    },
                    [](std::size_t) { return R(0); }),
        outer_back_(kernels_.lanes, 1, shape.channels(), hidden_,
                    [&](std::size_t out, std::size_t in) {
                      return weights.outer[channel_of(in, shape.d_state) * hidden_ + out];
                    },
                    [](std::size_t) { return R(0); }),
        stride_(outer_.padded_outputs()), wide_(inner_.padded_outputs()),
        rows_(tile_rows((3 * stride_ + 3 * wide_) * sizeof(R))),
        tiles_((shape.cells() + rows_ - 1) / rows_), shares_(shape.batch, R(0)) {}

  void run() {
    if (options_.norm == Norm::lattice) {
      project();
    }
    const std::size_t tiles = tiles_ * shape_.batch;
    const std::size_t parts = std::min(kParts, tiles);
    const std::size_t sums = 2 * shape_.channels() * wide_ + wide_ + stride_;
    std::vector<Aligned<R>> totals(gradients_.weights() ? parts : 0);
    for (auto& total : totals) {
      total = Aligned<R>(sums);
    }
    std::vector<Aligned<R>> scratch;
    for (std::size_t i = 0; i < options_.threads; ++i) {
      scratch.emplace_back(rows_ * (3 * stride_ + 3 * wide_));
    }
    share(options_.threads, parts, [&](std::size_t part, std::size_t member) {
      for (std::size_t i = part * tiles / parts; i < (part + 1) * tiles / parts; ++i) {
        tile(i, scratch[member].data(), totals.empty() ? nullptr : totals[part].data());
      }
    });
    if (gradients_.weights()) {
      gather(totals);
    }
  }

 private:
  // How much of next the norm takes out of its gradient: <gradient, next> over the cells.
  void project() {
    constexpr std::size_t run = 4096;
    const std::size_t lattice = shape_.cells() * shape_.channels();
    const std::size_t runs = (lattice + run - 1) / run;
    std::vector<double> products(runs * shape_.batch);
    share(options_.threads, products.size(), [&](std::size_t task, std::size_t) {
      const std::size_t first = task / runs * lattice + task % runs * run;
      products[task] = kernels_.dot(record_.gradient + first, record_.next + first,
                                    std::min(run, lattice - task % runs * run));
    });
    for (std::size_t batch = 0; batch < shape_.batch; ++batch) {
      double sum = 0.0;
      for (std::size_t i = 0; i < runs; ++i) {
        sum += products[batch * runs + i];
      }
      // A lattice under the least density was scaled by a constant.
      constexpr double most = 0.999999e15;
      if (static_cast<double>(record_.scales[batch]) < most) {
        shares_[batch] = static_cast<R>(sum / static_cast<double>(shape_.cells()));
      }
    }
  }

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
    const bool lattice = options_.norm == Norm::lattice;

    kernels_.load(record_.psi + cell * width, rows, width, R(1), x, stride_);
    kernels_.less(record_.gradient + cell * width, lattice ? record_.next + cell * width : nullptr,
                  rows, width, lattice ? record_.scales[batch] : R(1), shares_[batch], g, stride_);
    if (options_.phase > 0 || options_.sign > 0) {
      const NoiseAt noise{options_.phase, options_.sign, options_.seed, options_.first_step, true};
      kernels_.noise(noise, cell, g, rows, shape_.d_state, stride_);
    }
    kernels_.dense(inner_.view(), x, stride_, &offset, slope, rows);
    kernels_.differentiate(activation_, slope, value, rows * wide_);
    if (options_.norm == Norm::cell) {
      kernels_.dense(outer_.view(), value, wide_, &offset, change, rows);
      kernels_.blend(x, change, change, rows, stride_, static_cast<R>(options_.keep), false);
      kernels_.unscale_cells(change, g, rows, stride_);
    }
    kernels_.dense(outer_back_.view(), g, stride_, &offset, h, rows);
    kernels_.multiply(h, slope, rows * wide_);
    if (total != nullptr) {
      R* const inner = total;
      R* const outer = inner + width * wide_;
      kernels_.outer(x, stride_, width, h, wide_, rows, inner);
      kernels_.outer(g, stride_, width, value, wide_, rows, outer);
      kernels_.sum_rows(h, wide_, rows, outer + width * wide_);
      kernels_.sum_rows(g, stride_, rows, outer + width * wide_ + wide_);
    }
    if (gradients_.psi != nullptr) {
      kernels_.dense(inner_back_.view(), h, wide_, &offset, change, rows);
      kernels_.blend(g, change, change, rows, stride_, static_cast<R>(options_.keep), false);
      kernels_.copy(change, stride_, rows, width, gradients_.psi + cell * width, width);
    }
  }

  void gather(const std::vector<Aligned<R>>& totals) const {
    const std::size_t width = shape_.channels();
    const auto sum = [&](std::size_t at) {
      double all = 0.0;
      for (const auto& total : totals) {
        all += static_cast<double>(total[at]);
      }
      return static_cast<R>(all);
    };
    const std::size_t outer = width * wide_;
    for (std::size_t i = 0; i < width; ++i) {
      const std::size_t channel = channel_of(i, shape_.d_state);
      for (std::size_t j = 0; j < hidden_; ++j) {
        gradients_.inner[j * width + channel] = sum(i * wide_ + j);
        gradients_.outer[channel * hidden_ + j] = sum(outer + i * wide_ + j);
      }
      gradients_.outer_bias[channel] = sum(2 * outer + wide_ + i);
    }
    for (std::size_t j = 0; j < hidden_; ++j) {
      gradients_.inner_bias[j] = sum(2 * outer + j);
    }
  }

  Shape shape_;
  const Options& options_;
  const StepRecord<R>& record_;
  const NetworkGradients<R>& gradients_;
  const Kernels<R>& kernels_;
  std::size_t hidden_;
  Activation activation_;
  PackedDense<R> inner_;
  PackedDense<R> outer_;
  PackedDense<R> inner_back_;
  PackedDense<R> outer_back_;
  std::size_t stride_;  // of a tile's rows of channels, and of hidden units
  std::size_t wide_;
  std::size_t rows_;
  std::size_t tiles_;  // of one lattice
  std::vector<R> shares_;
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
