// Back through a Conv's step. The adjoint of Winograd's convolution Y = A^T [U * (B^T d B)] A goes
// by the same sixteen products: with P = A dY A^T, the inputs get B (U^T P) B^T and the taps
// G^T [sum P (B^T d B)^T] G. The 4x4 inputs of neighbouring blocks overlap, so that a tile adds to
// its neighbours' gradients; the rows that two strips share are added in the end.
#include <algorithm>
#include <vector>

#include "../share.hpp"
#include "atheria/vjp.hpp"
#include "incoming.hpp"
#include "network.hpp"
#include "winograd_tile.hpp"

namespace atheria {
namespace {

constexpr std::size_t kMostPairs = 8;  // of rows in a strip

template <class R>
class ConvVjp {
 public:
  ConvVjp(const NetworkWeights<R>& weights, const Shape& shape, const Options& options,
          const StepRecord<R>& record, const NetworkGradients<R>& gradients)
      : shape_(shape), options_(options), record_(record), gradients_(gradients),
        incoming_(shape, options, record), kernels_(kernels<R>(options.isa)),
        hidden_(weights.hidden), activation_(weights.activation),
        outer_(pack_outer(kernels_.lanes, weights, shape)),
        outer_back_(pack_outer_back(kernels_.lanes, weights, shape)),
        stride_(outer_.padded_outputs()), wide_(outer_back_.padded_outputs()),
        outer_sums_{shape.channels(), stride_, wide_}, inner_bias_(wide_),
        tile_row_((kColumns + 2) * stride_), row_(shape.width * shape.channels()),
        strip_(2 * std::clamp(shape.height / 16, std::size_t{1}, kMostPairs)),
        strips_((shape.height + strip_ - 1) / strip_),
        halos_(gradients.psi != nullptr ? shape.batch * strips_ * 2 * row_ : 0) {
    std::copy_n(weights.inner_bias, hidden_, inner_bias_.data());
    const WinogradWeights<R> transformed(weights, shape);
    inner_ = transformed.pack(kernels_.lanes, false);
    inner_back_ = transformed.pack(kernels_.lanes, true);
  }

  void run() {
    const std::size_t strips = strips_ * shape_.batch;
    const std::size_t inner = kPositions * shape_.channels() * wide_;
    Totals<R> totals(strips, gradients_.weights() ? inner + outer_sums_.size() : 0);
    std::vector<Aligned<R>> scratch;
    for (std::size_t i = 0; i < options_.threads; ++i) {
      scratch.emplace_back(8 * tile_row_ + kPositions * kBlocks * (2 * stride_ + wide_) +
                           2 * kColumns * (2 * stride_ + 3 * wide_));
    }
    share(options_.threads, totals.parts(), [&](std::size_t part, std::size_t member) {
      for (std::size_t i = totals.begin(part); i < totals.begin(part + 1); ++i) {
        strip(i, scratch[member].data(), totals.part(part));
      }
    });
    if (gradients_.psi != nullptr) {
      share(options_.threads, strips, [&](std::size_t i, std::size_t) { add_halos(i); });
    }
    if (gradients_.weights()) {
      gather_taps(totals);
      outer_sums_.gather(totals, inner, hidden_, gradients_);
    }
  }

 private:
  void strip(std::size_t index, R* scratch, R* total) noexcept {
    const std::size_t batch = index / strips_;
    const std::size_t begin = index % strips_ * strip_;
    const std::size_t end = std::min(begin + strip_, shape_.height);
    for (std::size_t y = begin; y < end; y += 2) {
      if (gradients_.psi != nullptr) {
        // The rows that this pair is the first to add to.
        for (std::size_t row = y + (y > begin); row < std::min(y + 3, end); ++row) {
          std::fill_n(psi_row(batch, row), row_, R(0));
        }
      }
      for (std::size_t first = 0; first < shape_.width; first += kColumns) {
        tile({batch, begin, end, y, first, index}, scratch, total);
      }
    }
  }

  struct Place {
    std::size_t batch, begin, end;  // the strip's rows
    std::size_t y, first;           // the tile's first cell
    std::size_t strip;
  };

