// Brickwork: two layers of 2x2 blocks. A complex product takes three real ones (Gauss): with
// U = V + iW and psi = x + iy, the products a = V x, b = W y and c = (V + W)(x + y) give
// U psi = (a - b) + i (c - a - b).
//
// Phase 0 takes strips of rows: the first layer into the other buffer and, one pair of rows
// behind, the second layer in place, while those rows are still in the cache. Phase 1 does the
// pairs of rows that lie between two strips.
#include <algorithm>
#include <array>

#include "atheria/laws.hpp"
#include "finish.hpp"
#include "unitary.hpp"

namespace atheria {
namespace {

constexpr std::size_t kStrip = 4;  // pairs of rows

template <class R>
class PackedBrickwork final : public PackedLaw<R> {
 public:
  PackedBrickwork(const R* unitaries, const Shape& shape, const Options& options)
      : shape_(shape), kernels_(kernels<R>(options.isa)), finish_(shape, options),
        row_(shape.width * shape.channels()), half_(2 * shape.channels()),
        first_(pack_unitary(kernels_.lanes, unitaries, shape.d_state, false)),
        second_(pack_unitary(kernels_.lanes, unitaries + 32 * shape.d_state * shape.d_state,
                             shape.d_state, false)),
        plane_(first_[0].padded_outputs()), stride_(3 * plane_),
        blocks_(tile_rows(2 * stride_ * sizeof(R))),
        strips_((shape.height / 2 + kStrip - 1) / kStrip) {}

  [[nodiscard]] std::size_t phases() const noexcept override { return 2; }

  [[nodiscard]] std::size_t tasks(std::size_t) const noexcept override {
    return strips_ * shape_.batch;
  }

  [[nodiscard]] std::size_t scratch() const noexcept override {
    return 2 * blocks_ * stride_ + half_;
  }

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
  // Rows 2 * pair and 2 * pair + 1, blocks from even columns on.
  void first_layer(std::size_t batch, std::size_t pair, const Pass<R>& pass,
                   R* scratch) const noexcept {
    const std::size_t top = (batch * shape_.height + 2 * pair) * row_;
    for (std::size_t block = 0; block < shape_.width / 2; block += blocks_) {
      const std::size_t blocks = std::min(blocks_, shape_.width / 2 - block);
      const std::size_t at = top + block * half_;
      gather(pass.from + at, blocks, scratch);
      gather(pass.from + at + row_, blocks, scratch + half_ / 2);
      // What is needed next comes from memory meanwhile.
      const std::size_t next = at + blocks * half_;
      for (const std::size_t row : {std::size_t{0}, row_}) {
        prefetch(pass.to + at + row, blocks * half_);
        prefetch(pass.from + next + row, std::min(blocks * half_, shape_.size() - next - row));
      }
      multiply(first_, blocks, scratch);
      scatter(products(scratch), blocks, pass.to + at);
      scatter(products(scratch) + half_ / 2, blocks, pass.to + at + row_);
    }
  }

  // Rows 2 * pair + 1 and the one below, blocks from odd columns on, in place; then the noise.
  void second_layer(std::size_t batch, std::size_t pair, const Pass<R>& pass,
                    R* scratch) const noexcept {
    const std::size_t upper = batch * shape_.height + 2 * pair + 1;
    const std::size_t lower = batch * shape_.height + (2 * pair + 2) % shape_.height;
    const std::size_t inside = shape_.width / 2 - 1;  // the last block closes the ring
    for (std::size_t block = 0; block <= inside; block += blocks_) {
      const std::size_t blocks = std::min(blocks_, inside - block + 1);
      const bool closes = block + blocks == inside + 1;
      const std::size_t whole = blocks - (closes ? 1 : 0);
      const std::size_t at = shape_.channels() + block * half_;
      const std::size_t rows[] = {upper * row_, lower * row_};
      // Of the block that closes the ring, the left cells are the row's last, the right its first.
      const std::size_t cell = shape_.channels();
      const std::size_t last_cell = row_ - cell;
      R* const ring = scratch + 2 * blocks_ * stride_;
      for (std::size_t i = 0; i < 2; ++i) {
        R* const tile = scratch + i * half_ / 2;
        gather(pass.to + rows[i] + at, whole, tile);
        if (closes) {
          kernels_.scale(pass.to + rows[i] + last_cell, ring, cell, R(1));
          kernels_.scale(pass.to + rows[i], ring + cell, cell, R(1));
          gather(ring, 1, tile + whole * stride_);
        }
      }
      multiply(second_, blocks, scratch);
      for (std::size_t i = 0; i < 2; ++i) {
        const R* const tile = products(scratch) + i * half_ / 2;
        scatter(tile, whole, pass.to + rows[i] + at);
        if (closes) {
          scatter(tile + whole * plane_, 1, ring);
          kernels_.scale(ring, pass.to + rows[i] + last_cell, cell, R(1));
          kernels_.scale(ring + cell, pass.to + rows[i], cell, R(1));
        }
      }
    }
    for (const std::size_t row : {upper, lower}) {
      finish_.turn(pass, pass.to + row * row_, shape_.width, shape_.channels(),
                   row * shape_.width);
    }
  }

  // A tile: in front [block][part][row of psi's block], behind [product][block][row].
  R* products(R* tile) const noexcept { return tile + blocks_ * stride_; }

  void multiply(const std::array<PackedDense<R>, 3>& layer, std::size_t blocks,
                R* tile) const noexcept {
    const std::size_t offset = 0;
    for (std::size_t part = 0; part < 3; ++part) {
      kernels_.dense(layer[part].view(), tile + part * plane_, stride_, &offset,
                     products(tile) + part * blocks_ * plane_, blocks);
    }
  }

  // One of the two rows of some blocks, between the lattice and the tile.
  void gather(const R* from, std::size_t blocks, R* tile) const noexcept {
    kernels_.split(from, half_, blocks, half_ / 2, tile, stride_, plane_);
  }
  void scatter(const R* products, std::size_t blocks, R* to) const noexcept {
    kernels_.join(products, plane_, blocks_ * plane_, blocks, half_ / 2, to, half_);
  }

  Shape shape_;
  const Kernels<R>& kernels_;
  Finish<R> finish_;
  std::size_t row_;   // numbers in a row of the lattice
  std::size_t half_;  // numbers in a row of a block
  std::array<PackedDense<R>, 3> first_;
  std::array<PackedDense<R>, 3> second_;
  std::size_t plane_;   // numbers of a block in one part, padded
  std::size_t stride_;  // and in all three
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
