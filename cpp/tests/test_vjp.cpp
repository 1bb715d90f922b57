// A step's vector-Jacobian product against central differences; the same bits for any threads.
#include <memory>

#include "atheria/vjp.hpp"
#include "check.hpp"

namespace {

using namespace atheria;
using test::check;
using test::check_close;

enum class Kind { mlp, conv, brickwork };

// Everything that a step is a function of, in double precision or in single.
template <class R>
struct Case {
  Kind kind{};
  Shape shape{};
  std::size_t hidden = 0;
  Activation activation{};
  Options options;
  // psi, inner, its bias, outer, its bias; or psi, unitaries.
  std::vector<std::vector<R>> inputs;
  std::vector<R> gradient;

  [[nodiscard]] NetworkWeights<R> weights() const {
    return {inputs[1].data(), inputs[2].data(), inputs[3].data(),
            inputs[4].data(), hidden,           activation};
  }

  [[nodiscard]] std::unique_ptr<PackedLaw<R>> packed() const {
    switch (kind) {
      case Kind::mlp: return make_mlp(weights(), shape, options);
      case Kind::conv: return make_conv(weights(), shape, options);
      case Kind::brickwork: break;
    }
    return make_brickwork(inputs[1].data(), shape, options);
  }

  std::vector<R> step(std::vector<R>& scales) const {
    std::vector<R> next(shape.size());
    scales.assign(shape.batch, R(0));
    step_once<R>(*packed(), shape, options, inputs[0].data(), next.data(), scales.data());
    return next;
  }

  // The gradients of the inputs, where `out` has room for them.
  void back(std::vector<std::vector<R>>& out) const {
    std::vector<R> scales;
    const std::vector<R> next = step(scales);
    const auto place = [&](std::size_t i) { return out[i].empty() ? nullptr : out[i].data(); };
    if (kind == Kind::brickwork) {
      brickwork_vjp<R>(inputs[1].data(), shape, options, inputs[0].data(), gradient.data(),
                       {place(0), place(1)});
      return;
    }
    (kind == Kind::mlp ? mlp_vjp<R> : conv_vjp<R>)(
        weights(), shape, options,
        {inputs[0].data(), next.data(), scales.data(), gradient.data()},
        {place(0), place(1), place(2), place(3), place(4)});
  }

  [[nodiscard]] double loss() const {
    std::vector<R> scales;
    const std::vector<R> next = step(scales);
    double sum = 0.0;
    for (std::size_t i = 0; i < next.size(); ++i) {
      sum += static_cast<double>(next[i]) * static_cast<double>(gradient[i]);
    }
    return sum;
  }

  [[nodiscard]] std::vector<std::vector<R>> back() const {
    std::vector<std::vector<R>> out;
    for (const auto& input : inputs) {
      out.emplace_back(input.size(), std::numeric_limits<R>::quiet_NaN());
    }
    back(out);
    return out;
  }
};

template <class R>
Case<R> any(Kind kind, test::Random<R>& random) {
  Case<R> made;
  made.kind = kind;
  made.shape = {random.whole(1, 3), random.whole(1, 9), random.whole(1, 40), random.whole(1, 6)};
  made.hidden = random.whole(1, 40);
  constexpr Activation smooth[] = {Activation::silu, Activation::gelu, Activation::tanh};
  made.activation = smooth[random.whole(0, 2)];
  made.options.keep = 0.9;
  made.options.norm = static_cast<Norm>(random.whole(0, 2));
  made.options.phase = random.whole(0, 1) == 0 ? 0.0 : 0.7;
  made.options.sign = random.whole(0, 1) == 0 ? 0.0 : 0.3;
  made.options.seed = 17;
  made.options.first_step = 5;
  if (kind == Kind::brickwork) {
    made.shape.height = 2 * random.whole(1, 20);
    made.shape.width = 2 * random.whole(1, 30);
    made.options.norm = Norm::none;
    const std::size_t size = 4 * made.shape.d_state;
    made.inputs = {random.numbers(made.shape.size()), random.numbers(4 * size * size)};
  } else {
    made.shape.height = random.whole(1, kind == Kind::conv ? 70 : 9);
    const std::size_t channels = made.shape.channels();
    const std::size_t taps = kind == Kind::conv ? 9 : 1;
    made.inputs = {random.numbers(made.shape.size()),
                   random.numbers(made.hidden * channels * taps), random.numbers(made.hidden),
                   random.numbers(channels * made.hidden), random.numbers(channels)};
  }
  made.gradient = random.numbers(made.shape.size());
  return made;
}

void test_differences(Kind kind, unsigned seed, Isa isa) {
  test::Random<double> random(seed);
  Case<double> made = any(kind, random);
  made.options.isa = isa;
  const auto found = made.back();
  for (std::size_t which = 0; which < made.inputs.size(); ++which) {
    const std::vector<double> direction = random.numbers(made.inputs[which].size());
    double slope = 0.0;
    double size = 0.0;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      slope += direction[i] * found[which][i];
      size += direction[i] * direction[i];
    }
    constexpr double epsilon = 1e-6;
    Case<double> moved = made;
    const auto move = [&](double by) {
      for (std::size_t i = 0; i < direction.size(); ++i) {
        moved.inputs[which][i] = made.inputs[which][i] + by * direction[i];
      }
      return moved.loss();
    };
    const double difference = (move(epsilon) - move(-epsilon)) / (2 * epsilon);
    check_close(slope, difference, 2e-6 * (1 + std::abs(slope) + size),
                "seed " + std::to_string(seed) + ": the gradient of input " +
                    std::to_string(which));
  }
}