  void tile(const Place& at, R* scratch, R* total) noexcept {
    const std::size_t cells = std::min(kColumns, shape_.width - at.first);
    const std::size_t blocks = (cells + 1) / 2;
    const std::size_t side = 2 * blocks;  // the last cell may lie outside, and so the second row
    const std::size_t both = 2 * side;    // rows of cells, one behind the other
    const std::size_t position = kBlocks * stride_;
    const std::size_t wide_position = kBlocks * wide_;
    const std::size_t offset = 0;
    const R keep = static_cast<R>(options_.keep);
    R* const x = scratch;
    R* const patch = x + 4 * tile_row_;
    R* const inputs = patch + 4 * tile_row_;
    R* const back = inputs + kPositions * position;
    R* const products = back + kPositions * position;
    R* const g = products + kPositions * wide_position;
    R* const change = g + 2 * kColumns * stride_;
    R* const slope = change + 2 * kColumns * stride_;
    R* const value = slope + 2 * kColumns * wide_;
    R* const h = value + 2 * kColumns * wide_;

    const std::size_t left = (at.first + shape_.width - 1) % shape_.width;
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t from = (at.y + i + shape_.height - 1) % shape_.height;
      load_ring(kernels_, shape_, stride_,
                record_.psi + (at.batch * shape_.height + from) * row_, left, side + 2, R(1),
                x + i * tile_row_);
    }
    kernels_.winograd_inputs(x, tile_row_, stride_, blocks, inputs, position);
    for (std::size_t i = 0; i < kPositions; ++i) {
      kernels_.dense(inner_[i].view(), inputs + i * position, stride_, &offset,
                     products + i * wide_position, blocks);
    }
    kernels_.winograd_outputs(products, wide_position, wide_, blocks, inner_bias_.data(), slope,
                              side * wide_);
    kernels_.differentiate(activation_, slope, value, both * wide_);

    std::fill_n(g, both * stride_, R(0));
    for (std::size_t i = 0; i < 2 && at.y + i < shape_.height; ++i) {
      incoming_.load(at.batch, (at.batch * shape_.height + at.y + i) * shape_.width + at.first,
                     cells, g + i * side * stride_, stride_);
    }
    if (options_.norm == Norm::cell) {
      kernels_.dense(outer_.view(), value, wide_, &offset, change, both);
      for (std::size_t i = 0; i < 2; ++i) {
        R* const y = change + i * side * stride_;
        kernels_.blend(x + (i + 1) * tile_row_ + stride_, y, y, side, stride_, keep, false);
      }
      kernels_.unscale_cells(change, g, both, stride_);
    }
    kernels_.dense(outer_back_.view(), g, stride_, &offset, h, both);
    kernels_.multiply(h, slope, both * wide_);
    kernels_.winograd_outputs_back(h, side * wide_, wide_, blocks, products, wide_position);
    if (total != nullptr) {
      const std::size_t width = shape_.channels();
      for (std::size_t i = 0; i < kPositions; ++i, total += width * wide_) {
        kernels_.outer(inputs + i * position, stride_, width, products + i * wide_position, wide_,
                       blocks, total);
      }
      outer_sums_.add(kernels_, g, value, h, both, total);
    }
    if (gradients_.psi == nullptr) {
      return;
    }
    for (std::size_t i = 0; i < kPositions; ++i) {
      kernels_.dense(inner_back_[i].view(), products + i * wide_position, wide_, &offset,
                     back + i * position, blocks);
    }
    std::fill_n(patch, 4 * tile_row_, R(0));
    kernels_.winograd_inputs_back(back, position, stride_, blocks, patch, tile_row_);
    for (std::size_t i = 0; i < 4; ++i) {
      R* const row = patch + i * tile_row_;
      if (i == 1 || i == 2) {
        kernels_.blend(g + (i - 1) * side * stride_, row + stride_, row + stride_, side, stride_,
                       keep, false);
      }
      add_row(at, i, row, left, side + 2);
    }
  }

