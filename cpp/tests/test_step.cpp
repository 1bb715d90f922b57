// Whole steps against the plain version: random shapes, norms, noise, threads, saved states,
// and a call that is stopped.
#include <algorithm>
#include <memory>

#include "check.hpp"
#include "reference.hpp"

namespace {

using namespace atheria;
using test::check;
using test::check_close;
using test::kEpsilon;

enum class Kind { mlp, conv, brickwork };

const Pulse kGoOn = [](std::uint64_t) { return true; };

template <class R>
struct Case {
  Kind kind;
  Shape shape;
  std::size_t hidden;
  Activation activation;
  std::vector<R> inner, inner_bias, outer, outer_bias, unitaries, psi;

  Case(Kind k, test::Random<R>& random) : kind(k) {
    shape = {random.whole(1, 2), random.whole(1, 9), random.whole(1, 70), random.whole(1, 6)};
    if (kind == Kind::brickwork) {
      shape.height *= 2;
      shape.width += shape.width % 2;
    }
    hidden = random.whole(1, 40);
    activation = static_cast<Activation>(random.whole(0, 3));
    inner = random.numbers(hidden * shape.channels() * (kind == Kind::conv ? 9 : 1));
    inner_bias = random.numbers(hidden);
    outer = random.numbers(hidden * shape.channels());
    outer_bias = random.numbers(shape.channels());
    unitaries = random.numbers(64 * shape.d_state * shape.d_state);
    psi = random.numbers(shape.size());
  }

  [[nodiscard]] NetworkWeights<R> weights() const {
    return {inner.data(), inner_bias.data(), outer.data(), outer_bias.data(), hidden, activation};
  }

  [[nodiscard]] std::unique_ptr<PackedLaw<R>> packed(const Options& options) const {
    switch (kind) {
      case Kind::mlp: return make_mlp(weights(), shape, options);
      case Kind::conv: return make_conv(weights(), shape, options);
      case Kind::brickwork: break;
    }
    return make_brickwork(unitaries.data(), shape, options);
  }

  std::uint64_t step(const Options& options, std::vector<R>& state, std::vector<R>& saves,
                     const Pulse& pulse = kGoOn) const {
    std::vector<R> spare(shape.size(), std::numeric_limits<R>::quiet_NaN());
    return run<R>(*packed(options), shape, options, state.data(), spare.data(), saves.data(),
                  pulse);
  }

  [[nodiscard]] test::State exact_step(const Options& options) const {
    test::State state(shape.size() / 2);
    for (std::size_t i = 0; i < state.size(); ++i) {
      state[i] = {static_cast<double>(psi[2 * i]), static_cast<double>(psi[2 * i + 1])};
    }
    state = kind == Kind::brickwork
                ? test::brickwork_update(unitaries.data(), shape, state)
                : test::network_update(weights(), shape, state, options.keep,
                                       kind == Kind::conv ? 1 : 0);
    test::normalise(shape, options.norm, state);
    test::turn(shape, options, options.first_step, state);
    return state;
  }
};

template <class R>
Options some_options(Kind kind, Isa isa, test::Random<R>& random) {
  Options options;
  options.isa = isa;
  options.keep = 0.9;
  options.norm = kind == Kind::brickwork ? Norm::none : static_cast<Norm>(random.whole(0, 2));
  options.phase = random.whole(0, 1) == 0 ? 0.0 : 0.5;
  options.sign = random.whole(0, 1) == 0 ? 0.0 : 0.3;
  options.seed = random.whole(0, 1000);
  options.first_step = random.whole(0, 1000);
  return options;
}

template <class R>
void against_the_plain_version(Kind kind, Isa isa) {
  test::Random<R> random(7);
  std::vector<R> none;
  for (int trial = 0; trial < 25; ++trial) {
    const Case<R> that(kind, random);
    Options options = some_options(kind, isa, random);
    const test::State exact = that.exact_step(options);
    double largest = 0;
    for (const std::complex<double>& z : exact) {
      largest = std::max(largest, std::abs(z));
    }
    for (options.threads = 1; options.threads <= 3; options.threads += 2) {
      std::vector<R> state = that.psi;
      check(that.step(options, state, none) == 1, "one step is one step");
      for (std::size_t i = 0; i < exact.size(); ++i) {
        const double tolerance = 60 * kEpsilon<R> * largest;
        check_close<R>(state[2 * i], static_cast<R>(exact[i].real()), tolerance, "step, real");
        check_close<R>(state[2 * i + 1], static_cast<R>(exact[i].imag()), tolerance,
                       "step, imaginary");
      }
    }
  }
}

template <class R>
void the_same_bits(Kind kind, Isa isa) {
  test::Random<R> random(11);
  for (int trial = 0; trial < 10; ++trial) {
    const Case<R> that(kind, random);
    Options options = some_options(kind, isa, random);
    options.steps = 7;
    options.save_every = 3;
    std::vector<R> first;
    std::vector<R> first_saves;
    for (options.threads = 1; options.threads <= 4; ++options.threads) {
      std::vector<R> state = that.psi;
      std::vector<R> saves(2 * that.shape.size());
      check(that.step(options, state, saves) == 7, "seven steps");
      if (options.threads == 1) {
        first = state;
        first_saves = saves;
      }
      check(std::equal(state.begin(), state.end(), first.begin()), "bits whatever the threads");
      check(saves == first_saves, "saved bits whatever the threads");
    }
    // The same in pieces, each of which ends in memory.
    std::vector<R> state = that.psi;
    std::vector<R> none;
    Options piece = options;
    piece.threads = 2;
    piece.save_every = 0;
    for (const std::uint64_t steps : {3U, 3U, 1U}) {
      piece.steps = steps;
      that.step(piece, state, none);
      piece.first_step += steps;
      if (piece.first_step == options.first_step + 6) {
        check(std::equal(state.begin(), state.end(),
                         first_saves.begin() + static_cast<std::ptrdiff_t>(state.size())),
              "a saved state is the state");
      }
    }
    check(state == first, "bits however the steps are divided");
  }
}

template <class R>
void stopped(Kind kind, Isa isa) {
  test::Random<R> random(13);
  Case<R> that(kind, random);
  Options options = some_options(kind, isa, random);
  // A long call must neither overflow nor fade away.
  options.norm = kind == Kind::brickwork ? Norm::none : Norm::lattice;
  const std::size_t size = 4 * that.shape.d_state;
  for (std::size_t i = 0; i < that.unitaries.size(); ++i) {
    that.unitaries[i] = i / 2 % size == i / 2 / size % size && i % 2 == 1 ? R(1) : R(0);
  }
  options.threads = 2;
  options.steps = 1'000'000'000;
  std::vector<R> none;
  std::vector<R> state = that.psi;
  int pulses = 0;
  const std::uint64_t done =
      that.step(options, state, none, [&](std::uint64_t) { return ++pulses < 2; });
  check(pulses == 2 && done > 0 && done < options.steps, "the pulse stops a call");
  options.steps = done;
  std::vector<R> again = that.psi;
  check(that.step(options, again, none) == done, "all steps");
  check(state == again, "a stopped call leaves the state after its whole steps");
}

template <class R>
void all(Isa isa) {
  for (const Kind kind : {Kind::mlp, Kind::conv, Kind::brickwork}) {
    against_the_plain_version<R>(kind, isa);
    the_same_bits<R>(kind, isa);
    stopped<R>(kind, isa);
  }
}

}  // namespace

int main() {
  for (const Isa isa : test::isas()) {
    all<float>(isa);
    all<double>(isa);
    std::printf("steps, %s: ok\n", std::string(name(isa)).c_str());
  }
}