template <class R>
void test_threads(Kind kind, unsigned seed) {
  test::Random<R> random(seed);
  Case<R> made = any(kind, random);
  made.shape.height = 80;  // more than one part
  made.inputs[0] = random.numbers(made.shape.size());
  made.gradient = random.numbers(made.shape.size());
  const auto one = made.back();
  for (std::size_t threads = 2; threads <= 4; ++threads) {
    made.options.threads = threads;
    check(made.back() == one, "as many threads, the same bits");
  }
}

// What is not asked for is not touched, and the rest is as it was.
void test_parts(Kind kind) {
  test::Random<double> random(3);
  const Case<double> made = any(kind, random);
  const auto all = made.back();
  for (std::size_t psi = 0; psi < 2; ++psi) {
    auto some = all;
    for (std::size_t i = 0; i < some.size(); ++i) {
      some[i].assign((i == 0) == (psi == 1) ? some[i].size() : 0, 0.0);
    }
    made.back(some);
    for (std::size_t i = 0; i < some.size(); ++i) {
      check(some[i].empty() || some[i] == all[i], "a part of the gradients, alone");
    }
  }
}

// Of a unitary map the adjoint is the inverse.
void test_inverse() {
  test::Random<double> random(4);
  Case<double> made = any(Kind::brickwork, random);
  made.options.threads = 3;
  // Permutations with phases are unitary.
  const std::size_t size = 4 * made.shape.d_state;
  made.inputs[1].assign(4 * size * size, 0.0);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t j = (i + 1 + layer) % size;
      made.inputs[1][2 * ((layer * size + i) * size + j)] = 0.6;
      made.inputs[1][2 * ((layer * size + i) * size + j) + 1] = i % 2 == 0 ? 0.8 : -0.8;
    }
  }
  std::vector<double> scales;
  const auto next = made.step(scales);
  std::vector<double> before(next.size());
  brickwork_vjp<double>(made.inputs[1].data(), made.shape, made.options, nullptr, next.data(),
                        {before.data(), nullptr});
  for (std::size_t i = 0; i < before.size(); ++i) {
    check_close(before[i], made.inputs[0][i], 1e-13, "the step, taken back");
  }
}

}  // namespace

int main() {
  for (const Kind kind : {Kind::mlp, Kind::conv, Kind::brickwork}) {
    for (const Isa isa : test::isas()) {
      for (unsigned seed = 0; seed < 60; ++seed) {
        test_differences(kind, seed, isa);
      }
    }
    for (unsigned seed = 0; seed < 10; ++seed) {
      test_threads<float>(kind, seed);
      test_threads<double>(kind, seed);
    }
    test_parts(kind);
  }
  test_inverse();
}
