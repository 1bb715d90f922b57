// Brickwork: two layers of 2x2 blocks. A complex product is a real one on pairs: the number
// (re, im) of an output is re * (U_r, U_i) + im * (-U_i, U_r), summed over the inputs.
//
// Phase 0 takes strips of rows: the first layer into the other buffer and, one pair of rows
// behind, the second layer in place, while those rows are still in the cache. Phase 1 does the
// pairs of rows that lie between two strips.
#include <algorithm>

#include "atheria/laws.hpp"
#include "finish.hpp"
#include "pack.hpp"

namespace atheria {
namespace {

constexpr std::size_t kStrip = 4;  // pairs of rows

template <class R>
class PackedBrickwork final : public PackedLaw<R> {
 public:
  PackedBrickwork(const R* unitaries, const Shape& shape, const Options& options)
      : shape_(shape), kernels_(kernels<R>(options.isa)), finish_(shape, options),
        row_(shape.width * shape.channels()), half_(2 * shape.channels()),
        first_(pack(unitaries)), second_(pack(unitaries + 8 * 4 * shape.d_state * shape.d_state)),
        stride_(first_.padded_outputs()), blocks_(tile_rows(2 * stride_ * sizeof(R))),
        strips_((shape.height / 2 + kStrip - 1) / kStrip) {}

  [[nodiscard]] std::size_t phases() const noexcept override { return 2; }

  [[nodiscard]] std::size_t tasks(std::size_t) const noexcept override {
    return strips_ * shape_.batch;
  }

  [[nodiscard]] std::size_t scratch() const noexcept override { return 2 * blocks_ * stride_; }

  void task(std::size_t phase, std::size_t index, const Pass<R>& pass,
            R* scratch) const noexcept override {
    const std::size_t batch = index / strips_;
    const std::size_t begin = index % strips_ * kStrip;
    const std::size_t end = std::min(begin + kStrip, shape_.height / 2);
    if (phase == 1) {
      second_layer(batch, end - 1, pass, scratch);
      return;
    }
    for (std::size_t pair = begin; pair < end; ++pair) {
      first_layer(batch, pair, pass, scratch);
      if (pair > begin) {
        second_layer(batch, pair - 1, pass, scratch);
      }
    }
  }

 private:
  PackedDense<R> pack(const R* unitary) const {
    const std::size_t size = 4 * shape_.d_state;
    return PackedDense<R>(
        kernels_.lanes, 1, 2 * size, 2 * size,
        [&](std::size_t out, std::size_t in) {
          const R* const u = unitary + 2 * (out / 2 * size + in / 2);
          if (out % 2 == in % 2) {
            return u[0];
          }
          return out % 2 == 1 ? u[1] : -u[1];
        },
        [](std::size_t) { return R(0); });
  }

  // Rows 2 * pair and 2 * pair + 1, blocks from even columns on.
  void first_layer(std::size_t batch, std::size_t pair, const Pass<R>& pass,
                   R* scratch) const noexcept {
    const std::size_t top = (batch * shape_.height + 2 * pair) * row_;
    for (std::size_t block = 0; block < shape_.width / 2; block += blocks_) {
      const std::size_t blocks = std::min(blocks_, shape_.width / 2 - block);
      R* const in = scratch;
      R* const out = scratch + blocks_ * stride_;
      const std::size_t at = top + block * half_;
      gather(pass.from + at, blocks, in);
      gather(pass.from + at + row_, blocks, in + half_);
      const std::size_t offset = 0;
      kernels_.dense(first_.view(), in, stride_, &offset, out, blocks);
      scatter(out, blocks, pass.to + at);
      scatter(out + half_, blocks, pass.to + at + row_);
    }
  }

  // Rows 2 * pair + 1 and the one below, blocks from odd columns on, in place; then the noise.
  void second_layer(std::size_t batch, std::size_t pair, const Pass<R>& pass,
                    R* scratch) const noexcept {
    const std::size_t upper = batch * shape_.height + 2 * pair + 1;
    const std::size_t lower = batch * shape_.height + (2 * pair + 2) % shape_.height;
    const std::size_t inside = shape_.width / 2 - 1;  // the last block closes the ring
    R* const in = scratch;
    R* const out = scratch + blocks_ * stride_;
    const std::size_t offset = 0;
    for (std::size_t block = 0; block <= inside; block += blocks_) {
      const std::size_t blocks = std::min(blocks_, inside - block + 1);
      const bool closes = block + blocks == inside + 1;
      const std::size_t whole = blocks - (closes ? 1 : 0);
      const std::size_t at = shape_.channels() + block * half_;
      const std::size_t rows[] = {upper * row_, lower * row_};
      for (std::size_t i = 0; i < 2; ++i) {
        gather(pass.to + rows[i] + at, whole, in + i * half_);
        if (closes) {
          R* const last = in + whole * stride_ + i * half_;
          std::copy_n(pass.to + rows[i] + row_ - shape_.channels(), shape_.channels(), last);
          std::copy_n(pass.to + rows[i], shape_.channels(), last + shape_.channels());
        }
      }
      kernels_.dense(second_.view(), in, stride_, &offset, out, blocks);
      for (std::size_t i = 0; i < 2; ++i) {
        scatter(out + i * half_, whole, pass.to + rows[i] + at);
        if (closes) {
          const R* const last = out + whole * stride_ + i * half_;
          std::copy_n(last, shape_.channels(), pass.to + rows[i] + row_ - shape_.channels());
          std::copy_n(last + shape_.channels(), shape_.channels(), pass.to + rows[i]);
        }
      }
    }
    for (const std::size_t row : {upper, lower}) {
      finish_.turn(pass, pass.to + row * row_, shape_.width, shape_.channels(),
                   row * shape_.width);
    }
  }

  // One of the two rows of some blocks, between the lattice and the tile.
  void gather(const R* from, std::size_t blocks, R* to) const noexcept {
    kernels_.copy(from, half_, blocks, half_, to, stride_);
  }
  void scatter(const R* from, std::size_t blocks, R* to) const noexcept {
    kernels_.copy(from, stride_, blocks, half_, to, half_);
  }

  Shape shape_;
  const Kernels<R>& kernels_;
  Finish<R> finish_;
  std::size_t row_;   // numbers in a row of the lattice
  std::size_t half_;  // numbers in a row of a block
  PackedDense<R> first_;
  PackedDense<R> second_;
  std::size_t stride_;
  std::size_t blocks_;  // of a tile
  std::size_t strips_;
};

}  // namespace

template <class R>
std::unique_ptr<PackedLaw<R>> make_brickwork(const R* unitaries, const Shape& shape,
                                             const Options& options) {
  return std::make_unique<PackedBrickwork<R>>(unitaries, shape, options);
}

template std::unique_ptr<PackedLaw<float>> make_brickwork(const float*, const Shape&,
                                                          const Options&);
template std::unique_ptr<PackedLaw<double>> make_brickwork(const double*, const Shape&,
                                                           const Options&);

}  // namespace atheria
