// Conv: a 3x3 convolution on a torus, f, then a 1x1. A tile is some blocks of 2x2 cells side by
// side; the convolution is Winograd's, sixteen small matrices instead of four times nine.
#include <algorithm>
#include <vector>

#include "atheria/laws.hpp"
#include "finish.hpp"
#include "network.hpp"
#include "winograd_tile.hpp"

namespace atheria {
namespace {

template <class R>
class PackedConv final : public PackedLaw<R> {
 public:
  PackedConv(const NetworkWeights<R>& weights, const Shape& shape, const Options& options)
      : shape_(shape), kernels_(kernels<R>(options.isa)), finish_(shape, options),
        activation_(weights.activation),
        outer_(pack_outer(kernels_.lanes, weights, shape)),
        stride_(outer_.padded_outputs()), hidden_(round_up(weights.hidden, kernels_.lanes)),
        inner_bias_(hidden_),
        inner_(WinogradWeights<R>(weights, shape).pack(kernels_.lanes, false)),
        tiles_((shape.width + kColumns - 1) / kColumns), pairs_((shape.height + 1) / 2) {
    std::copy_n(weights.inner_bias, weights.hidden, inner_bias_.data());
  }

  [[nodiscard]] std::size_t tasks(std::size_t) const noexcept override {
    return tiles_ * pairs_ * shape_.batch;
  }

  [[nodiscard]] std::size_t scratch() const noexcept override {
    return 4 * (kColumns + 2) * stride_ + kPositions * kBlocks * (stride_ + hidden_) +
           2 * kColumns * (hidden_ + stride_);
  }

  void task(std::size_t, std::size_t index, const Pass<R>& pass,
            R* scratch) const noexcept override {
    const std::size_t batch = index / (tiles_ * pairs_);
    const std::size_t y = 2 * (index / tiles_ % pairs_);
    const std::size_t first = index % tiles_ * kColumns;
    const std::size_t cells = std::min(kColumns, shape_.width - first);
    const std::size_t blocks = (cells + 1) / 2;
    const std::size_t row = (kColumns + 2) * stride_;
    R* const x = scratch;
    R* const inputs = x + 4 * row;
    R* const products = inputs + kPositions * kBlocks * stride_;
    R* const hidden = products + kPositions * kBlocks * hidden_;
    R* const change = hidden + 2 * kColumns * hidden_;
    const std::size_t offset = 0;

    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t from = (y + i + shape_.height - 1) % shape_.height;
      load_ring(kernels_, shape_, stride_,
                pass.from + (batch * shape_.height + from) * shape_.width * shape_.channels(),
                (first + shape_.width - 1) % shape_.width, 2 * blocks + 2, pass.scales[batch],
                x + i * row);
    }
    kernels_.winograd_inputs(x, row, stride_, blocks, inputs, kBlocks * stride_);
    for (std::size_t position = 0; position < kPositions; ++position) {
      kernels_.dense(inner_[position].view(), inputs + position * kBlocks * stride_, stride_,
                     &offset, products + position * kBlocks * hidden_, blocks);
    }
    // The two rows of cells follow one another, so that what comes next sees one tile.
    kernels_.winograd_outputs(products, kBlocks * hidden_, hidden_, blocks, inner_bias_.data(),
                              hidden, 2 * blocks * hidden_);
    kernels_.activate(activation_, hidden, 4 * blocks * hidden_);
    kernels_.dense(outer_.view(), hidden, hidden_, &offset, change, 4 * blocks);
    double density = 0.0;
    for (std::size_t i = 0; i < 2 && y + i < shape_.height; ++i) {
      density += finish_(pass, x + (i + 1) * row + stride_, change + i * 2 * blocks * stride_,
                         cells, stride_, (batch * shape_.height + y + i) * shape_.width + first);
    }
    pass.partials[index] = density;
  }

 private:
  Shape shape_;
  const Kernels<R>& kernels_;
  Finish<R> finish_;
  Activation activation_;
  PackedDense<R> outer_;
  std::size_t stride_;  // numbers of a cell in a tile
  std::size_t hidden_;
  Aligned<R> inner_bias_;
  std::vector<PackedDense<R>> inner_;  // one for each position
  std::size_t tiles_;                  // of one pair of rows
  std::size_t pairs_;                  // of rows; the last may be half outside
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
