// Back through a Brickwork's step psi' = U_2 U_1 psi, then noise. With g the gradient behind a
// layer's matrix U and x what stood in front of it, the gradient of U is the sum of g x^dagger over
// the blocks, and that of x is U^dagger g. What stood between the layers is made again.
//
// A task is a strip of pairs of rows. It goes down a pair at a time: the second layer's blocks lie
// across two pairs, the first layer's within one. The blocks that lie across two strips are done
// by both, and counted by one.
#include <algorithm>
#include <array>
#include <vector>

#include "../share.hpp"
#include "atheria/vjp.hpp"
#include "totals.hpp"
#include "unitary.hpp"

namespace atheria {
namespace {

constexpr std::size_t kMostPairs = 8;  // of rows in a strip

template <class R>
class BrickworkVjp {
 public:
  BrickworkVjp(const R* unitaries, const Shape& shape, const Options& options, const R* psi,
               const R* gradient, const UnitaryGradients<R>& gradients)
      : shape_(shape), options_(options), psi_(psi), gradient_(gradient), gradients_(gradients),
        kernels_(kernels<R>(options.isa)), size_(4 * shape.d_state),
        row_(shape.width * shape.channels()), half_(2 * shape.channels()),
        first_(pack_unitary(kernels_.lanes, unitaries, shape.d_state, false)),
        first_back_(pack_unitary(kernels_.lanes, unitaries, shape.d_state, true)),
        second_back_(
            pack_unitary(kernels_.lanes, unitaries + 2 * size_ * size_, shape.d_state, true)),
        plane_(first_[0].padded_outputs()), blocks_(tile_rows(6 * plane_ * sizeof(R))),
        part_(blocks_ * plane_), pairs_(shape.height / 2),
        strip_(std::clamp(pairs_ / 8, std::size_t{1}, kMostPairs)),
        strips_((pairs_ + strip_ - 1) / strip_) {}

  void run() {
    const bool weights = gradients_.unitaries != nullptr;
    Totals<R> totals(strips_ * shape_.batch, weights ? 6 * size_ * plane_ : 0);
    std::vector<Aligned<R>> scratch;
    for (std::size_t i = 0; i < options_.threads; ++i) {
      scratch.emplace_back(9 * row_ + 9 * part_ + half_);
    }
    share(options_.threads, totals.parts(), [&](std::size_t part, std::size_t member) {
      for (std::size_t i = totals.begin(part); i < totals.begin(part + 1); ++i) {
        strip(i, scratch[member].data(), totals.part(part));
      }
    });
    if (weights) {
      gather(totals);
    }
  }

 private:
  // Rows of the lattice, and the tiles.
  struct Scratch {
    R* between[2];  // [2 rows]: what stood between the layers, of this pair and of the next
    R* arriving;    // [2 rows]: the gradient behind the second layer, the noise taken back
    R* behind[2];   // [1 row]: the gradient behind the first layer, of the pair's two rows
    R* next;        // [1 row]: and of the next pair's first
    R* x;           // tiles [part][block][row of psi's block]
    R* g;
    R* products;
    R* ring;  // the block that closes a row
  };

  void strip(std::size_t index, R* data, R* total) const noexcept {
    const std::size_t batch = index / strips_;
    const std::size_t begin = index % strips_ * strip_;
    const std::size_t end = std::min(begin + strip_, pairs_);
    Scratch s{{data, data + 2 * row_},
              data + 4 * row_,
              {data + 6 * row_, data + 7 * row_},
              data + 8 * row_,
              data + 9 * row_,
              data + 9 * row_ + 3 * part_,
              data + 9 * row_ + 6 * part_,
              data + 9 * row_ + 9 * part_};
    if (total != nullptr) {
      first_layer(batch, (begin + pairs_ - 1) % pairs_, s.between[0], s);
    }
    // Between pair `pair - 1` and `pair`, then pair `pair - 1`.
    for (std::size_t pair = begin; pair <= end; ++pair) {
      const bool counted = pair > begin;
      if (total != nullptr) {
        first_layer(batch, pair % pairs_, s.between[1], s);
      }
      const std::size_t upper = (2 * pair + shape_.height - 1) % shape_.height;
      const std::size_t lower = 2 * pair % shape_.height;
      arrive(batch, upper, s.arriving);
      arrive(batch, lower, s.arriving + row_);
      second_layer_back(s, counted && total != nullptr ? total + 3 * size_ * plane_ : nullptr);
      if (counted) {
        first_layer_back(batch, pair - 1, s, total);
      }
      std::swap(s.between[0], s.between[1]);
      std::swap(s.behind[0], s.next);
    }
  }

