// Each vectorised loop against a plain one, for every instruction set of this processor.
#include <complex>
#include <span>

#include "../src/laws/pack.hpp"
#include "atheria/kernels.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

using namespace atheria;
using test::check;
using test::check_close;
using test::kEpsilon;

template <class R>
void dense(const Kernels<R>& kernels, test::Random<R>& random) {
  for (int trial = 0; trial < 100; ++trial) {
    const std::size_t segments = random.whole(1, 4);
    const std::size_t length = random.whole(1, 40);
    const std::size_t outputs = random.whole(1, 70);
    const std::size_t rows = random.whole(1, 30);
    const std::size_t inputs = segments * length;
    const std::vector<R> weights = random.numbers(outputs * inputs);
    const std::vector<R> bias = random.numbers(outputs);
    const PackedDense<R> packed(
        kernels.lanes, segments, length, outputs,
        [&](std::size_t out, std::size_t in) { return weights[out * inputs + in]; },
        [&](std::size_t out) { return bias[out]; });
    const std::size_t stride = length + random.whole(0, 5);
    const std::size_t padded_rows = round_up(rows, kRowBlock);
    std::vector<std::size_t> offsets;
    for (std::size_t i = 0; i < segments; ++i) {
      offsets.push_back(random.whole(0, 50));
    }
    const std::vector<R> a = random.numbers(padded_rows * stride + 50);
    Aligned<R> out(padded_rows * packed.padded_outputs());
    kernels.dense(packed.view(), a.data(), stride, offsets.data(), out.data(), rows);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t output = 0; output < packed.padded_outputs(); ++output) {
        double sum = 0;
        for (std::size_t in = 0; output < outputs && in < inputs; ++in) {
          sum += static_cast<double>(weights[output * inputs + in]) *
                 static_cast<double>(a[row * stride + offsets[in / length] + in % length]);
        }
        sum += output < outputs ? static_cast<double>(bias[output]) : 0.0;
        check_close<R>(out[row * packed.padded_outputs() + output], static_cast<R>(sum),
                       static_cast<double>(inputs + 2) * kEpsilon<R>, "dense");
      }
    }
  }
}

template <class R>
void activate(const Kernels<R>& kernels) {
  const std::size_t count = 48 * 100;
  for (const Activation f :
       {Activation::silu, Activation::relu, Activation::gelu, Activation::tanh}) {
    Aligned<R> data(count);
    std::vector<R> from(count);
    for (std::size_t i = 0; i < count; ++i) {
      from[i] = static_cast<R>(20.0 * (static_cast<double>(i) / count - 0.5));
    }
    from[0] = R(-1e5);
    from[1] = R(1e5);
    from[2] = R(1e-10);
    std::copy(from.begin(), from.end(), data.data());
    kernels.activate(f, data.data(), count);
    for (std::size_t i = 0; i < count; ++i) {
      const double exact = test::activate(f, static_cast<double>(from[i]));
      // Relative where the function has no cancellation of its own, as silu; else absolute.
      const double scale = f == Activation::gelu ? std::max(std::abs(exact), 0.5) : std::abs(exact);
      check_close<R>(data[i], static_cast<R>(exact), 4 * kEpsilon<R> * scale + 1e-30,
                     "activation " + std::to_string(static_cast<int>(f)) + " of " +
                         std::to_string(from[i]));
    }
    data[0] = std::numeric_limits<R>::quiet_NaN();
    kernels.activate(f, data.data(), kernels.lanes);
    check(std::isnan(data[0]), "the activation of a NaN is one");
  }
}

template <class R>
void moves(const Kernels<R>& kernels, test::Random<R>& random) {
  for (int trial = 0; trial < 100; ++trial) {
    const std::size_t width = random.whole(1, 40);
    const std::size_t stride = round_up(width, kernels.lanes);
    const std::size_t rows = random.whole(1, 30);
    const std::vector<R> from = random.numbers(rows * width);
    std::vector<R> tile(rows * stride, R(7));
    kernels.load(from.data(), rows, width, R(0.5), tile.data(), stride);
    std::vector<R> back(rows * width);
    kernels.copy(tile.data(), stride, rows, width, back.data(), width);
    for (std::size_t i = 0; i < from.size(); ++i) {
      check(back[i] == R(0.5) * from[i], "load and copy");
    }
    for (std::size_t i = 0; i < tile.size(); ++i) {
      check(i % stride < width || tile[i] == 0, "what is padded is zero");
    }
    kernels.scale(back.data(), back.data(), back.size(), R(2));
    check(back == from, "scale in place");
  }
}

