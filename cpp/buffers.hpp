// Buffers from Python, checked before a pointer is taken from them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace atheria {

namespace py = pybind11;

// How the buffer protocol names a type.
template <class R>
struct Format;
template <>
struct Format<float> {
  static constexpr const char* real = "f";
  static constexpr const char* complex = "Zf";
  static constexpr const char* real_name = "float32";
  static constexpr const char* complex_name = "complex64";
};
template <>
struct Format<double> {
  static constexpr const char* real = "d";
  static constexpr const char* complex = "Zd";
  static constexpr const char* real_name = "float64";
  static constexpr const char* complex_name = "complex128";
};

inline std::string shape_text(const std::vector<py::ssize_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

// Contiguous numbers of one type, held as long as this lives. Complex numbers are pairs of R.
template <class R>
class Numbers {
 public:
  Numbers(const std::string& name, const py::handle& object, bool complex, bool writable)
      : name_(name) {
    if (PyObject_CheckBuffer(object.ptr()) == 0) {
      throw py::type_error(name + ": got " + type_name(object) + "; it takes an array.");
    }
    try {
      info_ = py::reinterpret_borrow<py::buffer>(object).request(writable);
    } catch (py::error_already_set& error) {
      throw py::value_error(name + ": " + std::string(py::str(error.value())) + ".");
    }
    const char* format = complex ? Format<R>::complex : Format<R>::real;
    if (info_.format != format) {
      throw py::type_error(name + ": got numbers of format '" + info_.format + "'; it takes " +
                           (complex ? Format<R>::complex_name : Format<R>::real_name) + ".");
    }
    py::ssize_t stride = info_.itemsize;
    for (std::size_t i = info_.shape.size(); i-- > 0;) {
      if (info_.shape[i] < 1) {
        throw py::value_error(name + ": got shape " + shape_text(info_.shape) +
                              "; it takes sides of at least 1.");
      }
      if (info_.shape[i] > 1 && info_.strides[i] != stride) {
        throw py::value_error(name + ": got strides " + shape_text(info_.strides) +
                              " in bytes; it takes contiguous numbers.");
      }
      stride *= info_.shape[i];
    }
    if (reinterpret_cast<std::uintptr_t>(info_.ptr) % alignof(R) != 0) {
      throw py::value_error(name + ": its memory is not aligned to " +
                            std::to_string(alignof(R)) + " bytes.");
    }
  }

  void expect(const std::vector<py::ssize_t>& shape) const {
    if (info_.shape != shape) {
      throw py::value_error(name_ + ": got shape " + shape_text(info_.shape) + "; it takes " +
                            shape_text(shape) + ".");
    }
  }

  // Two writable buffers must not share memory.
  void expect_apart(const Numbers& other) const {
    const std::less<const char*> before;
    if (before(begin(), other.end()) && before(other.begin(), end())) {
      throw py::value_error(name_ + ": it shares memory with " + other.name_ + ".");
    }
  }

  [[nodiscard]] R* data() const noexcept { return static_cast<R*>(info_.ptr); }
  [[nodiscard]] const std::vector<py::ssize_t>& shape() const noexcept { return info_.shape; }

 private:
  static std::string type_name(const py::handle& object) {
    return py::str(py::type::handle_of(object).attr("__name__"));
  }
  [[nodiscard]] const char* begin() const noexcept { return static_cast<const char*>(info_.ptr); }
  [[nodiscard]] const char* end() const noexcept { return begin() + info_.size * info_.itemsize; }

  std::string name_;
  py::buffer_info info_;
};

}  // namespace atheria