  // What stands between the layers, two rows.
  void first_layer(std::size_t batch, std::size_t pair, R* to, const Scratch& s) const noexcept {
    const R* const from = psi_ + (batch * shape_.height + 2 * pair) * row_;
    for (std::size_t block = 0; block < shape_.width / 2; block += blocks_) {
      const std::size_t blocks = std::min(blocks_, shape_.width / 2 - block);
      gather_block(from + block * half_, row_, blocks, s.x);
      multiply(first_, s.x, blocks, s.products);
      scatter_block(s.products, blocks, to + block * half_, row_);
    }
  }

  // The gradient of one row behind the second layer.
  void arrive(std::size_t batch, std::size_t y, R* to) const noexcept {
    const std::size_t cell = (batch * shape_.height + y) * shape_.width;
    kernels_.scale(gradient_ + cell * shape_.channels(), to, row_, R(1));
    if (options_.phase > 0 || options_.sign > 0) {
      const NoiseAt noise{options_.phase, options_.sign, options_.seed, options_.first_step, true};
      kernels_.noise(noise, cell, to, shape_.width, shape_.d_state, shape_.channels());
    }
  }

  // The blocks across two pairs, from the odd columns on.
  void second_layer_back(Scratch& s, R* total) const noexcept {
    const R* const x[] = {s.between[0] + row_, s.between[1]};
    const R* const g[] = {s.arriving, s.arriving + row_};
    R* const to[] = {s.behind[1], s.next};
    const std::size_t cell = shape_.channels();
    const std::size_t last = row_ - cell;
    const std::size_t inside = shape_.width / 2 - 1;  // the last block closes the ring
    for (std::size_t block = 0; block <= inside; block += blocks_) {
      const std::size_t blocks = std::min(blocks_, inside - block + 1);
      const bool closes = block + blocks == inside + 1;
      const std::size_t whole = blocks - (closes ? 1 : 0);
      const std::size_t at = cell + block * half_;
      const auto take = [&](const R* const* rows, R* tile) {
        for (std::size_t i = 0; i < 2; ++i) {
          gather_half(rows[i] + at, whole, tile + i * half_ / 2);
          if (closes) {
            kernels_.scale(rows[i] + last, s.ring, cell, R(1));
            kernels_.scale(rows[i], s.ring + cell, cell, R(1));
            gather_half(s.ring, 1, tile + i * half_ / 2 + whole * plane_);
          }
        }
      };
      take(g, s.g);
      multiply(second_back_, s.g, blocks, s.products);
      for (std::size_t i = 0; i < 2; ++i) {
        const R* const tile = s.products + i * half_ / 2;
        scatter_half(tile, whole, to[i] + at);
        if (closes) {
          scatter_half(tile + whole * plane_, 1, s.ring);
          kernels_.scale(s.ring, to[i] + last, cell, R(1));
          kernels_.scale(s.ring + cell, to[i], cell, R(1));
        }
      }
      if (total != nullptr) {
        take(x, s.x);
        add_products(s, blocks, total);
      }
    }
  }

  // The blocks of one pair.
  void first_layer_back(std::size_t batch, std::size_t pair, const Scratch& s,
                        R* total) const noexcept {
    const std::size_t top = (batch * shape_.height + 2 * pair) * row_;
    for (std::size_t block = 0; block < shape_.width / 2; block += blocks_) {
      const std::size_t blocks = std::min(blocks_, shape_.width / 2 - block);
      const std::size_t at = block * half_;
      for (std::size_t i = 0; i < 2; ++i) {
        gather_half(s.behind[i] + at, blocks, s.g + i * half_ / 2);
      }
      if (gradients_.psi != nullptr) {
        multiply(first_back_, s.g, blocks, s.products);
        scatter_block(s.products, blocks, gradients_.psi + top + at, row_);
      }
      if (total != nullptr) {
        gather_block(psi_ + top + at, row_, blocks, s.x);
        add_products(s, blocks, total);
      }
    }
  }