template <class R>
void blend(const Kernels<R>& kernels, test::Random<R>& random) {
  for (const bool cell_norm : {false, true}) {
    for (int trial = 0; trial < 50; ++trial) {
      const std::size_t stride = kernels.lanes * random.whole(1, 5);
      const std::size_t rows = random.whole(1, 20);
      std::vector<R> x = random.numbers(rows * stride);
      std::vector<R> change = random.numbers(rows * stride);
      std::fill_n(x.begin(), stride, R(0));
      std::fill_n(change.begin(), stride, R(0));
      std::vector<R> to(rows * stride);
      const double density =
          kernels.blend(x.data(), change.data(), to.data(), rows, stride, R(0.75), cell_norm);
      double all = 0;
      for (std::size_t row = 0; row < rows; ++row) {
        double squares = 0;
        for (std::size_t i = row * stride; i < (row + 1) * stride; ++i) {
          squares += std::pow(0.75 * static_cast<double>(x[i]) + static_cast<double>(change[i]), 2);
        }
        const double scale = cell_norm ? 1 / std::sqrt(std::max(squares, 1e-30)) : 1;
        for (std::size_t i = row * stride; i < (row + 1) * stride; ++i) {
          const double exact = 0.75 * static_cast<double>(x[i]) + static_cast<double>(change[i]);
          check_close<R>(to[i], static_cast<R>(scale * exact), 8 * kEpsilon<R>, "blend");
        }
        all += squares;
      }
      check_close(density, cell_norm ? 0.0 : all, 10 * kEpsilon<R> * all, "the density of blend");
    }
  }
}

template <class R>
void noise(const Kernels<R>& kernels, test::Random<R>& random) {
  for (int trial = 0; trial < 50; ++trial) {
    const Shape shape{1, 1, random.whole(1, 30), random.whole(1, 9)};
    const std::size_t stride = shape.channels() + random.whole(0, 3);
    Options options;
    options.phase = trial % 3 == 0 ? 0.0 : 3.1;
    options.sign = trial % 3 == 1 ? 0.0 : 0.4;
    options.seed = 0x123456789ABCDEF0U + static_cast<std::uint64_t>(trial);
    const std::uint64_t step = 0x300000001U;
    std::vector<R> psi = random.numbers(shape.width * stride);
    test::State exact(shape.width * shape.d_state);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const R* const z = psi.data() + i / shape.d_state * stride + 2 * (i % shape.d_state);
      exact[i] = {static_cast<double>(z[0]), static_cast<double>(z[1])};
    }
    test::turn(shape, options, step, exact);
    kernels.noise({options.phase, options.sign, options.seed, step}, 0, psi.data(), shape.width,
                  shape.d_state, stride);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const R* const z = psi.data() + i / shape.d_state * stride + 2 * (i % shape.d_state);
      // In float the angle itself is rounded: 3.1 radians to a few units of its last place.
      check_close<R>(z[0], static_cast<R>(exact[i].real()), 8 * kEpsilon<R>, "noise, real");
      check_close<R>(z[1], static_cast<R>(exact[i].imag()), 8 * kEpsilon<R>, "noise, imaginary");
    }
  }
}

template <class R>
void all(Isa isa) {
  const Kernels<R>& kernels = atheria::kernels<R>(isa);
  test::Random<R> random(42);
  dense(kernels, random);
  activate(kernels);
  moves(kernels, random);
  blend(kernels, random);
  noise(kernels, random);
  R number(0.5);
  check(kernels.peak(10, &number) > 0 && std::isfinite(number), "peak");
}

}  // namespace

int main() {
  for (const Isa isa : test::isas()) {
    all<float>(isa);
    all<double>(isa);
    std::printf("kernels, %s: ok\n", std::string(name(isa)).c_str());
  }
}