  // Adds row i of a tile's patch, the one above the tile first, to the gradient of psi.
  void add_row(const Place& at, std::size_t i, const R* patch, std::size_t left,
               std::size_t count) noexcept {
    const std::size_t below = at.y + i;  // the row is the one above this
    if (below > at.end + 1) {
      return;  // two below the lattice's last row: nothing reaches it
    }
    R* const to = below <= at.begin      ? halo(at.strip, 0)
                  : below == at.end + 1 ? halo(at.strip, 1)
                                        : psi_row(at.batch, below - 1);
    const std::size_t width = shape_.channels();
    for_ring(shape_.width, left, count, [&](std::size_t run, std::size_t cell, std::size_t done) {
      kernels_.add_rows(patch + done * stride_, stride_, run, width, to + cell * width);
    });
  }

  // What the neighbours of a strip add to its first and to its last row.
  void add_halos(std::size_t index) noexcept {
    const std::size_t batch = index / strips_;
    const std::size_t strip = index % strips_;
    const std::size_t begin = strip * strip_;
    const std::size_t last = std::min(begin + strip_, shape_.height) - 1;
    const std::size_t above = batch * strips_ + (strip + strips_ - 1) % strips_;
    const std::size_t below = batch * strips_ + (strip + 1) % strips_;
    kernels_.add_rows(halo(above, 1), row_, 1, row_, psi_row(batch, begin));
    kernels_.add_rows(halo(below, 0), row_, 1, row_, psi_row(batch, last));
  }

  void gather_taps(const Totals<R>& totals) const {
    const std::size_t width = shape_.channels();
    for (std::size_t i = 0; i < width; ++i) {
      const std::size_t channel = channel_of(i, shape_.d_state);
      for (std::size_t j = 0; j < hidden_; ++j) {
        double rows[3][4] = {};
        for (std::size_t p = 0; p < kPositions; ++p) {
          const double sum = totals.at((p * width + i) * wide_ + j);
          for (std::size_t tap = 0; tap < 3; ++tap) {
            rows[tap][p % 4] += kTaps[p / 4][tap] * sum;
          }
        }
        R* const to = gradients_.inner + (j * width + channel) * 9;
        for (std::size_t tap = 0; tap < 9; ++tap) {
          double sum = 0.0;
          for (std::size_t c = 0; c < 4; ++c) {
            sum += rows[tap / 3][c] * kTaps[c][tap % 3];
          }
          to[tap] = static_cast<R>(sum);
        }
      }
    }
  }

  R* psi_row(std::size_t batch, std::size_t y) const noexcept {
    return gradients_.psi + (batch * shape_.height + y) * row_;
  }
  // What a strip adds to the row above it (0) and below (1).
  R* halo(std::size_t strip, std::size_t which) noexcept {
    return halos_.data() + (2 * strip + which) * row_;
  }

  Shape shape_;
  const Options& options_;
  const StepRecord<R>& record_;
  const NetworkGradients<R>& gradients_;
  Incoming<R> incoming_;
  const Kernels<R>& kernels_;
  std::size_t hidden_;
  Activation activation_;
  PackedDense<R> outer_;
  PackedDense<R> outer_back_;
  std::vector<PackedDense<R>> inner_;  // one for each position
  std::vector<PackedDense<R>> inner_back_;
  std::size_t stride_;  // of a cell in a tile, and of its hidden units
  std::size_t wide_;
  OuterSums<R> outer_sums_;
  Aligned<R> inner_bias_;
  std::size_t tile_row_;
  std::size_t row_;    // numbers in a row of the lattice
  std::size_t strip_;  // rows, an even number
  std::size_t strips_;
  Aligned<R> halos_;
};

}  // namespace

template <class R>
void conv_vjp(const NetworkWeights<R>& weights, const Shape& shape, const Options& options,
              const StepRecord<R>& record, const NetworkGradients<R>& gradients) {
  ConvVjp<R>(weights, shape, options, record, gradients).run();
}

template void conv_vjp(const NetworkWeights<float>&, const Shape&, const Options&,
                       const StepRecord<float>&, const NetworkGradients<float>&);
template void conv_vjp(const NetworkWeights<double>&, const Shape&, const Options&,
                       const StepRecord<double>&, const NetworkGradients<double>&);

}  // namespace atheria
