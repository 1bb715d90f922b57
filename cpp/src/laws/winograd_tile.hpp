// Conv's tiles, there and back: some blocks of 2x2 cells side by side. Winograd's transforms make
// sixteen small matrices of a 3x3 convolution, one for each place of a 4x4 block of inputs.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "atheria/laws.hpp"
#include "pack.hpp"

namespace atheria {

inline constexpr std::size_t kPositions = 16;
inline constexpr std::size_t kBlocks = kRowBlock;  // of a tile
inline constexpr std::size_t kColumns = 2 * kBlocks;

// Winograd's G, from three taps to four.
inline constexpr double kTaps[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};

// G g G^T, the sixteen numbers in the place of nine taps g.
template <class R>
void transform_taps(const R* g, R* to) noexcept {
  double rows[4][3];
  for (std::size_t r = 0; r < 4; ++r) {
    for (std::size_t j = 0; j < 3; ++j) {
      rows[r][j] = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        rows[r][j] += kTaps[r][i] * static_cast<double>(g[3 * i + j]);
      }
    }
  }
  for (std::size_t r = 0; r < 4; ++r) {
    for (std::size_t c = 0; c < 4; ++c) {
      double sum = 0;
      for (std::size_t j = 0; j < 3; ++j) {
        sum += rows[r][j] * kTaps[c][j];
      }
      to[4 * r + c] = static_cast<R>(sum);
    }
  }
}

// The inner convolution's weights, transformed.
template <class R>
class WinogradWeights {
 public:
  WinogradWeights(const NetworkWeights<R>& weights, const Shape& shape)
      : shape_(shape), hidden_(weights.hidden), numbers_(hidden_ * shape.channels() * kPositions) {
    for (std::size_t i = 0; i < hidden_ * shape.channels(); ++i) {
      transform_taps(weights.inner + 9 * i, numbers_.data() + kPositions * i);
    }
  }

  // One matrix a position: a cell's numbers to hidden units, or back.
  [[nodiscard]] std::vector<PackedDense<R>> pack(std::size_t lanes, bool back) const {
    std::vector<PackedDense<R>> packed;
    packed.reserve(kPositions);
    const std::size_t ends[] = {shape_.channels(), hidden_};
    for (std::size_t position = 0; position < kPositions; ++position) {
      packed.emplace_back(
          lanes, 1, ends[back], ends[!back],
          [&](std::size_t out, std::size_t in) {
            const std::size_t unit = back ? in : out;
            const std::size_t channel = channel_of(back ? out : in, shape_.d_state);
            return numbers_[(unit * shape_.channels() + channel) * kPositions + position];
          },
          [](std::size_t) { return R(0); });
    }
    return packed;
  }

 private:
  Shape shape_;
  std::size_t hidden_;
  std::vector<R> numbers_;
};

// Calls visit(run, cell, done) for the runs of `count` cells from `first` on of a row that closes
// on itself: so many cells from `cell` on, after as many are done.
template <class Visit>
void for_ring(std::size_t width, std::size_t first, std::size_t count, Visit visit) {
  for (std::size_t done = 0; done < count; first = 0) {
    const std::size_t run = std::min(count - done, width - first);
    visit(run, first, done);
    done += run;
  }
}

// Cells of such a row of the lattice, to a tile.
template <class R>
void load_ring(const Kernels<R>& kernels, const Shape& shape, std::size_t stride, const R* row,
               std::size_t first, std::size_t count, R scale, R* to) noexcept {
  for_ring(shape.width, first, count, [&](std::size_t run, std::size_t cell, std::size_t done) {
    kernels.load(row + cell * shape.channels(), run, shape.channels(), scale, to + done * stride,
                 stride);
  });
}

}  // namespace atheria
