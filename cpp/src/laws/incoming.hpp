// What arrives at a tile on the way back: the gradient of a step's result, back through the noise
// and the norm by lattice. With next = scale * y and scale = mean(|y|^2)^(-1/2), the gradient of y
// is scale * (g - next * <g, next> / cells).
#pragma once

#include <algorithm>
#include <vector>

#include "../share.hpp"
#include "atheria/vjp.hpp"

namespace atheria {

template <class R>
class Incoming {
 public:
  Incoming(const Shape& shape, const Options& options, const StepRecord<R>& record)
      : shape_(shape), options_(options), record_(record), kernels_(kernels<R>(options.isa)),
        shares_(shape.batch, R(0)) {
    if (options.norm == Norm::lattice) {
      project();
    }
  }

  // Of `rows` cells of one lattice that lie together from `cell` on (counted over the batch).
  void load(std::size_t batch, std::size_t cell, std::size_t rows, R* to,
            std::size_t stride) const noexcept {
    const std::size_t width = shape_.channels();
    const bool lattice = options_.norm == Norm::lattice;
    kernels_.less(record_.gradient + cell * width, lattice ? record_.next + cell * width : nullptr,
                  rows, width, lattice ? record_.scales[batch] : R(1), shares_[batch], to, stride);
    if (options_.phase > 0 || options_.sign > 0) {
      const NoiseAt noise{options_.phase, options_.sign, options_.seed, options_.first_step, true};
      kernels_.noise(noise, cell, to, rows, shape_.d_state, stride);
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

  Shape shape_;
  const Options& options_;
  const StepRecord<R>& record_;
  const Kernels<R>& kernels_;
  std::vector<R> shares_;
};

}  // namespace atheria
