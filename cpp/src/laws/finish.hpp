// What ends a step on a tile, the same for every law: the update, its norm, noise, the store.
#pragma once

#include "atheria/step.hpp"

namespace atheria {

// Asks for memory ahead of its use.
template <class R>
void prefetch(const R* data, std::size_t count) noexcept {
  constexpr std::size_t line = kCacheLine / sizeof(R);
  for (std::size_t i = 0; i < count; i += line) {
    __builtin_prefetch(data + i);
  }
}

template <class R>
class Finish {
 public:
  Finish(const Shape& shape, const Options& options)
      : kernels_(kernels<R>(options.isa)),
        d_state_(shape.d_state),
        keep_(static_cast<R>(options.keep)),
        cell_norm_(options.norm == Norm::cell), noise_{options.phase, options.sign, options.seed, 0} {}

  // psi' = keep * x + change, on `rows` cells that lie together from first_cell on (counted over
  // the batch). Returns their density.
  double operator()(const Pass<R>& pass, const R* x, R* change, std::size_t rows,
                    std::size_t stride, std::uint64_t first_cell) const noexcept {
    R* const to = pass.to + first_cell * 2 * d_state_;
    const bool direct = stride == 2 * d_state_ && !noisy();
    const double density =
        kernels_.blend(x, change, direct ? to : change, rows, stride, keep_, cell_norm_);
    if (!direct) {
      turn(pass, change, rows, stride, first_cell);
      kernels_.copy(change, stride, rows, 2 * d_state_, to, 2 * d_state_);
    }
    return density;
  }

  // The noise alone.
  void turn(const Pass<R>& pass, R* psi, std::size_t rows, std::size_t stride,
            std::uint64_t first_cell) const noexcept {
    if (noisy()) {
      NoiseAt at = noise_;
      at.step = pass.step;
      kernels_.noise(at, first_cell, psi, rows, d_state_, stride);
    }
  }

 private:
  [[nodiscard]] bool noisy() const noexcept { return noise_.phase > 0 || noise_.sign > 0; }

  const Kernels<R>& kernels_;
  std::size_t d_state_;
  R keep_;
  bool cell_norm_;
  NoiseAt noise_;
};

}  // namespace atheria