  // Adds g x^dagger over some blocks. Of a product (a + ib)(c - id) there are three real ones:
  // ac, bd and (a + b)(c - d).
  void add_products(const Scratch& s, std::size_t blocks, R* total) const noexcept {
    kernels_.less(s.x, s.x + part_, blocks, plane_, R(1), R(1), s.x + 2 * part_, plane_);
    for (std::size_t part = 0; part < 3; ++part) {
      kernels_.outer(s.g + part * part_, plane_, size_, s.x + part * part_, plane_, blocks,
                     total + part * size_ * plane_);
    }
  }

  void gather(const Totals<R>& totals) const {
    const auto number = [&](std::size_t place) {
      return block_number<R>(place, shape_.d_state, kernels_.lanes);
    };
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (std::size_t out = 0; out < size_; ++out) {
        for (std::size_t in = 0; in < size_; ++in) {
          const std::size_t at = 3 * layer * size_ * plane_ + out * plane_ + in;
          const double ac = totals.at(at);
          const double bd = totals.at(at + size_ * plane_);
          const double both = totals.at(at + 2 * size_ * plane_);
          R* const to =
              gradients_.unitaries + 2 * ((layer * size_ + number(out)) * size_ + number(in));
          to[0] = static_cast<R>(ac + bd);
          to[1] = static_cast<R>(both - ac + bd);
        }
      }
    }
  }

  void multiply(const std::array<PackedDense<R>, 3>& layer, const R* tile, std::size_t blocks,
                R* products) const noexcept {
    const std::size_t offset = 0;
    for (std::size_t part = 0; part < 3; ++part) {
      kernels_.dense(layer[part].view(), tile + part * part_, plane_, &offset,
                     products + part * part_, blocks);
    }
  }

  // Blocks between rows of the lattice and a tile, and one of their two rows.
  void gather_block(const R* from, std::size_t row, std::size_t blocks, R* tile) const noexcept {
    gather_half(from, blocks, tile);
    gather_half(from + row, blocks, tile + half_ / 2);
  }
  void scatter_block(const R* tile, std::size_t blocks, R* to, std::size_t row) const noexcept {
    scatter_half(tile, blocks, to);
    scatter_half(tile + half_ / 2, blocks, to + row);
  }
  void gather_half(const R* from, std::size_t blocks, R* tile) const noexcept {
    kernels_.split(from, half_, blocks, half_ / 2, tile, plane_, part_);
  }
  void scatter_half(const R* tile, std::size_t blocks, R* to) const noexcept {
    kernels_.join(tile, plane_, part_, blocks, half_ / 2, to, half_);
  }

  Shape shape_;
  const Options& options_;
  const R* psi_;
  const R* gradient_;
  const UnitaryGradients<R>& gradients_;
  const Kernels<R>& kernels_;
  std::size_t size_;  // of a matrix
  std::size_t row_;   // numbers in a row of the lattice
  std::size_t half_;  // numbers in a row of a block
  std::array<PackedDense<R>, 3> first_;
  std::array<PackedDense<R>, 3> first_back_;
  std::array<PackedDense<R>, 3> second_back_;
  std::size_t plane_;   // numbers of a block in one part, padded
  std::size_t blocks_;  // of a tile
  std::size_t part_;    // of a tile, its numbers
  std::size_t pairs_;
  std::size_t strip_;  // pairs
  std::size_t strips_;
};

}  // namespace

template <class R>
void brickwork_vjp(const R* unitaries, const Shape& shape, const Options& options, const R* psi,
                   const R* gradient, const UnitaryGradients<R>& gradients) {
  BrickworkVjp<R>(unitaries, shape, options, psi, gradient, gradients).run();
}

template void brickwork_vjp(const float*, const Shape&, const Options&, const float*, const float*,
                            const UnitaryGradients<float>&);
template void brickwork_vjp(const double*, const Shape&, const Options&, const double*,
                            const double*, const UnitaryGradients<double>&);

}  // namespace atheria
