// A step's vector-Jacobian product against central differences; the same bits for any threads.
#include <memory>

#include "atheria/vjp.hpp"
#include "check.hpp"

namespace {

using namespace atheria;
using test::check;
using test::check_close;

// Everything that a step is a function of, in double precision or in single.
template <class R>
struct Case {
  Shape shape{};
  std::size_t hidden = 0;
  Activation activation{};
  Options options;
  // psi, inner, its bias, outer, its bias.
  std::vector<std::vector<R>> inputs;
  std::vector<R> gradient;

  [[nodiscard]] NetworkWeights<R> weights() const {
    return {inputs[1].data(), inputs[2].data(), inputs[3].data(),
            inputs[4].data(), hidden,           activation};
  }

  std::vector<R> step(std::vector<R>& scales) const {
    std::vector<R> next(shape.size());
    scales.assign(shape.batch, R(0));
    step_once<R>(*make_mlp(weights(), shape, options), shape, options, inputs[0].data(),
                 next.data(), scales.data());
    return next;
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
    std::vector<R> scales;
    const std::vector<R> next = step(scales);
    std::vector<std::vector<R>> out;
    for (const auto& input : inputs) {
      out.emplace_back(input.size(), std::numeric_limits<R>::quiet_NaN());
    }
    mlp_vjp<R>(weights(), shape, options,
               {inputs[0].data(), next.data(), scales.data(), gradient.data()},
               {out[0].data(), out[1].data(), out[2].data(), out[3].data(), out[4].data()});
    return out;
  }
};

template <class R>
Case<R> any(test::Random<R>& random) {
  Case<R> made;
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
  const std::size_t channels = made.shape.channels();
  made.inputs = {random.numbers(made.shape.size()), random.numbers(made.hidden * channels),
                 random.numbers(made.hidden), random.numbers(channels * made.hidden),
                 random.numbers(channels)};
  made.gradient = random.numbers(made.shape.size());
  return made;
}

void test_differences(unsigned seed, Isa isa) {
  test::Random<double> random(seed);
  Case<double> made = any(random);
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
void test_threads(unsigned seed) {
  test::Random<R> random(seed);
  Case<R> made = any(random);
  made.shape.height = 40;  // more than one part
  made.inputs[0] = random.numbers(made.shape.size());
  made.gradient = random.numbers(made.shape.size());
  const auto one = made.back();
  for (std::size_t threads = 2; threads <= 4; ++threads) {
    made.options.threads = threads;
    check(made.back() == one, "as many threads, the same bits");
  }
}

// What is not asked for is not touched, and the rest is as it was.
void test_parts() {
  test::Random<double> random(3);
  const Case<double> made = any(random);
  const auto all = made.back();
  std::vector<double> scales;
  const auto next = made.step(scales);
  const StepRecord<double> record{made.inputs[0].data(), next.data(), scales.data(),
                                  made.gradient.data()};
  std::vector<double> psi(made.shape.size());
  mlp_vjp<double>(made.weights(), made.shape, made.options, record,
                  {psi.data(), nullptr, nullptr, nullptr, nullptr});
  check(psi == all[0], "psi's gradient alone");
  auto rest = all;
  for (std::size_t i = 1; i < rest.size(); ++i) {
    rest[i].assign(rest[i].size(), 0.0);
  }
  mlp_vjp<double>(made.weights(), made.shape, made.options, record,
                  {nullptr, rest[1].data(), rest[2].data(), rest[3].data(), rest[4].data()});
  check(rest == all, "the weights' gradients alone");
}

}  // namespace

int main() {
  for (const Isa isa : test::isas()) {
    for (unsigned seed = 0; seed < 60; ++seed) {
      test_differences(seed, isa);
    }
  }
  for (unsigned seed = 0; seed < 10; ++seed) {
    test_threads<float>(seed);
    test_threads<double>(seed);
  }
  test_parts();
}
