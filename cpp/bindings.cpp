// The one place where C++ meets Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <span>
#include <string>

#include "atheria/cpu.hpp"
#include "atheria/philox.hpp"

namespace py = pybind11;

namespace {

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

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Compiled kernels of atheria_lab; use them through atheria_lab.native.";
  module.attr("version") = ATHERIA_VERSION;
  module.def("isa", [] { return std::string(atheria::name(atheria::best_isa())); },
             "The instruction set that the kernels use on this processor.");
  module.def("uniform", &uniform, py::arg("cells"), py::arg("d_state"), py::arg("seed"),
             py::arg("step"), py::arg("stream"),
             "Uniform numbers [cells, d_state] in [0, 1), the same as atheria_lab.noise.uniform.");
}
