// MLP: W_2 f(W_1 x + b_1) + b_2 in every cell. A tile is a run of cells of one lattice.
#include <algorithm>

#include "atheria/laws.hpp"
#include "finish.hpp"
#include "network.hpp"

namespace atheria {
namespace {

template <class R>
class PackedMlp final : public PackedLaw<R> {
 public:
  PackedMlp(const NetworkWeights<R>& weights, const Shape& shape, const Options& options)
      : shape_(shape), kernels_(kernels<R>(options.isa)), finish_(shape, options),
        activation_(weights.activation),
        inner_(kernels_.lanes, 1, shape.channels(), weights.hidden,
               [&](std::size_t out, std::size_t in) {
                 return weights.inner[out * shape.channels() + channel_of(in, shape.d_state)];
               },
               [&](std::size_t out) { return weights.inner_bias[out]; }),
        outer_(pack_outer(kernels_.lanes, weights, shape)),
        rows_(tile_rows((2 * outer_.padded_outputs() + inner_.padded_outputs()) * sizeof(R))),
        tiles_((shape.cells() + rows_ - 1) / rows_) {}

  [[nodiscard]] std::size_t tasks(std::size_t) const noexcept override {
    return tiles_ * shape_.batch;
  }

  [[nodiscard]] std::size_t scratch() const noexcept override {
    return rows_ * (2 * outer_.padded_outputs() + inner_.padded_outputs());
  }

  void task(std::size_t, std::size_t index, const Pass<R>& pass,
            R* scratch) const noexcept override {
    const std::size_t batch = index / tiles_;
    const std::size_t first = index % tiles_ * rows_;
    const std::size_t rows = std::min(rows_, shape_.cells() - first);
    const std::size_t cell = batch * shape_.cells() + first;
    const std::size_t stride = outer_.padded_outputs();
    const std::size_t offset = 0;
    R* const x = scratch;
    R* const change = x + rows_ * stride;
    R* const hidden = change + rows_ * stride;
    kernels_.load(pass.from + cell * shape_.channels(), rows, shape_.channels(),
                  pass.scales[batch], x, stride);
    // What is needed later comes from memory meanwhile: where this tile goes, and the next tile. A
    // few lines at a time, as many as a core can wait for without standing still.
    const std::size_t next = std::min(rows_, shape_.cells() * shape_.batch - cell - rows);
    for (std::size_t row = 0; row < rows; row += kRowBlock) {
      const std::size_t block = std::min(kRowBlock, rows - row);
      prefetch(pass.to + (cell + row) * shape_.channels(), block * shape_.channels());
      kernels_.dense(inner_.view(), x + row * stride, stride, &offset,
                     hidden + row * inner_.padded_outputs(), block);
    }
    kernels_.activate(activation_, hidden, rows * inner_.padded_outputs());
    for (std::size_t row = 0; row < rows; row += kRowBlock) {
      const std::size_t block = std::min(kRowBlock, rows - row);
      if (row < next) {
        prefetch(pass.from + (cell + rows + row) * shape_.channels(),
                 std::min(kRowBlock, next - row) * shape_.channels());
      }
      kernels_.dense(outer_.view(), hidden + row * inner_.padded_outputs(),
                     inner_.padded_outputs(), &offset, change + row * stride, block);
    }
    pass.partials[index] = finish_(pass, x, change, rows, stride, cell);
  }

 private:
  Shape shape_;
  const Kernels<R>& kernels_;
  Finish<R> finish_;
  Activation activation_;
  PackedDense<R> inner_;
  PackedDense<R> outer_;
  std::size_t rows_;
  std::size_t tiles_;  // of one lattice
};

}  // namespace

template <class R>
std::unique_ptr<PackedLaw<R>> make_mlp(const NetworkWeights<R>& weights, const Shape& shape,
                                       const Options& options) {
  return std::make_unique<PackedMlp<R>>(weights, shape, options);
}

template std::unique_ptr<PackedLaw<float>> make_mlp(const NetworkWeights<float>&, const Shape&,
                                                    const Options&);
template std::unique_ptr<PackedLaw<double>> make_mlp(const NetworkWeights<double>&, const Shape&,
                                                     const Options&);

}  // namespace atheria
