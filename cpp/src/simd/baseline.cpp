#define ATHERIA_VECTOR_BYTES 16
#include "table.hpp"
#include "tables.hpp"

namespace atheria {

constinit const Kernels<float> baseline_float = table<float>();
constinit const Kernels<double> baseline_double = table<double>();

}  // namespace atheria
