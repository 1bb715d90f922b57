// Conv: a 3x3 convolution on a torus, f, then a 1x1. A tile is a run of cells of one row; its
// three rows of neighbours are copied with a cell more at both ends, so that the nine taps of a
// cell are nine runs of numbers at fixed distances: the convolution is one dense layer.
#include <algorithm>
#include <array>

#include "atheria/laws.hpp"
#include "finish.hpp"
#include "pack.hpp"

namespace atheria {
namespace {

template <class R>
class PackedConv final : public PackedLaw<R> {
 public:
  PackedConv(const NetworkWeights<R>& weights, const Shape& shape, const Options& options)
      : shape_(shape), kernels_(kernels<R>(options.isa)), finish_(shape, options),
        activation_(weights.activation), stride_(round_up(shape.channels(), kernels_.lanes)),
        // Without padding the three taps of a row are one run.
        segments_(stride_ == shape.channels() ? 3 : 9),
        inner_(kernels_.lanes, segments_, 9 * shape.channels() / segments_, weights.hidden,
               [&](std::size_t out, std::size_t in) {
                 const std::size_t tap = in / shape.channels();
                 const std::size_t channel = channel_of(in % shape.channels(), shape.d_state);
                 return weights.inner[(out * shape.channels() + channel) * 9 + tap];
               },
               [&](std::size_t out) { return weights.inner_bias[out]; }),
        outer_(kernels_.lanes, 1, weights.hidden, shape.channels(),
               [&](std::size_t out, std::size_t in) {
                 return weights.outer[channel_of(out, shape.d_state) * weights.hidden + in];
               },
               [&](std::size_t out) { return weights.outer_bias[channel_of(out, shape.d_state)]; }),
        rows_(tile_rows((4 * stride_ + inner_.padded_outputs()) * sizeof(R))),
        tiles_((shape.width + rows_ - 1) / rows_) {
    const std::size_t taps = 9 / segments_;
    for (std::size_t segment = 0; segment < segments_; ++segment) {
      const std::size_t tap = segment * taps;
      offsets_[segment] = (tap / 3 * (rows_ + 2) + tap % 3) * stride_;
    }
  }

  [[nodiscard]] std::size_t tasks(std::size_t) const noexcept override {
    return tiles_ * shape_.height * shape_.batch;
  }

  [[nodiscard]] std::size_t scratch() const noexcept override {
    return (3 * (rows_ + 2) + rows_) * stride_ + rows_ * inner_.padded_outputs();
  }

  void task(std::size_t, std::size_t index, const Pass<R>& pass,
            R* scratch) const noexcept override {
    const std::size_t batch = index / (tiles_ * shape_.height);
    const std::size_t y = index / tiles_ % shape_.height;
    const std::size_t first = index % tiles_ * rows_;
    const std::size_t cells = std::min(rows_, shape_.width - first);
    R* const x = scratch;
    R* const change = x + 3 * (rows_ + 2) * stride_;
    R* const hidden = change + rows_ * stride_;
    const std::size_t rows_of_neighbours[] = {(y + shape_.height - 1) % shape_.height, y,
                                              (y + 1) % shape_.height};
    for (std::size_t i = 0; i < 3; ++i) {
      const R* row = pass.from + (batch * shape_.height + rows_of_neighbours[i]) * shape_.width *
                                     shape_.channels();
      load_with_ends(row, first, cells, pass.scales[batch], x + i * (rows_ + 2) * stride_);
    }
    kernels_.dense(inner_.view(), x, stride_, offsets_.data(), hidden, cells);
    kernels_.activate(activation_, hidden, cells * inner_.padded_outputs());
    const std::size_t offset = 0;
    kernels_.dense(outer_.view(), hidden, inner_.padded_outputs(), &offset, change, cells);
    const R* const centre = x + (rows_ + 2 + 1) * stride_;
    pass.partials[index] = finish_(pass, centre, change, cells, stride_,
                                   (batch * shape_.height + y) * shape_.width + first);
  }

 private:
  // Cells first - 1 ... first + cells of a row that closes on itself.
  void load_with_ends(const R* row, std::size_t first, std::size_t cells, R scale,
                      R* to) const noexcept {
    const std::size_t width = shape_.width;
    const auto take = [&](std::size_t from, std::size_t count, R* where) {
      kernels_.load(row + from * shape_.channels(), count, shape_.channels(), scale, where,
                    stride_);
    };
    if (first > 0 && first + cells < width) {
      take(first - 1, cells + 2, to);
      return;
    }
    take((first + width - 1) % width, 1, to);
    take(first, cells, to + stride_);
    take((first + cells) % width, 1, to + (cells + 1) * stride_);
  }

  Shape shape_;
  const Kernels<R>& kernels_;
  Finish<R> finish_;
  Activation activation_;
  std::size_t stride_;
  std::size_t segments_;
  PackedDense<R> inner_;
  PackedDense<R> outer_;
  std::size_t rows_;
  std::size_t tiles_;  // of one row
  std::array<std::size_t, 9> offsets_{};
};

}  // namespace

template <class R>
std::unique_ptr<PackedLaw<R>> make_conv(const NetworkWeights<R>& weights, const Shape& shape,
                                        const Options& options) {
  return std::make_unique<PackedConv<R>>(weights, shape, options);
}

template std::unique_ptr<PackedLaw<float>> make_conv(const NetworkWeights<float>&, const Shape&,
                                                     const Options&);
template std::unique_ptr<PackedLaw<double>> make_conv(const NetworkWeights<double>&, const Shape&,
                                                      const Options&);

}  // namespace atheria
