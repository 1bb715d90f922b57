// The one place where C++ meets Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "atheria/cpu.hpp"
#include "atheria/laws.hpp"
#include "atheria/philox.hpp"
#include "atheria/team.hpp"
#include "atheria/vjp.hpp"
#include "buffers.hpp"

namespace py = pybind11;

namespace {

using atheria::Numbers;

constexpr std::size_t kMostThreads = 1024;

py::array_t<double> uniform(std::uint64_t cells, std::uint32_t d_state, std::uint64_t seed,
                            std::uint64_t step, std::uint32_t stream) {
  py::array_t<double> out({static_cast<py::ssize_t>(cells), static_cast<py::ssize_t>(d_state)});
  double* data = out.mutable_data();
  const py::gil_scoped_release unlocked;
  for (std::uint64_t cell = 0; cell < cells; ++cell) {
    atheria::uniform_cell(seed, step, stream, cell, std::span(data + cell * d_state, d_state));
  }
  return out;
}

// Floating-point operations a second of one thread, with numbers in registers.
double peak(bool double_precision, std::size_t rounds) {
  const py::gil_scoped_release unlocked;
  const auto isa = atheria::best_isa();
  const auto start = std::chrono::steady_clock::now();
  double operations = 0.0;
  if (double_precision) {
    double number = 0.5;
    operations = atheria::kernels<double>(isa).peak(rounds, &number);
  } else {
    float number = 0.5F;
    operations = atheria::kernels<float>(isa).peak(rounds, &number);
  }
  return operations / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class T>
T choose(const char* what, const std::map<std::string, T>& names, const std::string& name) {
  const auto found = names.find(name);
  if (found != names.end()) {
    return found->second;
  }
  std::string known;
  for (const auto& [key, value] : names) {
    known += (known.empty() ? "'" : ", '") + key + "'";
  }
  throw py::value_error(std::string(what) + ": got '" + name + "'; it takes one of " + known +
                        ".");
}

atheria::Isa isa_named(const std::optional<std::string>& name) {
  if (!name) {
    return atheria::best_isa();
  }
  std::map<std::string, atheria::Isa> supported;
  for (const auto isa : {atheria::Isa::baseline, atheria::Isa::avx2, atheria::Isa::avx512}) {
    if (atheria::supported(isa)) {
      supported.emplace(atheria::name(isa), isa);
    }
  }
  return choose("isa", supported, *name);
}

// Asks Python now and then whether to go on. What Python raises is kept for the end of the call.
class Interruption {
 public:
  explicit Interruption(py::object progress) : progress_(std::move(progress)) {}

  bool operator()(std::uint64_t done) {
    const py::gil_scoped_acquire locked;
    try {
      if (PyErr_CheckSignals() != 0) {
        throw py::error_already_set();
      }
      if (!progress_.is_none()) {
        progress_(done);
      }
    } catch (py::error_already_set& error) {
      error_ = error.value();
      return false;
    }
    return true;
  }

  [[nodiscard]] py::object error() const { return error_; }

 private:
  py::object progress_;
  py::object error_ = py::none();
};

// The weights of an MLP or a Conv, checked; they are held as long as this lives.
template <class R>
class Network {
 public:
  Network(const py::sequence& weights, const std::string& activation, std::size_t d_state, bool conv)
      : activation_(choose<atheria::Activation>("activation",
                                                {{"silu", atheria::Activation::silu},
                                                 {"relu", atheria::Activation::relu},
                                                 {"gelu", atheria::Activation::gelu},
                                                 {"tanh", atheria::Activation::tanh}},
                                                activation)) {
    if (weights.size() != 4) {
      throw py::value_error("weights: it takes four arrays: inner, its bias, outer, its bias.");
    }
    const auto channels = static_cast<py::ssize_t>(2 * d_state);
    const auto take = [&](std::size_t i, const char* name) -> const Numbers<R>& {
      return numbers_.emplace_back(name, py::object(weights[i]), false, false);
    };
    numbers_.reserve(4);
    const py::ssize_t hidden = hidden_of(take(0, "inner.weight"));
    hidden_ = static_cast<std::size_t>(hidden);
    take(1, "inner.bias").expect({hidden});
    if (conv) {
      numbers_[0].expect({hidden, channels, 3, 3});
      take(2, "outer.weight").expect({channels, hidden, 1, 1});
    } else {
      numbers_[0].expect({hidden, channels});
      take(2, "outer.weight").expect({channels, hidden});
    }
    take(3, "outer.bias").expect({channels});
  }

  [[nodiscard]] atheria::NetworkWeights<R> weights() const noexcept {
    return {numbers_[0].data(), numbers_[1].data(), numbers_[2].data(),
            numbers_[3].data(), hidden_,            activation_};
  }
  // Of weight i.
  [[nodiscard]] const std::vector<py::ssize_t>& shape(std::size_t i) const noexcept {
    return numbers_[i].shape();
  }

 private:
  static py::ssize_t hidden_of(const Numbers<R>& inner) {
    return inner.shape().empty() ? 0 : inner.shape()[0];
  }

  atheria::Activation activation_;
  std::vector<Numbers<R>> numbers_;
  std::size_t hidden_ = 0;
};

bool is_conv(const std::string& law) {
  return choose<bool>("law", {{"Brickwork", false}, {"Conv", true}, {"MLP", false}}, law);
}

// A Brickwork's weights, checked, for a lattice that it can step.
template <class R>
Numbers<R> take_unitaries(const py::sequence& weights, const atheria::Shape& shape) {
  if (weights.size() != 1) {
    throw py::value_error("weights: Brickwork takes its unitaries, one array.");
  }
  if (shape.height % 2 != 0 || shape.width % 2 != 0) {
    throw py::value_error("psi: got a lattice of " + std::to_string(shape.height) + "x" +
                          std::to_string(shape.width) + " cells; Brickwork takes even sides.");
  }
  Numbers<R> unitaries("unitaries", py::object(weights[0]), true, false);
  const auto size = static_cast<py::ssize_t>(4 * shape.d_state);
  unitaries.expect({2, size, size});
  return unitaries;
}

template <class R>
std::unique_ptr<atheria::PackedLaw<R>> pack(const std::string& law, const py::sequence& weights,
                                            const std::string& activation,
                                            const atheria::Shape& shape,
                                            const atheria::Options& options) {
  const bool conv = is_conv(law);
  if (law == "Brickwork") {
    return atheria::make_brickwork<R>(take_unitaries<R>(weights, shape).data(), shape, options);
  }
  const Network<R> network(weights, activation, shape.d_state, conv);
  return conv ? atheria::make_conv<R>(network.weights(), shape, options)
              : atheria::make_mlp<R>(network.weights(), shape, options);
}

template <class R>
atheria::Shape shape_of(const Numbers<R>& psi) {
  if (psi.shape().size() != 4) {
    throw py::value_error("psi: got shape " + atheria::shape_text(psi.shape()) +
                          "; it takes [batch, height, width, d_state].");
  }
  const auto side = [&](std::size_t i) { return static_cast<std::size_t>(psi.shape()[i]); };
  return {side(0), side(1), side(2), side(3)};
}

bool is_double(const py::object& psi) {
  return PyObject_CheckBuffer(psi.ptr()) != 0 &&
         py::reinterpret_borrow<py::buffer>(psi).request().format ==
             atheria::Format<double>::complex;
}

template <class R>
py::tuple step_as(const std::string& law, const py::sequence& weights,
                  const std::string& activation, const py::object& psi, const py::object& spare,
                  const py::object& saves, const atheria::Options& options,
                  py::object progress) {
  const Numbers<R> state("psi", psi, true, true);
  const Numbers<R> other("spare", spare, true, true);
  const atheria::Shape shape = shape_of(state);
  other.expect(state.shape());
  state.expect_apart(other);

  std::optional<Numbers<R>> saved;
  if (options.save_every > 0 && options.save_every <= options.steps) {
    saved.emplace("out", saves, true, true);
    std::vector<py::ssize_t> expected = state.shape();
    expected.insert(expected.begin(),
                    static_cast<py::ssize_t>(options.steps / options.save_every));
    saved->expect(expected);
    saved->expect_apart(state);
    saved->expect_apart(other);
  }

  const auto packed = pack<R>(law, weights, activation, shape, options);
  Interruption interruption(std::move(progress));
  std::uint64_t done = 0;
  {
    const py::gil_scoped_release unlocked;
    done = atheria::run<R>(*packed, shape, options, state.data(), other.data(),
                           saved ? saved->data() : nullptr, std::ref(interruption));
  }
  return py::make_tuple(done, interruption.error());
}

atheria::Options options_of(const std::string& law, double gamma, const std::string& norm,
                            double phase, double sign, std::uint64_t seed, std::uint64_t step,
                            std::size_t threads, const std::optional<std::string>& isa) {
  atheria::Options options;
  options.keep = 1.0 - gamma;
  options.norm = choose<atheria::Norm>("norm",
                                       {{"lattice", atheria::Norm::lattice},
                                        {"cell", atheria::Norm::cell},
                                        {"none", atheria::Norm::none}},
                                       norm);
  options.phase = phase;
  options.sign = sign;
  options.seed = seed;
  options.first_step = step;
  options.threads = threads;
  options.isa = isa_named(isa);
  const auto expect = [](bool holds, const char* message) {
    if (!holds) {
      throw py::value_error(message);
    }
  };
  expect(gamma >= 0 && gamma <= 1, "gamma: it takes a number from 0 to 1.");
  expect(phase >= 0 && phase <= 4, "phase: it takes radians from 0 to pi.");
  expect(sign >= 0 && sign <= 1, "sign: it takes a probability.");
  expect(threads >= 1 && threads <= kMostThreads, "threads: it takes 1 to 1024.");
  expect(law != "Brickwork" || options.norm == atheria::Norm::none,
         "norm: Brickwork keeps the norm by itself; it takes 'none'.");
  return options;
}

template <class R>
void step_once_as(const std::string& law, const py::sequence& weights,
                  const std::string& activation, const py::object& psi, const py::object& next,
                  const py::object& scales, const atheria::Options& options) {
  const Numbers<R> state("psi", psi, true, false);
  const atheria::Shape shape = shape_of(state);
  const Numbers<R> out("next", next, true, true);
  out.expect(state.shape());
  out.expect_apart(state);
  const Numbers<R> scale("scales", scales, false, true);
  scale.expect({state.shape()[0]});
  const auto packed = pack<R>(law, weights, activation, shape, options);
  const py::gil_scoped_release unlocked;
  atheria::step_once<R>(*packed, shape, options, state.data(), out.data(), scale.data());
}

void step_once(const std::string& law, const py::sequence& weights, const std::string& activation,
               const py::object& psi, const py::object& next, const py::object& scales,
               double gamma, const std::string& norm, double phase, double sign,
               std::uint64_t seed, std::uint64_t step, std::size_t threads,
               const std::optional<std::string>& isa) {
  const auto options = options_of(law, gamma, norm, phase, sign, seed, step, threads, isa);
  (is_double(psi) ? step_once_as<double> : step_once_as<float>)(law, weights, activation, psi,
                                                                next, scales, options);
}

// Where gradients go: held, of the shapes of what they belong to, apart from all that is read.
template <class R>
class Outputs {
 public:
  R* take(const char* name, const py::object& array, bool complex,
          const std::vector<py::ssize_t>& expected) {
    held_.emplace_back(name, array, complex, true).expect(expected);
    return held_.back().data();
  }

  void expect_apart(std::initializer_list<const Numbers<R>*> read) const {
    for (std::size_t i = 0; i < held_.size(); ++i) {
      for (const auto* other : read) {
        held_[i].expect_apart(*other);
      }
      for (std::size_t j = 0; j < i; ++j) {
        held_[i].expect_apart(held_[j]);
      }
    }
  }

 private:
  std::deque<Numbers<R>> held_;
};

void expect_gradients(const py::sequence& gradients, std::size_t count) {
  if (gradients.size() != 0 && gradients.size() != count) {
    throw py::value_error("weight_gradients: it takes none, or an array for each weight (" +
                          std::to_string(count) + ").");
  }
}

template <class R>
void vjp_as(const std::string& law, const py::sequence& weights, const std::string& activation,
            const py::object& psi, const py::object& next, const py::object& scales,
            const py::object& gradient, const py::object& psi_gradient,
            const py::sequence& weight_gradients, const atheria::Options& options) {
  const Numbers<R> state("psi", psi, true, false);
  const atheria::Shape shape = shape_of(state);
  const Numbers<R> given("gradient", gradient, true, false);
  given.expect(state.shape());
  Outputs<R> outputs;
  R* const of_psi = psi_gradient.is_none()
                        ? nullptr
                        : outputs.take("psi_gradient", psi_gradient, true, state.shape());
  const auto weight_gradient = [&](std::size_t i, bool complex,
                                   const std::vector<py::ssize_t>& expected) {
    return outputs.take("weight_gradients", py::object(weight_gradients[i]), complex, expected);
  };
  if (law == "Brickwork") {
    const Numbers<R> unitaries = take_unitaries<R>(weights, shape);
    atheria::UnitaryGradients<R> out{of_psi, nullptr};
    expect_gradients(weight_gradients, 1);
    if (weight_gradients.size() != 0) {
      out.unitaries = weight_gradient(0, true, unitaries.shape());
    }
    outputs.expect_apart({&state, &given, &unitaries});
    const py::gil_scoped_release unlocked;
    atheria::brickwork_vjp<R>(unitaries.data(), shape, options, state.data(), given.data(), out);
    return;
  }
  const Network<R> network(weights, activation, shape.d_state, is_conv(law));
  const Numbers<R> after("next", next, true, false);
  const Numbers<R> scale("scales", scales, false, false);
  after.expect(state.shape());
  scale.expect({state.shape()[0]});
  atheria::NetworkGradients<R> out{};
  out.psi = of_psi;
  expect_gradients(weight_gradients, 4);
  if (weight_gradients.size() != 0) {
    out.inner = weight_gradient(0, false, network.shape(0));
    out.inner_bias = weight_gradient(1, false, network.shape(1));
    out.outer = weight_gradient(2, false, network.shape(2));
    out.outer_bias = weight_gradient(3, false, network.shape(3));
  }
  outputs.expect_apart({&state, &after, &given});
  const py::gil_scoped_release unlocked;
  (is_conv(law) ? atheria::conv_vjp<R> : atheria::mlp_vjp<R>)(
      network.weights(), shape, options,
      {state.data(), after.data(), scale.data(), given.data()}, out);
}

void vjp(const std::string& law, const py::sequence& weights, const std::string& activation,
         const py::object& psi, const py::object& next, const py::object& scales,
         const py::object& gradient, const py::object& psi_gradient,
         const py::sequence& weight_gradients, double gamma, const std::string& norm, double phase,
         double sign, std::uint64_t seed, std::uint64_t step, std::size_t threads,
         const std::optional<std::string>& isa) {
  const auto options = options_of(law, gamma, norm, phase, sign, seed, step, threads, isa);
  (is_double(psi) ? vjp_as<double> : vjp_as<float>)(law, weights, activation, psi, next, scales,
                                                    gradient, psi_gradient, weight_gradients,
                                                    options);
}

py::tuple step(const std::string& law, const py::sequence& weights, const std::string& activation,
               const py::object& psi, const py::object& spare, const py::object& saves,
               double gamma, const std::string& norm, double phase, double sign,
               std::uint64_t seed, std::uint64_t first_step, std::uint64_t steps,
               std::uint64_t save_every, std::size_t threads,
               const std::optional<std::string>& isa, py::object progress) {
  atheria::Options options =
      options_of(law, gamma, norm, phase, sign, seed, first_step, threads, isa);
  options.steps = steps;
  options.save_every = save_every;
  if (steps < 1) {
    throw py::value_error("steps: it takes at least 1.");
  }
  if (is_double(psi)) {
    return step_as<double>(law, weights, activation, psi, spare, saves, options,
                           std::move(progress));
  }
  return step_as<float>(law, weights, activation, psi, spare, saves, options,
                        std::move(progress));
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Compiled kernels of atheria_lab; use them through atheria_lab.native.";
  module.attr("version") = ATHERIA_VERSION;
  module.def("isa", [] { return std::string(atheria::name(atheria::best_isa())); },
             "The instruction set that the kernels use on this processor.");
  module.def("uniform", &uniform, py::arg("cells"), py::arg("d_state"), py::arg("seed"),
             py::arg("step"), py::arg("stream"),
             "Uniform numbers [cells, d_state] in [0, 1), the same as atheria_lab.noise.uniform.");
  module.def("peak", &peak, py::arg("double_precision"), py::arg("rounds"),
             "Measures the floating-point operations a second that one thread can do.");
  module.def("lend_threads", [](std::uintptr_t region) {
    atheria::lend_region(reinterpret_cast<atheria::Region>(region));
  }, py::arg("region"), "Lets single steps run on the threads of a pool: the address of its "
     "GOMP_parallel; 0 takes it back.");
  module.def("step", &step, py::kw_only(), py::arg("law"), py::arg("weights"),
             py::arg("activation"), py::arg("psi"), py::arg("spare"), py::arg("saves"),
             py::arg("gamma"), py::arg("norm"), py::arg("phase"), py::arg("sign"),
             py::arg("seed"), py::arg("first_step"), py::arg("steps"), py::arg("save_every"),
             py::arg("threads"), py::arg("isa"), py::arg("progress"),
             "Steps psi in place; returns (whole steps done, what Python raised meanwhile).");
  module.def("step_once", &step_once, py::kw_only(), py::arg("law"), py::arg("weights"),
             py::arg("activation"), py::arg("psi"), py::arg("next"), py::arg("scales"),
             py::arg("gamma"), py::arg("norm"), py::arg("phase"), py::arg("sign"),
             py::arg("seed"), py::arg("step"), py::arg("threads"), py::arg("isa"),
             "Writes the state after one step, and what the norm multiplied each lattice by.");
  module.def("vjp", &vjp, py::kw_only(), py::arg("law"), py::arg("weights"),
             py::arg("activation"), py::arg("psi"), py::arg("next"), py::arg("scales"),
             py::arg("gradient"), py::arg("psi_gradient"), py::arg("weight_gradients"),
             py::arg("gamma"), py::arg("norm"), py::arg("phase"), py::arg("sign"),
             py::arg("seed"), py::arg("step"), py::arg("threads"), py::arg("isa"),
             "Writes the gradients of a step: of psi (or None), and of its weights (or []).");
}
